/* redis_sync.c -- see the header. `attempt` sends one command on an open connection; `command` opens, and sends again where
 * a reply said that another server has the queue, or that the server will have time later. */
#include "common/redis_sync.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/redis_find.h"
#include "common/redis_url.h"
#include "common/str.h"

#define CONNECT_MS 2000
#define SETUP_MS 5000
#define PAUSE_US (50 * CLOCK_MS)
#define HOPS_MAX 5 /* redirections in a row without a pause */
#define WATCH_US (1 * CLOCK_S) /* how often sentinels are asked whether the master is still the one; later if none answers */
#define WATCH_TRY_US (300 * CLOCK_MS)
#define INFO_MAX (256 * 1024)
#define WORDS_MAX 16

struct redis_sync {
    struct redis_url url;
    struct redis_route route;
    struct redis_place place; /* of ctx, or of the last one */
    char name[300];           /* the address as a whole */
    char at[300];             /* the server of place */
    char key[64];             /* redis_sync_key; "": none */
    redisContext *ctx;        /* owned; NULL: not connected */
    int64_t watch_us;         /* when to ask the sentinels next */
    struct redis_tls *tls;    /* owned, with ctx */
};

int redis_sync_open(struct redis_sync **ret, const char *url, struct err *err)
{
    struct redis_sync *r = mem_zalloc(sizeof(*r));
    struct sigaction pipe;
    if (!r)
        return err_set(err, ERR_NOMEM, "no memory for a Redis connection");
    int rc = redis_url_parse(url, &r->url, err);
    if (rc == 0)
        rc = redis_tls_check(&r->url, err);
    if (rc < 0) {
        mem_free(r);
        return rc;
    }
    redis_url_show(&r->url, r->name, sizeof(r->name));
    str_copy(r->at, sizeof(r->at), r->name);
    /* hiredis writes without MSG_NOSIGNAL: a server that went away must be an error, not the end of the
     * process */
    if (sigaction(SIGPIPE, NULL, &pipe) == 0 && pipe.sa_handler == SIG_DFL)
        signal(SIGPIPE, SIG_IGN);
    *ret = r;
    return 0;
}

static void disconnect(struct redis_sync *r)
{
    if (r->ctx)
        redisFree(r->ctx);
    redis_tls_close(r->tls);
    r->ctx = NULL;
    r->tls = NULL;
}

void redis_sync_close(struct redis_sync *r)
{
    if (!r)
        return;
    disconnect(r);
    mem_free(r);
}

const char *redis_sync_name(const struct redis_sync *r)
{
    return r->name;
}

void redis_sync_key(struct redis_sync *r, const char *key)
{
    str_copy(r->key, sizeof(r->key), key);
}

const char *redis_sync_warning(const struct redis_sync *r)
{
    return redis_url_warning(&r->url);
}

static struct timeval timeval_of(int64_t ms)
{
    if (ms < 1)
        ms = 1;
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
}

/* The reply, or NULL with *ret_closed telling that the other side had closed the connection. An error reply
 * is a reply. */
static redisReply *attempt(struct redis_sync *r, int argc, const char *const *argv, const size_t *argv_len,
                           int64_t timeout_ms, bool *ret_closed, struct err *err)
{
    char why[256];
    redisSetTimeout(r->ctx, timeval_of(timeout_ms));
    redisReply *reply = redisCommandArgv(r->ctx, argc, (const char **)(uintptr_t)argv, argv_len);
    *ret_closed = false;
    if (reply)
        return reply;
    int e = errno;
    *ret_closed =
        r->ctx->err == REDIS_ERR_EOF || (r->ctx->err == REDIS_ERR_IO && (e == EPIPE || e == ECONNRESET));
    if (r->tls && redis_tls_why(r->tls, why, sizeof(why)))
        err_set(err, ERR_REDIS, "Redis at %s: %s", r->at, why);
    else if (r->ctx->err == REDIS_ERR_IO && e == EAGAIN)
        err_set(err, ERR_REDIS, "Redis at %s did not answer within %.1f s", r->at, (double)timeout_ms / 1000);
    else
        err_set(err, ERR_REDIS, "Redis at %s %s%s", r->at, *ret_closed ? "closed the connection" : "fails: ",
                *ret_closed ? "" : r->ctx->errstr);
    disconnect(r);
    return NULL;
}

/* ---- connecting ---- */

