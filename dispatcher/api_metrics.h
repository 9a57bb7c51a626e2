/* api_metrics.h -- GET /metrics in Prometheus' text format (version 0.0.4).
 *
 * Names as Prometheus' guide wants them: prefix troupe_, base units, _total on counters. Labels are bounded: states,
 * levels, stages, kinds of devices, routes; never a job's, a tenant's or a worker's name. What the queue counts is the same
 * at every dispatcher (take max, not sum); http_*, redis_* and process figures are this program's own. While Redis is away
 * there are only the latter, and troupe_redis_up is 0.
 */
#ifndef DISPATCHER_API_METRICS_H
#define DISPATCHER_API_METRICS_H

#include "dispatcher/request.h"

void api_metrics_get(struct request *r);

#endif
