/* redis_sync.h -- a blocking Redis connection with deadlines, for programs that may wait: worker, cli, tests.
 * (The dispatcher has its own asynchronous one.)
 *
 * The connection opens on first use and again after any failure, each time where the address (redis_url.h) leads then; a
 * call that finds it broken before its command was sent tries once more, a command whose reply was lost is reported (every
 * function of ours may be repeated). A server that says it does not have the queue (a cluster's redirection, a replica), or
 * not now, has not executed the command: it is sent again, there or later, until its timeout is over. One thread uses a
 * redis_sync; two threads have two.
 *
 *     struct redis_sync *r;
 *     if ((rc = redis_sync_open(&r, url, &err)) < 0 || (rc = redis_sync_setup(r, &err)) < 0) ...
 *     rc = redis_sync_call(r, &cmd, 2000, &reply, &err);       struct buf reply; buf_init(&reply, 1 << 20)
 *     rc = queue_read_renew(reply.data, reply.len, ...);
 *     redis_sync_close(r);
 */
#ifndef COMMON_REDIS_SYNC_H
#define COMMON_REDIS_SYNC_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/queue.h"

struct redis_sync;

/* Parses the URL (redis_url.h); connects later. ERR_INVALID, ERR_NOMEM. */
int redis_sync_open(struct redis_sync **ret, const char *url, struct err *err);
void redis_sync_close(struct redis_sync *r);             /* NULL: fine */
const char *redis_sync_name(const struct redis_sync *r); /* "host:6379/0", for messages */
/* A key of the queue (its base): in a cluster every connection then goes to the node that has it, also for commands
 * without a key (redis_sync_setup). Before the first command. */
void redis_sync_key(struct redis_sync *r, const char *key);
/* A sentence about the address that a program logs at its start, or NULL. */
const char *redis_sync_warning(const struct redis_sync *r);

/* Checks the server (queue_check_info) and loads the library where it is missing or older. */
int redis_sync_setup(struct redis_sync *r, struct err *err);

/* Sends cmd and waits at most timeout_ms. *reply becomes the reply's bytes (bulk, status, or the decimal
 * integer); a nil reply leaves it empty. A missing library is loaded and the command sent again. ERR_REDIS
 * (not reachable, refused, timed out: the connection is then closed), ERR_NOMEM, ERR_TOOBIG past the buffer's
 * ceiling. */
int redis_sync_call(struct redis_sync *r, const struct queue_cmd *cmd, int64_t timeout_ms, struct buf *reply,
                    struct err *err);
/* A blocking command (queue_cmd_wake): *ret_woken tells if anything came (not after a redirection: call again).
 * block_ms: how long the command itself may block; the deadline is that and two seconds. */
int redis_sync_wait(struct redis_sync *r, const struct queue_cmd *cmd, int64_t block_ms, bool *ret_woken,
                    struct err *err);
/* queue_cmd_events and queue_cmd_replay: calls fn for each entry, in order; last_id (size 64) becomes the
 * last entry's. */
typedef int redis_sync_event_fn(void *arg, const char *id, const char *bytes, size_t len);
int redis_sync_events(struct redis_sync *r, const struct queue_cmd *cmd, int64_t block_ms,
                      redis_sync_event_fn *fn, void *arg, char last_id[64], struct err *err);
/* Any command of plain words, for tools and tests: the reply as text (arrays: one element a line). */
int redis_sync_words(struct redis_sync *r, const char *const *words, int n_words, int64_t timeout_ms,
                     struct buf *reply, struct err *err);

#endif
