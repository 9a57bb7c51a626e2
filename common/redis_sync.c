/* redis_sync.c -- see the header. `attempt_command` sends one command on an open connection; `command` opens,
 * selects, authenticates and tries a second time when the server had closed a connection that we kept. */
#include "common/redis_sync.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/redis_url.h"
#include "common/str.h"

#define CONNECT_MS 2000
#define SETUP_MS 5000
#define INFO_MAX (256 * 1024)
#define WORDS_MAX 16

struct redis_sync {
    struct redis_url url;
    char name[300];
    redisContext *ctx; /* owned; NULL: not connected */
};

int redis_sync_open(struct redis_sync **ret, const char *url, struct err *err)
{
    struct redis_sync *r = mem_zalloc(sizeof(*r));
    struct sigaction pipe;
    if (!r)
        return err_set(err, ERR_NOMEM, "no memory for a Redis connection");
    int rc = redis_url_parse(url, &r->url, err);
    if (rc < 0) {
        mem_free(r);
        return rc;
    }
    redis_url_show(&r->url, r->name, sizeof(r->name));
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
    r->ctx = NULL;
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

static struct timeval timeval_of(int64_t ms)
{
    if (ms < 1)
        ms = 1;
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
}

/* The reply, or NULL with *ret_closed telling that the other side had closed the connection. An error reply
 * is a reply. */
static redisReply *attempt_command(struct redis_sync *r, int argc, const char *const *argv,
                                   const size_t *argv_len, int64_t timeout_ms, bool *ret_closed,
                                   struct err *err)
{
    redisSetTimeout(r->ctx, timeval_of(timeout_ms));
    redisReply *reply = redisCommandArgv(r->ctx, argc, (const char **)(uintptr_t)argv, argv_len);
    *ret_closed = false;
    if (reply)
        return reply;
    int e = errno;
    *ret_closed =
        r->ctx->err == REDIS_ERR_EOF || (r->ctx->err == REDIS_ERR_IO && (e == EPIPE || e == ECONNRESET));
    if (r->ctx->err == REDIS_ERR_IO && e == EAGAIN)
        err_set(err, ERR_REDIS, "Redis at %s did not answer within %.1f s", r->name,
                (double)timeout_ms / 1000);
    else if (!*ret_closed)
        err_set(err, ERR_REDIS, "Redis at %s: %s", r->name, r->ctx->errstr);
    disconnect(r);
    return NULL;
}

/* One of the words that open a connection (AUTH, SELECT). */
static int greet(struct redis_sync *r, int argc, const char *const *argv, struct err *err)
{
    size_t len[3];
    bool closed;
    for (int i = 0; i < argc; i++)
        len[i] = strlen(argv[i]);
    redisReply *reply = attempt_command(r, argc, argv, len, CONNECT_MS, &closed, err);
    if (!reply)
        return err_set(err, ERR_REDIS, "Redis at %s closed the connection", r->name);
    int rc = reply->type == REDIS_REPLY_ERROR ? queue_error(reply->str, reply->len, err) : 0;
    freeReplyObject(reply);
    return rc;
}

static int connect_now(struct redis_sync *r, struct err *err)
{
    const struct redis_url *u = &r->url;
    char db[16];
    int rc = 0;
    r->ctx = u->path[0] ? redisConnectUnixWithTimeout(u->path, timeval_of(CONNECT_MS))
                        : redisConnectWithTimeout(u->hosts[0].name, u->hosts[0].port, timeval_of(CONNECT_MS));
    if (!r->ctx)
        return err_set(err, ERR_NOMEM, "no memory for a Redis connection");
    if (r->ctx->err) {
        rc = err_set(err, ERR_REDIS, "Redis at %s is not reachable: %s", r->name, r->ctx->errstr);
        disconnect(r);
        return rc;
    }
    if (!u->path[0])
        redisEnableKeepAlive(r->ctx);
    if (u->password[0] && u->user[0])
        rc = greet(r, 3, (const char *const[]){"AUTH", u->user, u->password}, err);
    else if (u->password[0])
        rc = greet(r, 2, (const char *const[]){"AUTH", u->password}, err);
    str_format(db, sizeof(db), "%d", u->db);
    if (rc == 0 && u->db)
        rc = greet(r, 2, (const char *const[]){"SELECT", db}, err);
    if (rc < 0)
        disconnect(r);
    return rc;
}

/* *ret is a reply that is no error; freed by the caller. */
static int command(struct redis_sync *r, int argc, const char *const *argv, const size_t *argv_len,
                   int64_t timeout_ms, redisReply **ret, struct err *err)
{
    redisReply *reply = NULL;
    for (int try = 0; !reply && try < 2; try++) {
        bool fresh = !r->ctx, closed;
        int rc = fresh ? connect_now(r, err) : 0;
        if (rc < 0)
            return rc;
        reply = attempt_command(r, argc, argv, argv_len, timeout_ms, &closed, err);
        if (!reply && (fresh || !closed))
            return err_set(err, ERR_REDIS, "Redis at %s closed the connection", r->name);
    }
    if (!reply)
        return err_set(err, ERR_REDIS, "Redis at %s closed the connection", r->name);
    if (reply->type == REDIS_REPLY_ERROR) {
        int rc = queue_error(reply->str, reply->len, err);
        bool hopeless = strncmp(reply->str, "NOAUTH", 6) == 0 || strncmp(reply->str, "READONLY", 8) == 0;
        freeReplyObject(reply);
        if (hopeless) /* another server, or other rights, may be there at the next connection */
            disconnect(r);
        return rc;
    }
    *ret = reply;
    return 0;
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
    int rc = command(r, argc, argv, argv_len, timeout_ms, &got, err);
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
    int rc = command(r, cmd->argc, cmd->argv, cmd->argv_len, block_ms + 2000, &got, err);
    if (rc < 0)
        return rc;
    *ret_woken = got->type != REDIS_REPLY_NIL;
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
    int rc = command(r, cmd->argc, cmd->argv, cmd->argv_len, block_ms + 2000, &got, err);
    if (rc < 0)
        return rc;
    const redisReply *list = got->type == REDIS_REPLY_ARRAY ? got : NULL;
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
