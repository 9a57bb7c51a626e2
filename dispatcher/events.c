#include "dispatcher/events.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/crash.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/redis_url.h"
#include "common/str.h"
#include "dispatcher/backend.h"
#include "dispatcher/redis_async.h"

enum {
    BUCKETS = 4096, /* power of two */
    BLOCK_MS = 5000,
    REPLY_MS = 8000, /* the deadline of a read that blocks for BLOCK_MS */
    BATCH = 512,
    AGAIN_MS = 300, /* after an answer that was an error */
};

struct events {
    struct app *app;
    struct redis_async *conn;
    uv_timer_t again;
    char last[EVENTS_ID];
    bool known; /* last says where the stream ended when we came */
    struct events_watch *bucket[BUCKETS];
    struct events_watch *cursor; /* the next to be told; unwatch moves it */
    unsigned n_watches;
    uint64_t moves;
    events_fn listener; /* NULL: none */
    void *listener_arg;
};

struct replay {
    struct events *ev;
    char from[EVENTS_ID], job[JOB_ID];
    events_fn fn;
    events_done_fn done;
    void *arg;
};

bool events_id_ok(const char *id)
{
    size_t a = strspn(id, "0123456789");
    if (a == 0 || a > 18)
        return false;
    size_t b = id[a] == '-' ? strspn(id + a + 1, "0123456789") : 0;
    return id[a] == 0 || (b > 0 && b <= 18 && id[a + 1 + b] == 0);
}

static void id_parts(const char *id, uint64_t part[2])
{
    part[0] = part[1] = 0;
    for (int i = 0; *id; id++) {
        if (*id == '-')
            i = 1;
        else
            part[i] = part[i] * 10 + (uint64_t)(*id - '0');
    }
}

bool events_id_after(const char *a, const char *b)
{
    uint64_t x[2], y[2];
    id_parts(a, x);
    id_parts(b, y);
    return x[0] != y[0] ? x[0] > y[0] : x[1] > y[1];
}

static unsigned bucket_of(const char *job)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (; *job; job++)
        h = (h ^ (unsigned char)*job) * 16777619u;
    return h & (BUCKETS - 1);
}

void events_watch(struct events *ev, struct events_watch *w, const char *job)
{
    if (w->on)
        return;
    str_copy(w->job, sizeof w->job, job);
    struct events_watch **head = &ev->bucket[bucket_of(w->job)];
    w->prev = NULL;
    w->next = *head;
    if (w->next)
        w->next->prev = w;
    *head = w;
    w->on = true;
    ev->n_watches++;
}

void events_unwatch(struct events *ev, struct events_watch *w)
{
    if (!w->on)
        return;
    if (ev->cursor == w)
        ev->cursor = w->next;
    if (w->prev)
        w->prev->next = w->next;
    else
        ev->bucket[bucket_of(w->job)] = w->next;
    if (w->next)
        w->next->prev = w->prev;
    w->on = false;
    ev->n_watches--;
}

/* job NULL: all watchers of the bucket. A watcher may unwatch itself or others meanwhile. */
static void tell(struct events *ev, unsigned bucket, const char *stream_id, const struct queue_event *e)
{
    for (struct events_watch *w = ev->bucket[bucket]; w; w = ev->cursor) {
        ev->cursor = w->next;
        if (!e || strcmp(w->job, e->id) == 0)
            w->fn(w->arg, stream_id, e);
    }
    ev->cursor = NULL;
}

/* One stream entry [id, [field, value]] to an event. False for one that is not ours: it is passed over. */
static bool entry_parse(const struct redisReply *entry, char id[EVENTS_ID], struct queue_event *ret)
{
    struct err err = {0};
    size_t n, id_len;
    const char *id_text = redis_async_text(redis_async_at(entry, 0), &id_len);
    const struct redisReply *fields = redis_async_at(entry, 1);
    if (id_len == 0 || id_len >= EVENTS_ID)
        return false;
    memcpy(id, id_text, id_len);
    id[id_len] = 0;
    const char *value = redis_async_text(redis_async_at(fields, 1), &n);
    return queue_read_event(value, n, ret, &err) == 0;
}

static void take_entry(struct events *ev, const struct redisReply *entry)
{
    struct queue_event e = {0};
    char id[EVENTS_ID] = "";
    bool ours = entry_parse(entry, id, &e);
    if (*id)
        str_copy(ev->last, sizeof ev->last, id);
    if (!ours)
        return;
    CRASH_POINT(dispatcher_event);
    if (strcmp(e.what, "progress") != 0)
        ev->moves++;
    tell(ev, bucket_of(e.id), id, &e);
    if (ev->listener)
        ev->listener(ev->listener_arg, id, &e);
}

static void read_next(struct events *ev);

static void on_again(uv_timer_t *t)
{
    struct events *ev = t->data;
    if (redis_async_up(ev->conn))
        read_next(ev);
}

static void on_read(void *arg, int rc, const struct redisReply *reply)
{
    struct events *ev = arg;
    if (rc < 0)
        return; /* the connection comes back and on_up goes on */
    if (redis_async_kind(reply) == REDIS_ERROR) {
        uv_timer_start(&ev->again, on_again, AGAIN_MS, 0);
        return;
    }
    /* [[key, [entry, ...]]], or nil after BLOCK_MS */
    const struct redisReply *list = redis_async_at(redis_async_at(reply, 0), 1);
    for (size_t i = 0; i < redis_async_count(list); i++)
        take_entry(ev, redis_async_at(list, i));
    read_next(ev);
}

