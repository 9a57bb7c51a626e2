#include "worker/bench/bench_progress.h"

#include <stdio.h>
#include <unistd.h>

#include "common/str.h"
#include "worker/bench/bench_time.h"

void bench_progress_start(struct bench_progress *p, const char *what)
{
    *p = (struct bench_progress){.terminal = isatty(2) != 0, .tenth = -1, .start = bench_time_now()};
    str_copy(p->what, sizeof p->what, what);
}

void bench_progress_show(struct bench_progress *p, const char *note, double done, double total, double eta_s)
{
    double gone = bench_time_now() - p->start, share = total > 0 ? done / total : 0;
    char eta[40] = "";
    if (gone < 1 && eta_s < 1)
        return;
    if (eta_s < 0 && share > 0.01)
        eta_s = gone / share - gone;
    if (eta_s >= 0)
        str_format(eta, sizeof eta, "  ETA %.0f s", eta_s);
    if (!p->terminal && (int)(share * 10) <= p->tenth)
        return;
    p->tenth = (int)(share * 10);
    p->shown = true;
    fprintf(stderr, "%s%s %.0f %%  %.1f s%s  %s%s", p->terminal ? "\r\033[K" : "", p->what, share * 100, gone, eta, note,
            p->terminal ? "" : "\n");
    fflush(stderr);
}

void bench_progress_end(struct bench_progress *p)
{
    if (p->shown && p->terminal)
        fprintf(stderr, "\r\033[K");
}
