#include "cli/bar.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/str.h"

#define WIDTH 28

void bar_init(struct bar *b, bool off)
{
    *b = (struct bar){.off = off, .terminal = isatty(2) != 0, .start_us = clock_us()};
}

static void draw(const struct bar *b, const struct bar_state *s, double share)
{
    char cells[WIDTH + 1], eta[40] = "";
    int full = (int)(share * WIDTH + 0.5);
    memset(cells, '-', WIDTH);
    memset(cells, '#', (size_t)(full < 0 ? 0 : full > WIDTH ? WIDTH : full));
    cells[WIDTH] = 0;
    if (s->eta_s >= 0)
        str_format(eta, sizeof eta, s->position >= 0 ? "  starts in about %.0f s" : "  ETA %.0f s", s->eta_s);
    fprintf(stderr, "\r\033[K[%s] %-10s", cells, s->what);
    if (s->position >= 0)
        fprintf(stderr, " %lld before it", (long long)s->position);
    else if (s->total > 0)
        fprintf(stderr, " %lld/%lld", (long long)s->step, (long long)s->total);
    fprintf(stderr, "  %.1f s%s", (double)(clock_us() - b->start_us) / (double)CLOCK_S, eta);
    fflush(stderr);
}

void bar_show(struct bar *b, const struct bar_state *s)
{
    char now[64];
    double share = s->total > 0 ? (double)s->step / (double)s->total : 0;
    if (b->off)
        return;
    if (b->terminal) {
        draw(b, s, share);
        return;
    }
    str_format(now, sizeof now, "%s %d %lld", s->what, (int)(share * 10), (long long)s->position);
    if (strcmp(now, b->last) == 0)
        return;
    str_copy(b->last, sizeof b->last, now);
    if (s->position >= 0)
        fprintf(stderr, "%s, %lld before it\n", s->what, (long long)s->position);
    else if (s->total > 0)
        fprintf(stderr, "%s %lld/%lld%s\n", s->what, (long long)s->step, (long long)s->total, "");
    else
        fprintf(stderr, "%s\n", s->what);
}

void bar_end(struct bar *b, const char *word)
{
    if (b->off)
        return;
    fprintf(stderr, "%s%s after %.1f s\n", b->terminal ? "\r\033[K" : "", word,
            (double)(clock_us() - b->start_us) / (double)CLOCK_S);
}
