/* redis_async.h -- a connection to the Redis that has the queue, on the loop; it comes back by itself, and goes where the
 * address (redis_url.h), a cluster's redirections or the sentinels lead.
 *
 *     struct redis_async_opts o = {.url = &url, .key = "{avatar}", .on_up = up, .arg = app};
 *     redis_async_new(loop, &o, &c, err);
 *     redis_async_command(c, 0, on_reply, arg, argc, argv, argv_len);
 *     ...
 *     redis_async_free(c);
 *
 * A command's callback is called exactly once, always from the loop (never inside redis_async_command): with the reply,
 * with ERR_REDIS when the connection is or gets lost, or with ERR_TIMEOUT at its deadline. A missed deadline also drops
 * the connection, for everything behind that command waits too. While down, commands fail at once and the connection is
 * tried again with growing pauses (50 ms to 2 s, jittered).
 *
 * A server that says it does not have the queue (MOVED, a replica's READONLY), or not now (a slot on its way, a cluster that
 * is down), has not executed the command. With `hold` such a command waits here, for the right server or a better time, and
 * is sent again; at its deadline it ends with ERR_REDIS and redis_async_why. Without `hold` the reply is given as it is. In
 * both cases the connection goes to the right server, and on_up is called.
 *
 * With `hold` a new connection is closed to ordinary commands until redis_async_ready: on_up has the server checked
 * (redis_async_check) and may load what is missing first.
 *
 * Replies are lent for the time of the callback. redis_async*.c and redis_link.c are the door to hiredis' async
 * half (0.14 has no deadlines of its own).
 */
#ifndef DISPATCHER_REDIS_ASYNC_H
#define DISPATCHER_REDIS_ASYNC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "common/err.h"
#include "common/redis_url.h"

struct redis_async;
struct redisReply;

typedef void (*redis_async_fn)(void *arg, int rc, const struct redisReply *reply);

struct redis_async_opts {
    const struct redis_url *url; /* copied */
    const char *key;             /* of the queue, copied: in a cluster the node that has it is used; NULL: any node */
    bool hold;
    unsigned connect_ms; /* 0: 2000 */
    unsigned command_ms; /* 0: 5000 */
    void (*on_up)(void *arg);                           /* connected and logged in: each time */
    /* Lost, or an attempt failed: each time. ERR_AUTH: login refused. */
    void (*on_down)(void *arg, const struct err *why);
    void *arg;
};

int redis_async_new(uv_loop_t *loop, const struct redis_async_opts *opts, struct redis_async **ret, struct err *err);
/* Calls every pending callback with ERR_REDIS, then closes; the memory goes with the loop's next turn. NULL is fine. */
void redis_async_free(struct redis_async *c);

bool redis_async_up(const struct redis_async *c);
const char *redis_async_name(const struct redis_async *c);    /* of the server: "127.0.0.1:6379", or a socket's path */
const struct err *redis_async_why(const struct redis_async *c); /* the last trouble; code 0: none yet */
uint64_t redis_async_epoch(const struct redis_async *c);      /* another connection, another number */

/* deadline_ms 0: the connection's. */
void redis_async_command(struct redis_async *c, unsigned deadline_ms, redis_async_fn fn, void *arg, int argc,
                         const char *const *argv, const size_t *argv_len);
/* The same, never held: passes before redis_async_ready, and takes replies as they are. */
void redis_async_check(struct redis_async *c, redis_async_fn fn, void *arg, int argc, const char *const *argv,
                       const size_t *argv_len);
void redis_async_ready(struct redis_async *c); /* the server is good: what was held goes to it */

/* Reading a reply without its library. */
enum redis_async_kind { REDIS_NIL, REDIS_INT, REDIS_TEXT, REDIS_LIST, REDIS_ERROR };
enum redis_async_kind redis_async_kind(const struct redisReply *r); /* NULL: REDIS_NIL */
const char *redis_async_text(const struct redisReply *r, size_t *ret_len); /* text or error; "" otherwise */
int64_t redis_async_int(const struct redisReply *r);                /* 0 otherwise */
size_t redis_async_count(const struct redisReply *r);               /* of a list */
const struct redisReply *redis_async_at(const struct redisReply *r, size_t i); /* NULL past the end */

#endif
