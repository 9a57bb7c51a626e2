/* hist.h -- counts by size, as Prometheus wants them: buckets with upper bounds in seconds, the sum, the count.
 *
 *     struct hist h = {0};
 *     hist_add(&h, 0.012);
 *     hist_write(&out, "troupe_redis_rtt_seconds", "", &h);        labels: "" or `route="/v1/jobs"`
 *
 * The bounds are the same for all of them: half a millisecond to a minute, for round trips and requests. hist_text writes
 * one that was counted elsewhere.
 */
#ifndef DISPATCHER_HIST_H
#define DISPATCHER_HIST_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

#define HIST_BOUNDS 12

struct hist {
    uint64_t n[HIST_BOUNDS + 1]; /* by bucket, not added up; the last: above all bounds */
    double sum;                  /* seconds */
};

void hist_add(struct hist *h, double seconds);
/* The lines of one series; # HELP and # TYPE are the caller's. */
void hist_write(struct buf *b, const char *name, const char *labels, const struct hist *h);
/* n counts for n - 1 bounds and one above them. A count that is not finite or negative is 0. */
void hist_text(struct buf *b, const char *name, const char *labels, const double *le, const double *counts, size_t n,
               double sum);

#endif
