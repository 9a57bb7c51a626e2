/* http_stats.h -- what was asked of the dispatcher: requests by route, method and class of status, and how long answers
 * took. One of these is the server's; a route is a row of the table in route.c, so the labels are bounded.
 *
 *     http_stats_count(&s->stats, r, seconds);      at the end of each exchange
 *     http_stats_write(&s->stats, &out);            for /metrics
 *
 * Event streams and ?wait= are counted, but not timed: they last as long as the client wanted.
 */
#ifndef DISPATCHER_HTTP_STATS_H
#define DISPATCHER_HTTP_STATS_H

#include <stdint.h>

#include "common/buf.h"
#include "dispatcher/hist.h"
#include "dispatcher/request.h"

enum { HTTP_STATS_ROUTES = 128 }; /* rows of the table; more of them share the last place, with unknown paths */

struct http_stats {
    uint64_t n[HTTP_STATS_ROUTES + 1][6]; /* by class of status; 0: no answer was sent */
    struct hist seconds[HTTP_STATS_ROUTES + 1];
};

void http_stats_count(struct http_stats *h, const struct request *r, double seconds);
void http_stats_write(const struct http_stats *h, struct buf *b);

#endif
