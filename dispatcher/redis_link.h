/* redis_link.h -- one hiredis context on the loop: its five hooks on one uv_poll. Only redis_async.c uses it.
 *
 * The poll handle outlives the context by a turn: a context dies (hiredis calls cleanup) before the loop lets go of its
 * handle, so the handle's close callback frees the link.
 */
#ifndef DISPATCHER_REDIS_LINK_H
#define DISPATCHER_REDIS_LINK_H

#include <uv.h>

struct redisAsyncContext;

int redis_link_attach(uv_loop_t *loop, struct redisAsyncContext *ac); /* ERR_NOMEM, ERR_IO */

#endif