/* Of a server that a sentinel named: is it the master? A user who may not ask is believed. */
static int check_role(struct redis_sync *r, int64_t until_us, struct err *err)
{
    struct err refused = {0};
    redisReply *reply = redis_find_ask(r->ctx, until_us, 1, (const char *const[]){"ROLE"}, &refused);
    int rc = 0;
    if (!reply)
        return r->ctx->err ? redis_find_why(r->ctx, r->tls, &refused, err) : 0;
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements && reply->element[0]->type == REDIS_REPLY_STRING &&
        strcmp(reply->element[0]->str, "master") != 0)
        rc = err_set(err, ERR_REDIS, "a sentinel names it as the master, but it is a %s; a failover may be under way",
                     reply->element[0]->str);
    freeReplyObject(reply);
    return rc;
}

/* Of a cluster: does this node have the queue? *ret_go: no, but route knows who. */
static int check_owner(struct redis_sync *r, int64_t until_us, bool *ret_go, struct err *err)
{
    struct err why = {0};
    redisSetTimeout(r->ctx, timeval_of((until_us - clock_us()) / CLOCK_MS));
    redisReply *reply = redisCommand(r->ctx, "EXISTS %s", r->key);
    if (!reply) {
        err_set(&why, ERR_REDIS, "%s", r->ctx->errstr);
        return redis_find_why(r->ctx, r->tls, &why, err);
    }
    if (reply->type == REDIS_REPLY_ERROR)
        *ret_go = redis_find_turn(reply->str, reply->len, &r->place, &r->route) == REDIS_TURN_GO;
    freeReplyObject(reply);
    return 0;
}

static int greet(struct redis_sync *r, int64_t until_us, bool *ret_go, struct err *err)
{
    char db[16];
    struct err why = {0};
    str_format(db, sizeof(db), "%d", r->url.db);
    if (r->url.db) {
        redisReply *reply = redis_find_ask(r->ctx, until_us, 2, (const char *const[]){"SELECT", db}, &why);
        if (!reply)
            return redis_find_why(r->ctx, r->tls, &why, err);
        freeReplyObject(reply);
    }
    int rc = r->place.must_be_master ? check_role(r, until_us, err) : 0;
    return rc == 0 && r->key[0] ? check_owner(r, until_us, ret_go, err) : rc;
}

static int connect_once(struct redis_sync *r, int64_t until_us, bool *ret_go, struct err *err)
{
    *ret_go = false;
    int rc = redis_find(&r->url, &r->route, false, until_us, &r->place, err);
    if (rc < 0)
        return rc;
    redis_find_show(&r->place, r->at, sizeof(r->at));
    rc = redis_find_open(&r->url, &r->place, r->url.user, r->url.password, until_us, &r->ctx, &r->tls, err);
    if (rc == 0)
        rc = greet(r, until_us, ret_go, err);
    if (rc < 0 || *ret_go)
        disconnect(r);
    if (rc < 0)
        redis_find_lost(&r->route);
    return rc;
}

/* All hosts and redirections, within one deadline. */
static int connect_now(struct redis_sync *r, struct err *err)
{
    int64_t until_us = clock_us() + CONNECT_MS * CLOCK_MS;
    struct err why = {0};
    for (int i = 0;; i++) {
        bool go, more = r->url.n_hosts > 1 || r->url.master[0] || r->route.moved;
        int64_t left = until_us - clock_us();
        err_clear(&why);
        int rc = connect_once(r, more && left > 2 * PAUSE_US ? until_us - left / 2 : until_us, &go, &why);
        r->watch_us = clock_us() + WATCH_US;
        if (rc == 0 && !go)
            return 0;
        if (rc == ERR_AUTH)
            return err_set(err, ERR_REDIS, "%s", why.text);
        more |= go;
        if (!more || clock_us() + PAUSE_US > until_us) {
            if (rc == 0)
                return err_set(err, ERR_REDIS, "Redis at %s: the nodes of the cluster do not agree who has the queue",
                               r->at);
            return err_set(err, rc, "Redis at %s is not reachable: %s", r->at, why.text);
        }
        if (rc < 0 || i >= HOPS_MAX)
            clock_sleep_us(PAUSE_US);
    }
}

