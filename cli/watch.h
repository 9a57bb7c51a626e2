/* watch.h -- follows one job to its end, and fetches its video. Shared by watch, submit and run. */
#ifndef CLI_WATCH_H
#define CLI_WATCH_H

#include "cli/cli.h"
#include "common/json.h"

/* Shows the bar until the job has ended, over server-sent events; a dispatcher that goes away is waited for
 * (60 s). *ret: the job as the API tells it (owned). ERR_CANCEL when the person stopped it: the job then goes
 * on. */
int watch_job(const struct cli *c, const char *id, json_t **ret, struct err *err);
/* 0 when the job is done; otherwise its own error as ours. */
int watch_verdict(const json_t *job, struct err *err);

#endif
