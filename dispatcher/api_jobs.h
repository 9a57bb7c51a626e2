/* api_jobs.h -- the native API's jobs: submit, list, get (with long-poll), cancel, retry, delete, why. */
#ifndef DISPATCHER_API_JOBS_H
#define DISPATCHER_API_JOBS_H

#include "dispatcher/backend.h"
#include "dispatcher/request.h"

void api_jobs_submit(struct request *r);
void api_jobs_get(struct request *r);
void api_jobs_delete(struct request *r);
void api_jobs_cancel(struct request *r);
void api_jobs_retry(struct request *r);
void api_jobs_why(struct request *r);

/* The id of the path, or a 404 answer and NULL. */
const char *api_jobs_id(struct request *r);
/* Parks r, fetches its job, calls fn with the reply. A command that cannot be built answers at once. */
void api_jobs_fetch(struct request *r, bool history, backend_fn fn);

#endif
