/* backend.c -- states: down, checking (INFO, version, load), ready. Every new connection is checked again, for it may
 * lead to another server than before. */
#include "dispatcher/backend.h"

#include <string.h>

#include "common/blob.h"
#include "common/clock.h"
#include "common/crash.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/redis_find.h"
#include "common/redis_url.h"
#include "common/str.h"
#include "dispatcher/backend_kept.h"
#include "dispatcher/events.h"
#include "dispatcher/reply.h"

enum {
    EXPIRE_MS = 1000, /* also: how soon a refused server is looked at again */
    SWEEP_S = 86400,       /* an upload older than this has no writer any more */
    SWEEP_EVERY_TICKS = 3600,
};

struct backend {
    struct app *app;
    struct redis_async *conn;
    struct backend_kept *kept; /* owned; NULL: durability default */
    uv_timer_t tick, first;
    int n_refs; /* handles that are not closed, what the pool still works on */
    bool ready, checking, told;
    void (*on_first)(struct app *app, int rc, const struct err *err);
    struct err why;
    int64_t n_ticks;
    struct hist rtt;
    uint64_t n_lost;
};

struct call {
    struct backend *b;
    backend_fn fn;
    void *arg;
    int64_t start_us;
};

struct forget {
    uv_work_t work;
    struct backend *b;
    char volume[CONF_TEXT_MAX];
    json_t *ids; /* owned */
};

struct sweep {
    uv_work_t work;
    struct backend *b;
};

static void tell_first(struct backend *b, int rc, const struct err *err)
{
    if (b->told)
        return;
    b->told = true;
    uv_timer_stop(&b->first);
    b->on_first(b->app, rc, err);
}

static void not_ready(struct backend *b, int code, const struct err *err)
{
    bool fatal = code == ERR_AUTH || code == ERR_UNSUPPORTED;
    if (b->ready || strcmp(b->why.text, err->text) != 0)
        LOG(WARN, "Redis is not usable", log_code(code), log_str("why", err->text));
    b->ready = b->checking = false;
    b->why = *err;
    if (fatal)
        tell_first(b, code, err);
}

static void command(struct backend *b, struct queue_cmd *c, redis_async_fn fn, void *arg)
{
    redis_async_command(b->conn, 0, fn, arg, c->argc, c->argv, c->argv_len);
    queue_cmd_done(c);
}

static void check(struct backend *b, struct queue_cmd *c, redis_async_fn fn)
{
    redis_async_check(b->conn, fn, b, c->argc, c->argv, c->argv_len);
    queue_cmd_done(c);
}

/* ---- checking a new connection ---- */

/* True when the reply is a text to go on with; otherwise the check has ended. */
static bool check_reply(struct backend *b, int rc, const struct redisReply *reply, const char **ret, size_t *ret_len)
{
    struct err err = {0};
    *ret = redis_async_text(reply, ret_len);
    if (rc < 0)
        err_set(&err, rc, "Redis did not answer while it was checked");
    else if (redis_async_kind(reply) == REDIS_ERROR)
        rc = redis_find_error(*ret, *ret_len, &err);
    if (rc < 0)
        not_ready(b, rc == ERR_NOTFOUND ? ERR_REDIS : rc, &err);
    return rc >= 0;
}

static void set_ready(struct backend *b)
{
    b->checking = false;
    b->ready = true;
    b->why = (struct err){0};
    LOG(INFO, "Redis is ready", log_str("queue", b->app->queue.name), log_str("redis", redis_async_name(b->conn)));
    redis_async_ready(b->conn);
    tell_first(b, 0, NULL);
    events_resync(b->app->events);
}

static void on_loaded(void *arg, int rc, const struct redisReply *reply)
{
    const char *text;
    size_t n;
    if (check_reply(arg, rc, reply, &text, &n))
        set_ready(arg);
}