/* Where the stream ends now: [[id, ...]] or []. */
static void on_end(void *arg, int rc, const struct redisReply *reply)
{
    struct events *ev = arg;
    size_t n;
    if (rc < 0)
        return;
    if (redis_async_kind(reply) == REDIS_ERROR) {
        uv_timer_start(&ev->again, on_again, AGAIN_MS, 0);
        return;
    }
    const char *id = redis_async_text(redis_async_at(redis_async_at(reply, 0), 0), &n);
    str_format(ev->last, sizeof ev->last, "%.*s", (int)n, n ? id : "");
    ev->known = true;
    read_next(ev);
}

static void read_next(struct events *ev)
{
    struct queue_cmd c = {0};
    char key[80];
    if (!ev->known) {
        str_format(key, sizeof key, "%s:events", ev->app->queue.base);
        const char *argv[] = {"XREVRANGE", key, "+", "-", "COUNT", "1"};
        const size_t len[] = {9, strlen(key), 1, 1, 5, 1};
        redis_async_command(ev->conn, 0, on_end, ev, 6, argv, len);
        return;
    }
    if (queue_cmd_events(&c, &ev->app->queue, *ev->last ? ev->last : "0-0", BLOCK_MS, BATCH) == 0)
        redis_async_command(ev->conn, REPLY_MS, on_read, ev, c.argc, c.argv, c.argv_len);
    else
        uv_timer_start(&ev->again, on_again, AGAIN_MS, 0);
    queue_cmd_done(&c);
}

static void on_up(void *arg)
{
    struct events *ev = arg;
    uv_timer_stop(&ev->again); /* of the connection before: one reader is enough, two would tell all twice */
    read_next(ev);
}

void events_resync(struct events *ev)
{
    for (unsigned i = 0; ev && i < BUCKETS; i++) {
        if (ev->bucket[i])
            tell(ev, i, NULL, NULL);
    }
    if (ev && ev->listener)
        ev->listener(ev->listener_arg, NULL, NULL);
}

void events_listen(struct events *ev, events_fn fn, void *arg)
{
    ev->listener = fn;
    ev->listener_arg = arg;
}

static void on_down(void *arg, const struct err *why)
{
    (void)arg;
    (void)why; /* the command connection tells the log */
}

int events_new(struct app *app, struct events **ret, struct err *err)
{
    struct redis_url url;
    int rc = redis_url_parse(app->conf.redis, &url, err);
    if (rc < 0)
        return rc;
    struct events *ev = mem_zalloc(sizeof *ev);
    if (!ev)
        return err_set(err, ERR_NOMEM, "out of memory");
    ev->app = app;
    struct redis_async_opts o = {.url = &url, .key = app->queue.base, .on_up = on_up, .on_down = on_down, .arg = ev};
    rc = redis_async_new(app->loop, &o, &ev->conn, err);
    if (rc < 0) {
        mem_free(ev);
        return rc;
    }
    uv_timer_init(app->loop, &ev->again);
    ev->again.data = ev;
    *ret = ev;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

void events_free(struct events *ev)
{
    if (!ev)
        return;
    redis_async_free(ev->conn);
    uv_close((uv_handle_t *)&ev->again, on_closed);
}

/* ---- replay ---- */

static void replay_end(struct replay *p, int rc, const struct err *err)
{
    p->done(p->arg, rc, err);
    mem_free(p);
}

static void replay_page(struct replay *p);

static void on_page(void *arg, int rc, const struct redisReply *reply)
{
    struct replay *p = arg;
    struct err err = {0};
    if (rc == 0 && redis_async_kind(reply) == REDIS_ERROR)
        rc = ERR_REDIS;
    if (rc < 0) {
        err_set(&err, rc, "Redis is not reachable at the moment; try again");
        replay_end(p, rc, &err);
        return;
    }
    size_t n = redis_async_count(reply);
    for (size_t i = 0; i < n; i++) {
        struct queue_event e = {0};
        char id[EVENTS_ID] = "";
        bool ours = entry_parse(redis_async_at(reply, i), id, &e);
        if (*id)
            str_copy(p->from, sizeof p->from, id);
        if (ours && strcmp(e.id, p->job) == 0)
            p->fn(p->arg, id, &e);
    }
    if (n < BATCH)
        replay_end(p, 0, &err);
    else
        replay_page(p);
}

static void replay_page(struct replay *p)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    int rc = queue_cmd_replay(&c, &p->ev->app->queue, p->from, BATCH);
    if (rc < 0) {
        err_set(&err, rc, "%s", err_text(rc));
        replay_end(p, rc, &err);
    } else {
        backend_send_raw(p->ev->app->backend, &c, on_page, p);
    }
    queue_cmd_done(&c);
}

void events_replay(struct events *ev, const char *from, const char *job, events_fn fn, events_done_fn done, void *arg)
{
    struct err err = {0};
    struct replay *p = mem_zalloc(sizeof *p);
    if (!p) {
        err_set(&err, ERR_NOMEM, "out of memory");
        done(arg, ERR_NOMEM, &err);
        return;
    }
    *p = (struct replay){.ev = ev, .fn = fn, .done = done, .arg = arg};
    str_copy(p->from, sizeof p->from, from);
    str_copy(p->job, sizeof p->job, job);
    replay_page(p);
}

const char *events_last(const struct events *ev)
{
    return ev->last;
}

uint64_t events_moves(const struct events *ev)
{
    return ev->moves;
}

unsigned events_n_watches(const struct events *ev)
{
    return ev->n_watches;
}
