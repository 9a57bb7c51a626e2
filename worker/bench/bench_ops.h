/* bench_ops.h -- every op of kernels/table.h at the shapes of the published network, one after the other.
 *
 * Sizes follow from the video's: at 704 x 768 the transformer has 72,639 tokens of 3,072 channels. A row whose call would
 * take longer than `longest`, or not fit the arena, has its first extents halved until it does not (bench_row.halved).
 */
#ifndef WORKER_BENCH_BENCH_OPS_H
#define WORKER_BENCH_BENCH_OPS_H

#include "worker/bench/bench_report.h"

enum { BENCH_OPS_MAX = 80 };

struct bench_ops_options {
    int width, height;
    int64_t frames;
    double longest;   /* seconds of a call, judged by the rates in peak */
    const char *only; /* rows of this op alone; NULL: all */
};

/* Rows into ret[BENCH_OPS_MAX]; their number, or ERR_DEVICE where the device is lost. What an op cannot do is a skipped row.
 */
int bench_ops_all(struct run *r, const struct bench_ops_options *o, const struct bench_peak *peak, struct bench_row *ret);

#endif
