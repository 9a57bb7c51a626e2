/* webhook.h -- tells receivers how jobs go: takes deliveries that are due from the queue, sends them, reports.
 *
 * One delivery is one try here; when to try again, and when to give up, is the queue's (PROTOCOL.md). At least once,
 * always with the same webhook-id: a dispatcher that dies holding a delivery loses it to another one, and a receiver may
 * then see it twice.
 *
 *     webhook_new(app, &app->webhook, err);        after events_new; sends from now on
 *     webhook_check(app->webhook, &job, err);      at a submit
 *     webhook_drain(app->webhook);                 takes no more; webhook_busy until what is on its way has ended
 *     webhook_free(app->webhook);
 *
 * What is sent (Standard Webhooks 1.0: webhook-id, webhook-timestamp, webhook-signature), by POST:
 *
 *     {"type": "job.end", "timestamp": when it happened, "data": {the job as GET /v1/jobs/{id} shows it now}}
 *
 * type: job.queued, job.start, job.progress, job.end. The data are the job's at the time of sending: a late job.progress
 * may show a job that has ended.
 *
 * When: an event of the queue makes a look due 10 ms later (50 ms while none finds anything; many events are one look);
 * otherwise the queue says when the next delivery is due, and every 5 s something is asked in any case. A look is one
 * command, and only one is on its way.
 */
#ifndef DISPATCHER_WEBHOOK_H
#define DISPATCHER_WEBHOOK_H

#include <stdbool.h>

#include "common/conf.h"
#include "common/err.h"
#include "common/job.h"
#include "dispatcher/app.h"

struct webhook;

/* At the program's start: webhook_secret and webhook_allow can be read. ERR_INVALID names the setting. */
int webhook_check_conf(const struct conf *c, struct err *err);

int webhook_new(struct app *app, struct webhook **ret, struct err *err);
void webhook_drain(struct webhook *w);          /* NULL is fine, as in the next two */
bool webhook_busy(const struct webhook *w);
void webhook_free(struct webhook *w);           /* after backend_free: its last callbacks come before */

/* The job's webhook, if it has one: may it go there, and is there a secret to sign with? ERR_INVALID otherwise. */
int webhook_check(const struct webhook *w, const struct job *job, struct err *err);

#endif