/* A master that was replaced may live on for seconds, and take changes that nobody will see. */
static void watch(struct redis_sync *r)
{
    struct redis_place now;
    if (!r->ctx || !r->place.must_be_master || clock_us() < r->watch_us)
        return;
    int rc = redis_find(&r->url, &r->route, false, clock_us() + WATCH_TRY_US, &now, NULL);
    if (rc == 0 && !redis_find_same(&now, &r->place))
        disconnect(r);
    r->watch_us = clock_us() + (rc == 0 ? WATCH_US : 5 * WATCH_US);
}

/* ---- commands ---- */

/* One command, sent again after a connection that the server had closed while it was idle. */
static redisReply *send_once(struct redis_sync *r, int argc, const char *const *argv, const size_t *argv_len,
                             int64_t timeout_ms, struct err *err)
{
    struct err lost = {0};
    watch(r);
    for (int try = 0; try < 2; try++) {
        bool fresh = !r->ctx, closed = false;
        if (fresh && connect_now(r, err) < 0)
            return NULL;
        err_clear(&lost);
        redisReply *reply = attempt(r, argc, argv, argv_len, timeout_ms, &closed, &lost);
        if (reply)
            return reply;
        redis_find_lost(&r->route);
        if (fresh || !closed)
            break;
    }
    err_set(err, ERR_REDIS, "%s", lost.text);
    return NULL;
}

/* *ret is a reply that is no error; freed by the caller. patient: a command that was not executed is sent again until the
 * timeout is over; else *ret is NULL then. */
static int command(struct redis_sync *r, int argc, const char *const *argv, const size_t *argv_len,
                   int64_t timeout_ms, bool patient, redisReply **ret, struct err *err)
{
    int64_t until_us = clock_us() + timeout_ms * CLOCK_MS;
    struct err why = {0};
    for (int hops = 0;; hops++) {
        redisReply *reply = send_once(r, argc, argv, argv_len, timeout_ms, &why);
        if (!reply)
            return err_set(err, why.code ? why.code : ERR_REDIS, "%s", why.text);
        *ret = reply;
        if (reply->type != REDIS_REPLY_ERROR)
            return 0;
        enum redis_turn turn = redis_find_turn(reply->str, reply->len, &r->place, &r->route);
        int rc = redis_find_error(reply->str, reply->len, &why);
        if (turn == REDIS_TURN_GO || strncmp(reply->str, "NOAUTH", 6) == 0)
            disconnect(r); /* another server, or other rights, may be there at the next connection */
        bool pause = turn == REDIS_TURN_PAUSE || !r->route.moved || hops >= HOPS_MAX;
        freeReplyObject(reply);
        *ret = NULL;
        if (turn == REDIS_TURN_NONE || (patient && pause && clock_us() + PAUSE_US >= until_us))
            return err_set(err, rc, "%s", why.text);
        if (pause)
            clock_sleep_us(PAUSE_US);
        if (!patient)
            return 0;
        err_clear(&why);
    }
}

static int add_reply(struct buf *b, const redisReply *reply)
{
    int rc = 0;
    switch (reply->type) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
        return buf_add(b, reply->str, reply->len);
    case REDIS_REPLY_INTEGER:
        return buf_printf(b, "%lld", reply->integer);
    case REDIS_REPLY_ARRAY:
        for (size_t i = 0; rc == 0 && i < reply->elements; i++) {
            rc = add_reply(b, reply->element[i]);
            if (rc == 0)
                rc = buf_puts(b, "\n");
        }
        return rc;
    default:
        return 0; /* nil */
    }
}

static int call_words(struct redis_sync *r, int argc, const char *const *argv, const size_t *argv_len,
                      int64_t timeout_ms, struct buf *reply, struct err *err)
{
    redisReply *got = NULL;
    int rc = command(r, argc, argv, argv_len, timeout_ms, true, &got, err);
    if (rc < 0)
        return rc;
    buf_clear(reply);
    rc = add_reply(reply, got);
    freeReplyObject(got);
    return rc < 0 ? err_set(err, rc, "Redis' answer: %s", err_text(rc)) : 0;
}

static int call_once(struct redis_sync *r, const struct queue_cmd *cmd, int64_t timeout_ms, struct buf *reply,
                     struct err *err)
{
    return call_words(r, cmd->argc, cmd->argv, cmd->argv_len, timeout_ms, reply, err);
}

