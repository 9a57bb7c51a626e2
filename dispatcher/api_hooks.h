/* api_hooks.h -- what became of a job's webhooks. */
#ifndef DISPATCHER_API_HOOKS_H
#define DISPATCHER_API_HOOKS_H

#include "dispatcher/request.h"

/* GET /v1/jobs/{id}/webhooks: {object: "webhooks", job, log: [{id, event, time, try, status, seconds, why, verdict}], oldest
 * first, the last 50 tries; waiting: [{id, event, due_at, tries}]}. */
void api_hooks_list(struct request *r);

#endif