static void on_version(void *arg, int rc, const struct redisReply *reply)
{
    struct backend *b = arg;
    struct err err = {0};
    bool load = false;
    size_t n;
    const char *text = redis_async_text(reply, &n);
    bool missing = rc == 0 && redis_async_kind(reply) == REDIS_ERROR;
    if (missing && (rc = redis_find_error(text, n, &err)) == ERR_NOTFOUND)
        rc = 0;
    if (rc < 0) {
        err_set(&err, rc, "Redis did not answer while it was checked");
        not_ready(b, rc, &err);
        return;
    }
    err_clear(&err);
    rc = queue_read_version(missing ? NULL : text, missing ? 0 : n, &load, &err);
    if (rc < 0) {
        not_ready(b, rc, &err);
        return;
    }
    struct queue_cmd c = {0};
    if (!load) {
        set_ready(b);
    } else if ((rc = queue_cmd_load(&c)) < 0) {
        err_set(&err, rc, "the queue's library: %s", err_text(rc));
        not_ready(b, rc, &err);
    } else {
        check(b, &c, on_loaded);
    }
}

static void check_version(struct backend *b)
{
    struct err err = {0};
    struct queue_cmd c = {0};
    int rc = queue_cmd_version(&c);
    if (rc < 0) {
        err_set(&err, rc, "%s", err_text(rc));
        not_ready(b, rc, &err);
    } else {
        check(b, &c, on_version);
    }
}

/* Of CONFIG GET appendfsync; an error (forbidden, unknown) is an answer too. */
static void on_config(void *arg, int rc, const struct redisReply *reply)
{
    struct backend *b = arg;
    struct err err = {0};
    if (rc < 0)
        err_set(&err, rc, "Redis did not answer while it was checked");
    else
        rc = backend_kept_config(b->kept, reply, &err);
    if (rc < 0)
        not_ready(b, rc, &err);
    else
        check_version(b);
}

static void on_info(void *arg, int rc, const struct redisReply *reply)
{
    struct backend *b = arg;
    struct err err = {0};
    const char *text;
    size_t n;
    bool ask = false;
    if (!check_reply(b, rc, reply, &text, &n))
        return;
    if (queue_check_info(text, n, &err) < 0 || backend_kept_check(b->kept, text, n, &ask, &err) < 0)
        not_ready(b, ERR_UNSUPPORTED, &err);
    else if (ask)
        redis_async_check(b->conn, on_config, b, 3, (const char *[]){"CONFIG", "GET", "appendfsync"},
                          (const size_t[]){6, 3, 11});
    else
        check_version(b);
}

static void check_begin(struct backend *b)
{
    struct queue_cmd c = {0};
    if (b->checking || queue_cmd_info(&c) < 0)
        return;
    b->checking = true;
    check(b, &c, on_info);
}

static void on_up(void *arg)
{
    struct backend *b = arg;
    b->checking = false;
    check_begin(b);
}

static void on_down(void *arg, const struct err *why)
{
    struct backend *b = arg;
    b->n_lost += b->ready;
    not_ready(b, why->code, why);
}

/* ---- commands ---- */

static void on_reply(void *arg, int rc, const struct redisReply *reply)
{
    struct call *k = arg;
    struct err err = {0};
    size_t n = 0;
    const char *text = redis_async_text(reply, &n);
    if (rc < 0) {
        const char *why = redis_async_why(k->b->conn)->text;
        err_set(&err, rc, "%s; try again", rc == ERR_TIMEOUT ? "Redis did not answer in time"
                                           : *why            ? why
                                                             : "Redis is not reachable at the moment");
    } else if (redis_async_kind(reply) == REDIS_ERROR) {
        rc = redis_find_error(text, n, &err);
        if (rc == ERR_NOTFOUND) { /* the library is gone: load it again, and let the client repeat */
            err_clear(&err);
            rc = err_set(&err, ERR_REDIS, "Redis lost the queue's functions; they are being loaded, try again");
            k->b->ready = false;
            check_begin(k->b);
        }
    }
    if (reply)
        hist_add(&k->b->rtt, (double)(clock_us() - k->start_us) / 1e6);
    k->fn(k->arg, rc, text, n, &err);
    mem_free(k);
}

