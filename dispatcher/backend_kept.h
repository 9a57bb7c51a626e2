/* backend_kept.h -- the setting `durability`: submits that are answered only once they are kept, on Redis' disk or by a
 * replica. A part of backend.c, which alone uses it.
 *
 * Where Redis syncs its log before every answer (appendfsync always) an ordinary command is enough. Elsewhere WAITAOF (Redis
 * 7.2 and newer) or WAIT stands behind the submits, on a connection of its own, because it blocks its connection: one is on
 * its way at a time and covers all submits sent before it, so a hundred of them cost one sync. Before it goes a small write
 * (the key {queue}:kept): Redis waits for the connection's own last write, and a repeated submit writes nothing.
 *
 *     backend_kept_new(app, &url, &kept, &err);                      ERR_INVALID: the setting; *ret NULL: the default
 *     rc = backend_kept_check(kept, info, len, &ask, &err);          of each new connection; ask: CONFIG GET appendfsync
 *     backend_kept_send(kept, &cmd, fn, arg);
 */
#ifndef DISPATCHER_BACKEND_KEPT_H
#define DISPATCHER_BACKEND_KEPT_H

#include <stdbool.h>
#include <stddef.h>

#include "dispatcher/backend.h"

struct backend_kept;

int backend_kept_new(struct app *app, const struct redis_url *url, struct backend_kept **ret, struct err *err);
void backend_kept_free(struct backend_kept *k); /* NULL is fine */

/* INFO's text. ERR_UNSUPPORTED when this Redis cannot keep it, with the way out. *ret_ask: that depends on the answer of
 * CONFIG GET appendfsync, which goes to backend_kept_config. k NULL: 0. */
int backend_kept_check(struct backend_kept *k, const char *info, size_t len, bool *ret_ask, struct err *err);
int backend_kept_config(struct backend_kept *k, const struct redisReply *reply, struct err *err);

/* False: an ordinary command does. k NULL: false. */
bool backend_kept_waits(const struct backend_kept *k);
/* fn as for backend_send. ERR_REDIS when Redis has the job but it is not known to be kept: the same Idempotency-Key may be
 * sent again. */
void backend_kept_send(struct backend_kept *k, struct queue_cmd *c, backend_fn fn, void *arg);

#endif
