/* api_ops.h -- for operators and their machines: queue, workers, metrics, health. */
#ifndef DISPATCHER_API_OPS_H
#define DISPATCHER_API_OPS_H

#include "dispatcher/request.h"

void api_ops_queue(struct request *r);
void api_ops_pause(struct request *r);
void api_ops_resume(struct request *r);
void api_ops_purge(struct request *r);
void api_ops_workers(struct request *r);
void api_ops_quiet(struct request *r);
void api_ops_metrics(struct request *r);
void api_ops_live(struct request *r);  /* never asks Redis: an outage of it must not restart the fleet */
void api_ops_ready(struct request *r);
void api_ops_ping(struct request *r);

#endif
