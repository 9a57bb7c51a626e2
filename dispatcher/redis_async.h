/* redis_async.h -- one connection to Redis on the loop, which comes back by itself.
 *
 *     struct redis_async_opts o = {.host = "127.0.0.1", .port = 6379, .on_up = up, .arg = app};
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
 * Replies are lent for the time of the callback. This file and redis_async.c are the door to hiredis' async half; the
 * loop's adapter is in there (hiredis 0.14 has no deadlines of its own).
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
    const char *host; /* copied, like the other texts; NULL with path */
    int port;
    const char *path;     /* unix socket; NULL: TCP */
    const char *user;     /* NULL: the default user */
    const char *password; /* NULL: none */
    int db;
    unsigned connect_ms; /* 0: 2000 */
    unsigned command_ms; /* 0: 5000 */
    void (*on_up)(void *arg);                           /* connected and logged in: each time */
    /* Lost, or an attempt failed: each time. ERR_AUTH: login refused. */
    void (*on_down)(void *arg, const struct err *why);
    void *arg;
};

/* Where: fills host, port, path, user, password and db; they borrow from url, which redis_async_new copies. */
void redis_async_opts_url(struct redis_async_opts *o, const struct redis_url *url);

int redis_async_new(uv_loop_t *loop, const struct redis_async_opts *opts, struct redis_async **ret, struct err *err);
/* Calls every pending callback with ERR_REDIS, then closes; the memory goes with the loop's next turn. NULL is fine. */
void redis_async_free(struct redis_async *c);

bool redis_async_up(const struct redis_async *c);
/* deadline_ms 0: the connection's. */
void redis_async_command(struct redis_async *c, unsigned deadline_ms, redis_async_fn fn, void *arg, int argc,
                         const char *const *argv, const size_t *argv_len);

/* Reading a reply without its library. */
enum redis_async_kind { REDIS_NIL, REDIS_INT, REDIS_TEXT, REDIS_LIST, REDIS_ERROR };
enum redis_async_kind redis_async_kind(const struct redisReply *r); /* NULL: REDIS_NIL */
const char *redis_async_text(const struct redisReply *r, size_t *ret_len); /* text or error; "" otherwise */
size_t redis_async_count(const struct redisReply *r);               /* of a list */
const struct redisReply *redis_async_at(const struct redisReply *r, size_t i); /* NULL past the end */

#endif
