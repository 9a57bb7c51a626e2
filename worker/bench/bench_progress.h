/* bench_progress.h -- one line on stderr: what is being timed, how far, how long still. On a terminal it is drawn again in
 * place; elsewhere each tenth is a line. Nothing is shown before a second has passed. */
#ifndef WORKER_BENCH_BENCH_PROGRESS_H
#define WORKER_BENCH_BENCH_PROGRESS_H

#include <stdbool.h>

struct bench_progress {
    bool terminal, shown;
    int tenth;
    double start;
    char what[48];
};

void bench_progress_start(struct bench_progress *p, const char *what);
/* done of total; the time that is left follows from it where eta_s < 0. note: what is at work, or "". */
void bench_progress_show(struct bench_progress *p, const char *note, double done, double total, double eta_s);
void bench_progress_end(struct bench_progress *p);

#endif
