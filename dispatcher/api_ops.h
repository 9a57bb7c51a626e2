/* api_ops.h -- for operators and their machines: queue, tenants, workers, health. (The lists of jobs: api_list.h; metrics:
 * api_metrics.h.)
 *
 * purge and redrive answer how many jobs they changed: {"cancelled": n}, {"n": n}. pause and resume take ?generator= or
 * ?tenant=; without, all of the queue. */
#ifndef DISPATCHER_API_OPS_H
#define DISPATCHER_API_OPS_H

#include "dispatcher/backend.h"
#include "dispatcher/request.h"

void api_ops_queue(struct request *r);
void api_ops_pause(struct request *r);
void api_ops_resume(struct request *r);
void api_ops_purge(struct request *r);
void api_ops_redrive(struct request *r); /* filters in the query or a JSON body */
void api_ops_tenants(struct request *r);
void api_ops_workers(struct request *r);
void api_ops_quiet(struct request *r);
void api_ops_live(struct request *r);  /* never asks Redis: an outage of it must not restart the fleet */
void api_ops_ready(struct request *r);
void api_ops_ping(struct request *r);

/* A backend_fn whose arg is a request: shows the queue's object (why, stats) as it is. */
void api_ops_object(void *arg, int rc, const void *bytes, size_t len, const struct err *why);

#endif
