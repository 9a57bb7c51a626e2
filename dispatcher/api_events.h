/* api_events.h -- GET /v1/jobs/{id}/events: a job's life as server-sent events.
 *
 *     event: job        the whole job (as GET /v1/jobs/{id}): first, and whenever its place in the line moves
 *     event: progress   stage, step, total, eta_s
 *     event: state      a transition: submit, claim, settle, release, cancel, expire, retry
 *     event: end        the job is over (an `event: job` came just before); the stream closes
 *
 * `id` lines are ids of the queue's event stream, so a client that comes back with Last-Event-ID, at this or another
 * dispatcher, gets what it missed. A client that has seen `end` and comes back is told to stop (204). A comment line
 * every 15 s keeps proxies awake and finds dead sockets.
 */
#ifndef DISPATCHER_API_EVENTS_H
#define DISPATCHER_API_EVENTS_H

#include "dispatcher/app.h"
#include "dispatcher/request.h"

void api_events_stream(struct request *r);

/* The list of open streams and their ticking; one per dispatcher. */
int api_events_new(struct app *app, struct streams **ret, struct err *err);
void api_events_drain(struct streams *all); /* ends every stream; clients come back to another dispatcher */
void api_events_free(struct streams *all);
unsigned api_events_n(const struct streams *all);

#endif
