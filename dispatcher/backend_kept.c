#include "dispatcher/backend_kept.h"

#include <string.h>

#include "common/buf.h"
#include "common/mem.h"
#include "common/redis_find.h"
#include "common/str.h"
#include "dispatcher/redis_async.h"

enum {
    WAIT_MS = 4000,     /* Redis answers within */
    WAIT_REPLY_MS = 6000,
    SUBMIT_REPLY_MS = 9000, /* it may have to stand behind one that waits */
    ANSWER_MAX = 65536,
};

enum how { HOW_ALWAYS, HOW_WAITAOF, HOW_REPLICA };

struct call {
    struct backend_kept *k;
    backend_fn fn;
    void *arg;
    uint64_t number; /* in the order of sending */
    uint64_t epoch;  /* the connection that brought the answer */
    bool answered;
    struct buf answer; /* owned */
    struct call *prev, *next;
};

struct backend_kept {
    struct redis_async *conn; /* owned */
    char mark[80];            /* {queue}:kept */
    enum how how;
    struct call *first, *last;
    uint64_t number;
    bool closing;
    bool waiting;           /* one WAIT or WAITAOF is on its way */
    uint64_t waiting_until; /* it covers calls up to this number */
};

/* ---- may this Redis be used ---- */

static bool info_has(const char *info, size_t len, const char *line)
{
    return memmem(info, len, line, strlen(line)) != NULL;
}

/* Redis 7.2 and newer; what derives from it tells the version it equals. */
static bool has_waitaof(const char *info, size_t len)
{
    static const char name[] = "redis_version:";
    const char *at = memmem(info, len, name, sizeof name - 1);
    int v[2] = {0, 0};
    if (!at)
        return false;
    at += sizeof name - 1;
    for (int i = 0; at < info + len && i < 2; at++) {
        if (*at == '.')
            i++;
        else if (*at < '0' || *at > '9' || v[i] > 1000)
            break;
        else
            v[i] = v[i] * 10 + (*at - '0');
    }
    return v[0] > 7 || (v[0] == 7 && v[1] >= 2);
}

int backend_kept_check(struct backend_kept *k, const char *info, size_t len, bool *ret_ask, struct err *err)
{
    *ret_ask = false;
    if (!k || k->how == HOW_REPLICA)
        return 0;
    if (!info_has(info, len, "\naof_enabled:1"))
        return err_set(err, ERR_UNSUPPORTED,
                       "durability: disk needs a Redis that writes a log: set appendonly yes in redis.conf (CONFIG SET "
                       "appendonly yes), or durability to default");
    k->how = has_waitaof(info, len) ? HOW_WAITAOF : HOW_ALWAYS;
    *ret_ask = k->how == HOW_ALWAYS;
    return 0;
}

int backend_kept_config(struct backend_kept *k, const struct redisReply *reply, struct err *err)
{
    size_t n;
    const char *value = redis_async_text(redis_async_at(reply, 1), &n);
    (void)k;
    if (n == 6 && memcmp(value, "always", n) == 0)
        return 0;
    if (n == 0)
        return err_set(err, ERR_UNSUPPORTED,
                       "durability: disk: this Redis does not say how it writes its log (CONFIG GET appendfsync is "
                       "forbidden): allow that, use Redis 7.2 or newer, or set durability to default");
    return err_set(err, ERR_UNSUPPORTED,
                   "durability: disk: this Redis syncs its log '%.*s' and is too old for WAITAOF: set appendfsync always in "
                   "redis.conf (CONFIG SET appendfsync always), use Redis 7.2 or newer, or set durability to default",
                   (int)n, value);
}

/* ---- calls ---- */

static void call_end(struct call *c, int rc, const struct err *err)
{
    struct backend_kept *k = c->k;
    if (c->prev)
        c->prev->next = c->next;
    else
        k->first = c->next;
    if (c->next)
        c->next->prev = c->prev;
    else
        k->last = c->prev;
    c->fn(c->arg, rc, c->answer.data ? c->answer.data : "", c->answer.len, err);
    buf_done(&c->answer);
    mem_free(c);
}

/* What a WAIT's reply says: 0, or why the calls before it are not known to be kept. */
static int read_wait(const struct backend_kept *k, int rc, const struct redisReply *reply, struct err *err)
{
    size_t n;
    int64_t kept = k->how == HOW_REPLICA ? redis_async_int(reply) : redis_async_int(redis_async_at(reply, 0));
    if (rc == 0 && redis_async_kind(reply) == REDIS_ERROR) {
        const char *text = redis_async_text(reply, &n);
        return redis_find_error(text, n, err);
    }
    if (rc == 0 && kept >= 1)
        return 0;
    return err_set(err, ERR_REDIS, "Redis has the job, but %s within %d s; send it again with the same Idempotency-Key",
                   k->how == HOW_REPLICA ? "no replica has said that it has it" : "has not said that it is on its disk",
                   WAIT_MS / 1000);
}

static void wait_next(struct backend_kept *k);

