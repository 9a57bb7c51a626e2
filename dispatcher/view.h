/* view.h -- a job as the native API shows it. */
#ifndef DISPATCHER_VIEW_H
#define DISPATCHER_VIEW_H

#include "common/job.h"
#include "common/json.h"
#include "common/queue.h"

/* The whole object; NULL without memory. Owned by the caller. */
json_t *view_job(const struct job_view *v);
/* An event of the stream: {job, event, state, attempt, time, stage, step, total, eta_s, worker, code, why}. */
json_t *view_event(const struct queue_event *e);
/* One member of `workers`' list: numbers and times as such, components as a list. */
json_t *view_worker(const json_t *worker);
/* One member of queue_read_list's array: times become text, links are added. */
json_t *view_list_item(const json_t *item);

#endif
