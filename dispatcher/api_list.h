/* api_list.h -- which jobs: the filters that the lists and redrive share, and the two lists. */
#ifndef DISPATCHER_API_LIST_H
#define DISPATCHER_API_LIST_H

#include "common/json.h"
#include "common/queue.h"
#include "dispatcher/request.h"

/* state, tenant, generator, code, worker from the query, and from body (an object, or NULL) what the query does not say.
 * *ret points into both. ERR_INVALID names the filter. */
int api_list_filter(const struct request *r, const json_t *body, struct queue_filter *ret, struct err *err);

void api_list_jobs(struct request *r);
void api_list_dead(struct request *r); /* the same with state=failed */

#endif