static void on_waited(void *arg, int rc, const struct redisReply *reply)
{
    struct backend_kept *k = arg;
    struct err why = {0}, lost = {0};
    uint64_t epoch = redis_async_epoch(k->conn);
    int got = read_wait(k, rc, reply, &why);
    err_set(&lost, ERR_REDIS, "the connection to Redis was lost before the job was known to be kept; send it again with the "
                              "same Idempotency-Key");
    k->waiting = false;
    for (struct call *c = k->first, *next; c; c = next) {
        next = c->next;
        if (!c->answered || c->number > k->waiting_until) /* redirected, or sent later: the next one covers it */
            continue;
        if (rc < 0 || c->epoch != epoch)
            call_end(c, ERR_REDIS, &lost);
        else
            call_end(c, got, &why);
    }
    wait_next(k);
}

static void on_marked(void *arg, int rc, const struct redisReply *reply)
{
    (void)arg, (void)rc, (void)reply; /* the WAIT behind it tells what became of both */
}

static void wait_next(struct backend_kept *k)
{
    char ms[16];
    if (k->waiting || k->closing || !k->first)
        return;
    k->waiting = true;
    k->waiting_until = k->number;
    str_format(ms, sizeof ms, "%d", WAIT_MS);
    const char *mark[] = {"SET", k->mark, "1", "PX", "60000"};
    const size_t mark_len[] = {3, strlen(k->mark), 1, 2, 5};
    redis_async_command(k->conn, WAIT_REPLY_MS, on_marked, k, 5, mark, mark_len);
    if (k->how == HOW_REPLICA)
        redis_async_command(k->conn, WAIT_REPLY_MS, on_waited, k, 3, (const char *[]){"WAIT", "1", ms},
                            (const size_t[]){4, 1, strlen(ms)});
    else
        redis_async_command(k->conn, WAIT_REPLY_MS, on_waited, k, 4, (const char *[]){"WAITAOF", "1", "0", ms},
                            (const size_t[]){7, 1, 1, strlen(ms)});
}

static void on_answer(void *arg, int rc, const struct redisReply *reply)
{
    struct call *c = arg;
    struct backend_kept *k = c->k;
    struct err err = {0};
    size_t n;
    const char *text = redis_async_text(reply, &n), *why = redis_async_why(k->conn)->text;
    if (rc < 0)
        err_set(&err, rc, "%s; try again", *why ? why : "Redis is not reachable at the moment");
    else if (redis_async_kind(reply) == REDIS_ERROR)
        rc = redis_find_error(text, n, &err);
    else if ((rc = buf_add(&c->answer, text, n)) < 0)
        err_set(&err, rc, "%s", err_text(rc));
    if (rc < 0) {
        call_end(c, rc == ERR_NOTFOUND ? ERR_REDIS : rc, &err);
        return;
    }
    c->answered = true;
    c->epoch = redis_async_epoch(k->conn);
    wait_next(k);
}

bool backend_kept_waits(const struct backend_kept *k)
{
    return k && k->how != HOW_ALWAYS;
}

void backend_kept_send(struct backend_kept *k, struct queue_cmd *c, backend_fn fn, void *arg)
{
    struct call *call = mem_zalloc(sizeof *call);
    if (!call) {
        struct err err = {0};
        err_set(&err, ERR_NOMEM, "out of memory");
        queue_cmd_done(c);
        fn(arg, ERR_NOMEM, NULL, 0, &err);
        return;
    }
    *call = (struct call){.k = k, .fn = fn, .arg = arg, .number = ++k->number, .prev = k->last};
    buf_init(&call->answer, ANSWER_MAX);
    if (k->last)
        k->last->next = call;
    else
        k->first = call;
    k->last = call;
    redis_async_command(k->conn, SUBMIT_REPLY_MS, on_answer, call, c->argc, c->argv, c->argv_len);
    queue_cmd_done(c);
    wait_next(k);
}

/* ---- life ---- */

static void on_up(void *arg)
{
    struct backend_kept *k = arg;
    redis_async_ready(k->conn); /* backend.c's own connection has the server checked */
}

static void on_down(void *arg, const struct err *why)
{
    (void)arg, (void)why; /* backend.c's own connection tells the log */
}

int backend_kept_new(struct app *app, const struct redis_url *url, struct backend_kept **ret, struct err *err)
{
    const char *wanted = app->conf.durability;
    *ret = NULL;
    if (strcmp(wanted, "default") == 0)
        return 0;
    if (!str_in_list("disk|replica", wanted))
        return err_set(err, ERR_INVALID, "durability: '%s' is not one of default, disk, replica", wanted);
    struct backend_kept *k = mem_zalloc(sizeof *k);
    if (!k)
        return err_set(err, ERR_NOMEM, "out of memory");
    k->how = strcmp(wanted, "replica") == 0 ? HOW_REPLICA : HOW_ALWAYS;
    str_format(k->mark, sizeof k->mark, "%s:kept", app->queue.base);
    struct redis_async_opts o = {
        .url = url, .key = app->queue.base, .hold = true, .on_up = on_up, .on_down = on_down, .arg = k};
    int rc = redis_async_new(app->loop, &o, &k->conn, err);
    if (rc < 0)
        mem_free(k);
    else
        *ret = k;
    return rc;
}

void backend_kept_free(struct backend_kept *k)
{
    if (!k)
        return;
    k->closing = true;
    redis_async_free(k->conn); /* ends all calls but those that were answered */
    struct err err = {0};
    err_set(&err, ERR_REDIS, "the dispatcher stops");
    while (k->first)
        call_end(k->first, ERR_REDIS, &err);
    mem_free(k);
}
