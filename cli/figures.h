/* figures.h -- numbers of the queue as people read them. */
#ifndef CLI_FIGURES_H
#define CLI_FIGURES_H

#include <stddef.h>

#include "common/json.h"

/* The q-th quantile (0..1) of a histogram {le, n, ...} in seconds, between the bounds by straight line; the largest bound
 * when it is above all of them. < 0: there is nothing in it. */
double figures_quantile(const json_t *hist, double q);

/* "4.2 s", "3 min 10 s", "2 h 5 min"; "-" for less than 0. Returns dst. */
const char *figures_seconds(char *dst, size_t size, double seconds);

/* "p50 0.4 s, p90 12 s", or "-" for an empty histogram. Returns dst. */
const char *figures_spread(char *dst, size_t size, const json_t *hist);

/* "the queue, tenant acme": what is paused; "" when nothing is. stats: GET /v1/queue. Returns dst, without control
 * characters. */
const char *figures_paused(char *dst, size_t size, const json_t *stats);

#endif
