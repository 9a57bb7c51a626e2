/* bench_time.h -- how long a piece of work takes on a device: the median of repeats, and their spread.
 *
 *     struct bench_time t;
 *     rc = bench_time_calls(&run, &(struct bench_work){call, NULL, arg}, &(struct bench_limits){.samples = 9, .seconds =
 * 0.5}, &t);
 *
 * Ops on a device return before they are done, so a sample is some calls between two reads that wait for all before them;
 * short calls are put together until the wait weighs little. The first call is not counted: weights are packed and
 * algorithms chosen. What the work takes from the arena is given back after each call.
 */
#ifndef WORKER_BENCH_BENCH_TIME_H
#define WORKER_BENCH_BENCH_TIME_H

#include "kernels/run.h"

struct bench_work {
    void (*call)(struct run *r, void *arg);
    void (*refresh)(struct run *r, void *arg); /* before each sample, not timed; with it samples are one call. May be NULL */
    void *arg;
};

struct bench_limits {
    int samples;    /* at most; 3 at least, unless one takes longer than seconds */
    double seconds; /* no new sample after so long */
};

struct bench_time {
    double seconds;      /* of a call: the median */
    double spread;       /* the middle half of the samples lies within seconds * (1 +- spread) */
    double flops, bytes; /* that a call counted */
    int samples;
};

/* 0 or the run's error. */
int bench_time_calls(struct run *r, const struct bench_work *w, const struct bench_limits *l, struct bench_time *ret);
/* Waits until the device has done everything. */
int bench_time_wait(struct run *r);
double bench_time_now(void); /* seconds, monotonic */

#endif