void backend_send(struct backend *b, struct queue_cmd *c, backend_fn fn, void *arg)
{
    struct call *k = mem_zalloc(sizeof *k);
    struct err err = {0};
    if (!k || !b->ready) {
        err_set(&err, k ? ERR_REDIS : ERR_NOMEM, k ? "%s; try again" : "%s",
                k ? *b->why.text ? b->why.text : "Redis is not reachable at the moment" : "out of memory");
        mem_free(k);
        queue_cmd_done(c);
        fn(arg, err.code, NULL, 0, &err);
        return;
    }
    *k = (struct call){.b = b, .fn = fn, .arg = arg, .start_us = clock_us()};
    command(b, c, on_reply, k);
}

void backend_send_durable(struct backend *b, struct queue_cmd *c, backend_fn fn, void *arg)
{
    if (b->ready && backend_kept_waits(b->kept))
        backend_kept_send(b->kept, c, fn, arg);
    else
        backend_send(b, c, fn, arg);
}

void backend_ask(struct request *r, int rc, struct queue_cmd *c, const struct err *err, backend_fn fn)
{
    if (rc < 0) {
        reply_error(r, err);
        queue_cmd_done(c);
    } else {
        request_park(r);
        backend_send(r->app->backend, c, fn, r);
    }
}

void backend_send_raw(struct backend *b, struct queue_cmd *c, redis_async_fn fn, void *arg)
{
    command(b, c, fn, arg);
}

/* ---- the queue's timer ---- */

static void backend_unref(struct backend *b)
{
    if (--b->n_refs == 0)
        mem_free(b);
}

static void on_deleted(void *arg, int rc, const void *bytes, size_t len, const struct err *err)
{
    (void)arg;
    (void)rc;
    (void)bytes;
    (void)len;
    (void)err; /* expire names the job again next time */
}

static void forget_work(uv_work_t *w)
{
    struct forget *f = w->data;
    size_t i;
    json_t *id;
    json_array_foreach(f->ids, i, id) {
        struct err err = {0};
        if (blob_delete_results(f->volume, json_string_value(id), &err) < 0)
            json_array_set_new(f->ids, i, json_null());
    }
}

static void forget_after(uv_work_t *w, int status)
{
    struct forget *f = w->data;
    size_t i;
    json_t *id;
    (void)status;
    CRASH_POINT(dispatcher_forget);
    json_array_foreach(f->ids, i, id) {
        struct queue_cmd c = {0};
        struct err err = {0};
        if (json_is_string(id) && queue_cmd_forgot(&c, &f->b->app->queue, json_string_value(id), &err) == 0)
            backend_send(f->b, &c, on_deleted, NULL);
        queue_cmd_done(&c);
    }
    json_decref(f->ids);
    backend_unref(f->b);
    mem_free(f);
}

static void on_expired(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct backend *b = arg;
    struct queue_expired x = {0};
    struct err err = {0};
    (void)why;
    if (rc < 0 || queue_read_expire(bytes, len, &x, &err) < 0)
        return;
    CRASH_POINT(dispatcher_expired);
    if (x.n_leases || x.n_deadlines)
        LOG(WARN, "time ran out", log_int("leases", x.n_leases), log_int("deadlines", x.n_deadlines));
    struct forget *f = json_array_size(x.forget) ? mem_zalloc(sizeof *f) : NULL;
    if (!f) {
        json_decref(x.forget);
        return;
    }
    f->b = b;
    f->ids = x.forget;
    f->work.data = f;
    b->n_refs++;
    str_copy(f->volume, sizeof f->volume, b->app->conf.volume);
    if (uv_queue_work(b->app->loop, &f->work, forget_work, forget_after) < 0) {
        b->n_refs--;
        json_decref(f->ids);
        mem_free(f);
    }
}

