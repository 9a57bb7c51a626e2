/* backend.h -- the dispatcher's command connection to the queue: sends queue commands, gives replies, keeps the library
 * loaded, and runs the queue's timer (expire) once a second.
 *
 *     struct queue_cmd c = {0};
 *     if ((rc = queue_cmd_cancel(&c, &app->queue, id, "client", &err)) < 0) ...
 *     backend_send(app->backend, &c, on_cancelled, r);           c is done afterwards
 *
 * The callback comes once, from the loop or (while Redis is away) inside the call: rc 0 with the reply's bytes for
 * queue_read_*; or a code and its sentence (ERR_REDIS while Redis is away or not yet checked, ERR_TIMEOUT).
 */
#ifndef DISPATCHER_BACKEND_H
#define DISPATCHER_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/queue.h"
#include "dispatcher/app.h"
#include "dispatcher/hist.h"
#include "dispatcher/redis_async.h"
#include "dispatcher/request.h"

typedef void (*backend_fn)(void *arg, int rc, const void *bytes, size_t len, const struct err *err);

/* on_first is called once: rc 0 when Redis was found, checked and given the library; or why not: ERR_AUTH, ERR_REDIS
 * (policy, version) at once, ERR_TIMEOUT with the last reason after wait_ms. Later troubles are only logged. */
int backend_new(struct app *app, unsigned wait_ms, void (*on_first)(struct app *app, int rc, const struct err *err),
                struct backend **ret, struct err *err);
void backend_free(struct backend *b);

bool backend_ready(const struct backend *b);
void backend_send(struct backend *b, struct queue_cmd *c, backend_fn fn, void *arg);
/* A submit: answered once it is kept as the setting `durability` says (backend_kept.h). */
void backend_send_durable(struct backend *b, struct queue_cmd *c, backend_fn fn, void *arg);
/* For a handler that has just built c: parks r and sends c (arg is r); or answers why it was not built (rc < 0). */
void backend_ask(struct request *r, int rc, struct queue_cmd *c, const struct err *err, backend_fn fn);
/* backend_send for commands whose reply is not one string (the event stream's replay). */
void backend_send_raw(struct backend *b, struct queue_cmd *c, redis_async_fn fn, void *arg);
const struct hist *backend_rtt(const struct backend *b); /* of the commands that were answered */
uint64_t backend_n_lost(const struct backend *b); /* connections lost since start */

#endif