static int load_library(struct redis_sync *r, struct buf *reply, struct err *err)
{
    struct queue_cmd c = {0};
    struct err ignored = {0};
    bool load = true;
    queue_cmd_version(&c);
    int rc = call_once(r, &c, SETUP_MS, reply, &ignored);
    if (rc < 0 && rc != ERR_NOTFOUND)
        rc = err_set(err, rc, "%s", ignored.text);
    else
        rc = queue_read_version(rc < 0 ? NULL : reply->data, rc < 0 ? 0 : reply->len, &load, err);
    if (rc == 0 && load) {
        queue_cmd_load(&c);
        rc = call_once(r, &c, SETUP_MS, reply, err);
    }
    queue_cmd_done(&c);
    return rc;
}

int redis_sync_setup(struct redis_sync *r, struct err *err)
{
    struct queue_cmd c = {0};
    struct buf reply;
    buf_init(&reply, INFO_MAX);
    queue_cmd_info(&c);
    int rc = call_once(r, &c, SETUP_MS, &reply, err);
    if (rc == 0)
        rc = queue_check_info(reply.data ? reply.data : "", reply.len, err);
    if (rc == 0)
        rc = load_library(r, &reply, err);
    queue_cmd_done(&c);
    buf_done(&reply);
    return rc;
}

int redis_sync_call(struct redis_sync *r, const struct queue_cmd *cmd, int64_t timeout_ms, struct buf *reply,
                    struct err *err)
{
    struct err first = {0};
    int rc = call_once(r, cmd, timeout_ms, reply, &first);
    if (rc == ERR_NOTFOUND) { /* Redis started again without its functions */
        struct buf scratch;
        buf_init(&scratch, INFO_MAX);
        err_clear(&first);
        rc = load_library(r, &scratch, &first);
        buf_done(&scratch);
        if (rc == 0)
            rc = call_once(r, cmd, timeout_ms, reply, &first);
    }
    return rc < 0 ? err_set(err, rc, "%s", first.text) : 0;
}

int redis_sync_wait(struct redis_sync *r, const struct queue_cmd *cmd, int64_t block_ms, bool *ret_woken,
                    struct err *err)
{
    redisReply *got = NULL;
    int rc = command(r, cmd->argc, cmd->argv, cmd->argv_len, block_ms + 2000, false, &got, err);
    if (rc < 0)
        return rc;
    *ret_woken = got && got->type != REDIS_REPLY_NIL;
    freeReplyObject(got);
    return 0;
}

/* Entries: [[id, [field, value]], ...]; XREAD wraps that as [[stream, entries]]. */
static int each_event(const redisReply *list, redis_sync_event_fn *fn, void *arg, char last_id[64])
{
    for (size_t i = 0; i < list->elements; i++) {
        const redisReply *e = list->element[i];
        if (e->type != REDIS_REPLY_ARRAY || e->elements < 2 || e->element[1]->elements < 2)
            return ERR_FORMAT;
        const redisReply *value = e->element[1]->element[1];
        int rc = fn(arg, e->element[0]->str, value->str, value->len);
        if (rc < 0)
            return rc;
        str_copy(last_id, 64, e->element[0]->str);
    }
    return 0;
}

int redis_sync_events(struct redis_sync *r, const struct queue_cmd *cmd, int64_t block_ms,
                      redis_sync_event_fn *fn, void *arg, char last_id[64], struct err *err)
{
    redisReply *got = NULL;
    int rc = command(r, cmd->argc, cmd->argv, cmd->argv_len, block_ms + 2000, false, &got, err);
    if (rc < 0)
        return rc;
    const redisReply *list = got && got->type == REDIS_REPLY_ARRAY ? got : NULL;
    if (list && strcmp(cmd->argv[0], "XREAD") == 0)
        list = list->elements && list->element[0]->elements == 2 ? list->element[0]->element[1] : NULL;
    rc = list ? each_event(list, fn, arg, last_id) : 0;
    freeReplyObject(got);
    return rc < 0 ? err_set(err, rc, "an event: %s", err_text(rc)) : 0;
}

int redis_sync_words(struct redis_sync *r, const char *const *words, int n_words, int64_t timeout_ms,
                     struct buf *reply, struct err *err)
{
    size_t len[WORDS_MAX];
    if (n_words > WORDS_MAX)
        return err_set(err, ERR_TOOBIG, "a command has at most %d words", WORDS_MAX);
    for (int i = 0; i < n_words; i++)
        len[i] = strlen(words[i]);
    return call_words(r, n_words, words, len, timeout_ms, reply, err);
}