static void sweep_work(uv_work_t *w)
{
    const struct sweep *s = w->data;
    blob_sweep(s->b->app->conf.volume, SWEEP_S);
}

static void sweep_after(uv_work_t *w, int status)
{
    struct sweep *s = w->data;
    (void)status;
    backend_unref(s->b);
    mem_free(s);
}

/* In the pool: a slow volume must not hold up the loop. */
static void sweep(struct backend *b)
{
    struct sweep *s = mem_zalloc(sizeof *s);
    if (!s)
        return;
    *s = (struct sweep){.b = b, .work.data = s};
    if (uv_queue_work(b->app->loop, &s->work, sweep_work, sweep_after) < 0)
        mem_free(s);
    else
        b->n_refs++;
}

static void on_tick(uv_timer_t *t)
{
    struct backend *b = t->data;
    struct queue_cmd c = {0};
    struct err err = {0};
    CRASH_POINT(dispatcher_expire);
    if (b->n_ticks++ % SWEEP_EVERY_TICKS == 0)
        sweep(b);
    if (!b->ready && redis_async_up(b->conn))
        check_begin(b);
    else if (b->ready && queue_cmd_expire(&c, &b->app->queue, &err) == 0)
        backend_send(b, &c, on_expired, b);
    queue_cmd_done(&c);
}

static void on_first_late(uv_timer_t *t)
{
    struct backend *b = t->data;
    struct err err = {0};
    err_set(&err, ERR_TIMEOUT, "%s (gave up waiting; start it, or name another with --redis)",
            *b->why.text ? b->why.text : "Redis did not answer");
    tell_first(b, ERR_TIMEOUT, &err);
}

/* ---- life ---- */

int backend_new(struct app *app, unsigned wait_ms, void (*on_first)(struct app *app, int rc, const struct err *err),
                struct backend **ret, struct err *err)
{
    struct redis_url url;
    int rc = redis_url_parse(app->conf.redis, &url, err);
    if (rc < 0)
        return rc;
    struct backend *b = mem_zalloc(sizeof *b);
    if (!b)
        return err_set(err, ERR_NOMEM, "out of memory");
    b->app = app;
    b->on_first = on_first;
    struct redis_async_opts o = {
        .url = &url, .key = app->queue.base, .hold = true, .on_up = on_up, .on_down = on_down, .arg = b};
    const char *warning = redis_url_warning(&url);
    if (warning)
        LOG(WARN, "the setting redis is not safe", log_str("why", warning));
    rc = backend_kept_new(app, &url, &b->kept, err);
    if (rc == 0)
        rc = redis_async_new(app->loop, &o, &b->conn, err);
    if (rc < 0) {
        backend_kept_free(b->kept);
        mem_free(b);
        return rc;
    }
    uv_timer_init(app->loop, &b->tick);
    uv_timer_init(app->loop, &b->first);
    b->tick.data = b->first.data = b;
    b->n_refs = 2;
    uv_timer_start(&b->tick, on_tick, EXPIRE_MS, EXPIRE_MS);
    uv_timer_start(&b->first, on_first_late, wait_ms, 0);
    *ret = b;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    backend_unref(h->data);
}

void backend_free(struct backend *b)
{
    if (!b)
        return;
    b->told = true;
    b->ready = false; /* what comes back from the pool sends nothing more */
    backend_kept_free(b->kept);
    redis_async_free(b->conn);
    uv_close((uv_handle_t *)&b->tick, on_closed);
    uv_close((uv_handle_t *)&b->first, on_closed);
}

bool backend_ready(const struct backend *b)
{
    return b->ready;
}

const struct hist *backend_rtt(const struct backend *b)
{
    return &b->rtt;
}

uint64_t backend_n_lost(const struct backend *b)
{
    return b->n_lost;
}
