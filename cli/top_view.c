/* top_view.c -- text passes through `line`, which cleans, cuts and colours. Inside a line the control characters 1 to 6
 * switch styles; since data is cleaned before it is put into a line, only this file can write them. */
#include "cli/top_view.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>

#include "cli/cli.h"
#include "cli/figures.h"
#include "common/clock.h"
#include "common/str.h"

#define NORMAL "\1"
#define BOLD "\2"
#define DIM "\3"
#define RED "\4"
#define GREEN "\5"
#define YELLOW "\6"

enum { LINE_MAX_BYTES = 2048, BAR_MAX = 24, FULL_ID_WIDTH = 118, NAME_BYTES = 64 };

struct page {
    struct buf *out;
    int width, left; /* columns; lines still to be had */
    bool colors;
};

/* ---- a line ---- */

/* The next character's length in bytes and its columns. */
static size_t character(const char *text, int *ret_columns)
{
    wchar_t c = 0;
    mbstate_t state = {0};
    size_t n = mbrtowc(&c, text, 8, &state);
    if (n == (size_t)-1 || n == (size_t)-2 || n == 0) {
        *ret_columns = 1;
        return 1;
    }
    int w = wcwidth(c);
    *ret_columns = w < 0 ? 1 : w;
    return n;
}

static void line(struct page *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void line(struct page *p, const char *fmt, ...)
{
    static const char *const styles[] = {"\033[0m", "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[33m"};
    char text[LINE_MAX_BYTES];
    int at = 0;
    va_list ap;
    if (p->left <= 0)
        return;
    p->left--;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    str_end_whole(text);
    for (const char *s = text; *s;) {
        int columns = 0;
        if (*s >= 1 && *s <= 6) {
            if (p->colors)
                buf_puts(p->out, styles[*s - 1]);
            s++;
            continue;
        }
        size_t n = character(s, &columns);
        if (at + columns > p->width)
            break;
        at += columns;
        buf_add(p->out, s, n);
        s += n;
    }
    if (p->colors)
        buf_puts(p->out, styles[0]);
    buf_puts(p->out, "\n");
}

/* ---- the head ---- */

static void head(struct page *p, const struct top_data *d)
{
    char now[32], server[200], old[64], work[64], wait[100], run[100], paused[300];
    const json_t *s = d->stats, *hist = json_object_get(s, "hist");
    clock_format(now, sizeof now, clock_wall_ms());
    now[19] = 0;
    line(p, BOLD "troupe" NORMAL "  %s  " DIM "%s UTC", cli_clean(server, sizeof server, d->server), now + 11);
    if (d->problem)
        line(p, RED "%s", cli_clean(paused, sizeof paused, d->problem));
    line(p, BOLD "%lld" NORMAL " waiting  " BOLD "%lld" NORMAL " running  " BOLD "%lld" NORMAL " delayed  %s%lld" NORMAL
            " failed  " BOLD "%lld" NORMAL " workers",
         (long long)cli_int(s, "waiting"), (long long)cli_int(s, "running"), (long long)cli_int(s, "delayed"),
         cli_int(s, "dead") ? RED : BOLD, (long long)cli_int(s, "dead"), (long long)cli_int(s, "workers"));
    line(p, DIM "oldest" NORMAL " %s  " DIM "work" NORMAL " %s  " DIM "waits" NORMAL " %s  " DIM "runs" NORMAL " %s",
         figures_seconds(old, sizeof old, cli_num(s, "oldest_ms", 0) / 1000),
         figures_seconds(work, sizeof work, cli_num(s, "backlog_s", -1)),
         figures_spread(wait, sizeof wait, json_object_get(hist, "wait")),
         figures_spread(run, sizeof run, json_object_get(hist, "run")));
    if (*figures_paused(paused, sizeof paused, s))
        line(p, YELLOW "paused: %s", paused);
}

/* ---- sections: a title, rows, and how many were left away ---- */

/* Rows that a section gets: what it wants, at most share lines with title and blank line. */
static int rows_of(size_t wanted, int share)
{
    int most = share - 2;
    return wanted == 0 || most < 1 ? 0 : (int)wanted <= most ? (int)wanted : most;
}

static void bar(char *dst, size_t size, double share, int cells)
{
    int full = (int)(share * cells + 0.5);
    if (cells > (int)size - 3)
        cells = (int)size - 3;
    full = full < 0 ? 0 : full > cells ? cells : full;
    dst[0] = '[';
    memset(dst + 1, '#', (size_t)full);
    memset(dst + 1 + full, '-', (size_t)(cells - full));
    dst[cells + 1] = ']';
    dst[cells + 2] = 0;
}

static void levels(struct page *p, const json_t *s, int share)
{
    const json_t *list = json_object_get(s, "levels");
    int rows = rows_of(json_array_size(list), share);
    double most = 0;
    size_t i;
    json_t *one;
    char work[32], cells[BAR_MAX + 4];
    if (!rows)
        return;
    json_array_foreach(list, i, one) {
        double n = cli_num(one, "waiting", 0);
        most = n > most ? n : most;
    }
    line(p, "%s", "");
    line(p, DIM "LEVEL  WAITING  WORK");
    for (i = 0; i < (size_t)rows; i++) {
        one = json_array_get(list, i);
        bar(cells, sizeof cells, most > 0 ? cli_num(one, "waiting", 0) / most : 0, p->width > 60 ? BAR_MAX : 8);
        line(p, "%5lld  %7lld  %-14s %s", (long long)cli_int(one, "priority"), (long long)cli_int(one, "waiting"),
             figures_seconds(work, sizeof work, cli_num(one, "waiting_s", -1)), cells);
    }
}

/* All of an id where there is room; its end otherwise, for its beginning is the time. */
static const char *id_of(const struct page *p, const char *id, char *dst, size_t size)
{
    size_t n = strlen(id);
    cli_clean(dst, size, p->width >= FULL_ID_WIDTH || n <= 8 ? id : id + n - 8);
    return dst;
}

static void worker(struct page *p, const json_t *w)
{
    char name[NAME_BYTES], stage[32], id[48], eta[32], cells[BAR_MAX + 4], device[NAME_BYTES];
    const char *state = cli_text(w, "state"), *job = cli_text(w, "job");
    const char *style = strcmp(state, "busy") == 0 ? GREEN : strcmp(state, "idle") == 0 ? NORMAL : YELLOW;
    double total = cli_num(w, "total", 0);
    cli_clean(name, sizeof name, cli_text(w, "name"));
    cli_clean(device, sizeof device, cli_text(w, "device"));
    if (!job[0]) {
        line(p, "%-18.18s %s%-8s" NORMAL " " DIM "%s", name, style, state, device);
        return;
    }
    bar(cells, sizeof cells, total > 0 ? cli_num(w, "step", 0) / total : 0, p->width > 100 ? BAR_MAX : 10);
    line(p, "%-18.18s %s%-8s" NORMAL " %s  %-9.9s %s %lld/%lld  %s%s", name, style, state, id_of(p, job, id, sizeof id),
         cli_clean(stage, sizeof stage, cli_text(w, "stage")), cells, (long long)cli_int(w, "step"), (long long)total,
         figures_seconds(eta, sizeof eta, cli_num(w, "eta_s", -1)), cli_num(w, "eta_s", -1) >= 0 ? " left" : "");
}

static void workers(struct page *p, const json_t *list, int share)
{
    size_t n = json_array_size(list);
    int rows = rows_of(n, share);
    if (!rows)
        return;
    if ((size_t)rows < n)
        rows--; /* the last line says how many there are besides */
    line(p, "%s", "");
    line(p, DIM "WORKER             STATE    JOB AND STAGE");
    for (int i = 0; i < rows; i++)
        worker(p, json_array_get(list, (size_t)i));
    if ((size_t)rows < n)
        line(p, DIM "and %d more", (int)n - rows);
}

static void failures(struct page *p, const json_t *list, int share)
{
    int rows = rows_of(json_array_size(list), share);
    if (!rows)
        return;
    line(p, "%s", "");
    line(p, DIM "LAST FAILURES");
    for (int i = 0; i < rows; i++) {
        const json_t *job = json_array_get(list, (size_t)i);
        char when[32], id[48], code[24], why[400];
        str_copy(when, sizeof when, cli_text(job, "finished_at"));
        when[19] = 0;
        cli_clean(code, sizeof code, cli_text(job, "error_code"));
        cli_clean(why, sizeof why, cli_text(job, "error"));
        line(p, "%s %s  " RED "%-8s" NORMAL "  %s", strlen(when) > 11 ? when + 11 : "",
             id_of(p, cli_text(job, "id"), id, sizeof id), code, why);
    }
}

static int lines_wanted(const json_t *list)
{
    int n = (int)json_array_size(list);
    return n ? n + 2 : 0;
}

void top_view(const struct top_data *d, int width, int height, bool colors, struct buf *out)
{
    struct page p = {.out = out, .width = width, .left = height, .colors = colors};
    head(&p, d);
    int quarter = p.left / 4, for_levels = lines_wanted(json_object_get(d->stats, "levels"));
    int for_dead = lines_wanted(d->dead);
    if (quarter < 3) { /* a small window: the workers first */
        for_levels = for_dead = 0;
    } else {
        for_levels = for_levels < quarter ? for_levels : quarter;
        for_dead = for_dead < quarter ? for_dead : quarter;
    }
    levels(&p, d->stats, for_levels);
    workers(&p, d->workers, p.left - for_dead);
    failures(&p, d->dead, p.left);
}
