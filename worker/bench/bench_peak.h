/* bench_peak.h -- what a device could do at most: from its maker's datasheet, else measured.
 *
 *     struct bench_peak p;
 *     if (!bench_peak_find(device->name, &p)) rc = bench_peak_measure(&run, &p);
 *     share = flops / seconds / p.flops[device->precision];
 *
 * Measured ones are what a large linear layer and a large copy reach here, so a share of 100 % says "as fast as those".
 */
#ifndef WORKER_BENCH_BENCH_PEAK_H
#define WORKER_BENCH_BENCH_PEAK_H

#include <stdbool.h>

#include "kernels/device.h"

enum { BENCH_PEAK_PRECISIONS = 3 };

struct bench_peak {
    double flops[BENCH_PEAK_PRECISIONS]; /* a second, dense, by enum device_precision; 0: the device has none */
    double bytes;                        /* a second, of its memory */
    const char *source;                  /* "NVIDIA's datasheet: H100 SXM", "measured" */
    bool is_measured;
    double rate_flops, rate_bytes; /* what a linear layer and a copy reached here: what a row may cost is judged by them */
};

struct run;

/* By the name that the driver gives. flops, bytes and source; false: not in the table. */
bool bench_peak_find(const char *name, struct bench_peak *ret);
/* Larger and larger linear layers and copies until one takes 20 ms: rates, and what the table left open. The run's error. */
int bench_peak_measure(struct run *r, struct bench_peak *p);

#endif
