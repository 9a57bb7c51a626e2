/* redis_async.c -- the connection's life:
 *
 *     WAITING --timer--> FINDING --> CONNECTING --> LOGIN --> UP
 *        ^                  |             |           |       | |
 *        |------ go_down ---+-------------+-----------+-------' |
 *        '------ switch_server, when all that was sent is answered
 *
 * FINDING asks sentinels and name servers, in a pool thread (redis_find.h); numbers and sockets need none. A command is in
 * one of three lists: sent (in order), held, unsent (to be told that it failed, on the next tick). Nothing is freed under
 * its own callback: hiredis defers a free asked for inside one.
 */
#include "dispatcher/redis_async.h"

#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/redis_find.h"
#include "common/redis_tls.h"
#include "common/str.h"
#include "dispatcher/redis_link.h"

enum {
    RETRY_MIN_MS = 50,
    RETRY_MAX_MS = 2000,
    CONNECT_MS = 2000,
    COMMAND_MS = 5000,
    HELD_MS = 100, /* how often a server that has no time now is asked again */
    LAST_MS = 500, /* not so short before the deadline: an answer that misses it drops the connection */
    HOPS_MAX = 5,  /* switches in a row without a pause */
    WATCH_MS = 1000, /* how often sentinels are asked whether the master is still the one */
    TLS_MORE_MS = 500, /* so that the reason of the TLS side comes before the deadline here */
};

enum state { STATE_WAITING, STATE_FINDING, STATE_CONNECTING, STATE_LOGIN, STATE_UP, STATE_CLOSING };

struct command {
    struct redis_async *owner;
    redis_async_fn fn; /* NULL: answered already (deadline) */
    void *arg;
    uint64_t deadline; /* loop time, ms */
    int rc;            /* for a command that could not be sent */
    bool check;        /* never held */
    char *bytes;       /* as sent; owned (redisFreeCommand); NULL: could not be made */
    int n_bytes;
    struct command *prev, *next;
};

struct list {
    struct command *first, *last;
};

struct find {
    uv_work_t work;
    struct redis_async *c; /* NULL: freed meanwhile */
    struct redis_url url;
    struct redis_route route;
    struct redis_place place;
    unsigned ms;
    bool watch; /* only to see whether the master is still the same */
    int rc;
    struct err err;
};

struct redis_async {
    uv_loop_t *loop;
    struct redis_async_opts opts; /* url and key point to the next two */
    struct redis_url url;
    char key[64];
    enum state state;
    struct redis_route route;
    struct redis_place place;
    char name[280]; /* of place */
    int address;    /* of place.net, now tried */
    int logins;     /* answers that the login still waits for */
    bool turning;   /* nothing more is sent; switch when all is answered */
    bool switching; /* on the way to another server */
    bool ready;     /* redis_async_ready */
    int hops;
    struct find *find; /* in the pool */
    redisAsyncContext *ac;
    struct redis_tls *tls;
    uint64_t epoch;
    uv_timer_t retry, tick, again, watch;
    uint64_t state_deadline;
    uint64_t tick_at; /* loop time for which the tick is armed */
    unsigned pause_ms;
    int n_handles;
    struct list sent, held, unsent;
    struct err why;
};

/* ---- lists ---- */

static void list_add(struct list *l, struct command *k)
{
    k->next = NULL;
    k->prev = l->last;
    if (l->last)
        l->last->next = k;
    else
        l->first = k;
    l->last = k;
}

static void list_remove(struct list *l, struct command *k)
{
    if (k->prev)
        k->prev->next = k->next;
    else
        l->first = k->next;
    if (k->next)
        k->next->prev = k->prev;
    else
        l->last = k->prev;
}

/* ---- commands ---- */

static unsigned connect_ms(const struct redis_async *c)
{
    return c->opts.connect_ms ? c->opts.connect_ms : CONNECT_MS;
}

static void command_end(struct command *k, int rc, const struct redisReply *reply)
{
    if (k->fn)
        k->fn(k->arg, rc, reply);
    if (k->bytes)
        redisFreeCommand(k->bytes);
    mem_free(k);
}

static void on_tick(uv_timer_t *t);

/* The tick comes at `when` (loop time), or earlier where it is armed for earlier. */
static void tick_by(struct redis_async *c, uint64_t when)
{
    uint64_t now = uv_now(c->loop);
    if (uv_is_active((uv_handle_t *)&c->tick) && c->tick_at <= when)
        return;
    c->tick_at = when;
    uv_timer_start(&c->tick, on_tick, when > now ? when - now : 0, 0);
}

static bool turn(struct redis_async *c, const struct command *k, const struct redisReply *reply);
static void switch_server(struct redis_async *c);

static void on_reply(redisAsyncContext *ac, void *r, void *priv)
{
    struct command *k = priv;
    struct redis_async *c = k->owner;
    const struct redisReply *reply = r;
    list_remove(&c->sent, k);
    if (redis_async_kind(reply) == REDIS_ERROR && turn(c, k, reply)) {
        list_add(&c->held, k);
        tick_by(c, k->deadline);
    } else {
        if (reply && !k->check && redis_async_kind(reply) != REDIS_ERROR)
            c->hops = 0;
        command_end(k, reply ? 0 : ERR_REDIS, reply);
    }
    if (c->turning && !c->sent.first && c->ac == ac)
        switch_server(c);
}

/* Remembers a command that will fail on the next tick. */
static void command_fail(struct redis_async *c, struct command *k)
{
    list_add(&c->unsent, k);
    tick_by(c, 0);
}

/* Queues a command on the context; k->fn is told later in every case. */
static void command_send(struct redis_async *c, struct command *k)
{
    if (c->ac && redisAsyncFormattedCommand(c->ac, on_reply, k, k->bytes, (size_t)k->n_bytes) == REDIS_OK) {
        list_add(&c->sent, k);
        tick_by(c, k->deadline);
        return;
    }
    command_fail(c, k);
}

static struct command *command_new(struct redis_async *c, unsigned deadline_ms, redis_async_fn fn, void *arg, int argc,
                                   const char *const *argv, const size_t *argv_len)
{
    struct command *k = mem_zalloc(sizeof *k);
    unsigned ms = deadline_ms ? deadline_ms : c->opts.command_ms ? c->opts.command_ms : COMMAND_MS;
    if (!k)
        return NULL;
    *k = (struct command){.owner = c, .fn = fn, .arg = arg, .rc = ERR_REDIS, .deadline = uv_now(c->loop) + ms};
    k->n_bytes = redisFormatCommandArgv(&k->bytes, argc, (const char **)(uintptr_t)argv, argv_len);
    if (k->n_bytes > 0)
        return k;
    k->bytes = NULL;
    k->fn = NULL;
    command_end(k, ERR_NOMEM, NULL);
    return NULL;
}

void redis_async_command(struct redis_async *c, unsigned deadline_ms, redis_async_fn fn, void *arg, int argc,
                         const char *const *argv, const size_t *argv_len)
{
    struct command *k = command_new(c, deadline_ms, fn, arg, argc, argv, argv_len);
    bool up = c->state == STATE_UP && !c->turning;
    if (!k) { /* no memory to remember it: the one case that is answered inside the call */
        fn(arg, ERR_NOMEM, NULL);
    } else if (up && (c->ready || !c->opts.hold)) {
        command_send(c, k);
    } else if (c->opts.hold && (up || c->turning || c->switching)) {
        list_add(&c->held, k);
        tick_by(c, k->deadline);
    } else {
        command_fail(c, k);
    }
}

void redis_async_check(struct redis_async *c, redis_async_fn fn, void *arg, int argc, const char *const *argv,
                       const size_t *argv_len)
{
    struct command *k = command_new(c, 0, fn, arg, argc, argv, argv_len);
    if (!k) {
        fn(arg, ERR_NOMEM, NULL);
        return;
    }
    k->check = true;
    if (c->state == STATE_UP && !c->turning)
        command_send(c, k);
    else
        command_fail(c, k);
}

static void send_held(struct redis_async *c)
{
    for (struct command *k = c->held.first, *next; k && c->state == STATE_UP && c->ready && !c->turning; k = next) {
        next = k->next;
        if (k->deadline < uv_now(c->loop) + LAST_MS) /* on_tick ends it */
            continue;
        list_remove(&c->held, k);
        command_send(c, k);
    }
}

static void on_again(uv_timer_t *t)
{
    send_held(t->data);
}

void redis_async_ready(struct redis_async *c)
{
    c->ready = true;
    send_held(c);
}

/* ---- ends of a connection ---- */

static void on_retry(uv_timer_t *t);

static void drop(struct redis_async *c)
{
    redisAsyncContext *ac = c->ac;
    c->ac = NULL;
    c->ready = c->turning = false;
    redis_tls_close(c->tls);
    c->tls = NULL;
    if (ac)
        redisAsyncFree(ac); /* calls the pending callbacks; deferred when we are inside one */
}

/* Everything that ends an attempt or a connection comes here once. */
static void go_down(struct redis_async *c, int code, const char *what, const char *detail)
{
    if (c->state == STATE_WAITING || c->state == STATE_CLOSING)
        return;
    char reason[256];
    if (c->tls && redis_tls_why(c->tls, reason, sizeof reason))
        detail = reason;
    err_clear(&c->why);
    err_set(&c->why, code, "Redis at %s: %s%s%s", c->name, what, detail ? ": " : "", detail ? detail : "");
    c->state = STATE_WAITING;
    c->switching = false;
    redis_find_lost(&c->route);
    drop(c);
    unsigned ms = c->pause_ms ? c->pause_ms : RETRY_MIN_MS;
    c->pause_ms = ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : ms * 2;
    uint64_t jitter = uv_hrtime() % (ms / 2 + 1);
    uv_timer_start(&c->retry, on_retry, ms / 2 + jitter, 0);
    if (c->opts.on_down)
        c->opts.on_down(c->opts.arg, &c->why);
}

/* To where the route leads now. */
static void switch_server(struct redis_async *c)
{
    bool pause = !c->route.moved || ++c->hops > HOPS_MAX;
    c->state = STATE_WAITING;
    c->switching = true;
    drop(c);
    uv_timer_start(&c->retry, on_retry, pause ? HELD_MS : 0, 0);
}

/* What the error reply says about the way; true: the command is to be held. */
static bool turn(struct redis_async *c, const struct command *k, const struct redisReply *reply)
{
    size_t n;
    const char *text = redis_async_text(reply, &n);
    struct redis_route known = c->route; /* while turning the way is known: this one is refused like the first */
    enum redis_turn to = redis_find_turn(text, n, &c->place, c->turning ? &known : &c->route);
    if (to == REDIS_TURN_NONE || c->state == STATE_CLOSING)
        return false;
    err_clear(&c->why);
    redis_find_error(text, n, &c->why);
    if (to == REDIS_TURN_GO)
        c->turning = true;
    else if (!uv_is_active((uv_handle_t *)&c->again))
        uv_timer_start(&c->again, on_again, HELD_MS, 0);
    return c->opts.hold && k->fn && !k->check;
}

/* ---- login ---- */

static const char login_refused[] =
    "login refused; the setting redis takes a password (redis://:PASSWORD@host:port/0)";

static void come_up(struct redis_async *c)
{
    c->state = STATE_UP;
    c->switching = false;
    c->pause_ms = 0;
    c->epoch++;
    if (c->opts.on_up)
        c->opts.on_up(c->opts.arg);
}

/* One answer of the login; true: it is neither lost nor an error. */
static bool login_answer(struct redis_async *c, int rc, const struct redisReply *reply, const char *refused)
{
    size_t n;
    if (c->state != STATE_LOGIN)
        return false;
    if (rc < 0)
        go_down(c, ERR_REDIS, "the connection was lost during login", NULL);
    else if (redis_async_kind(reply) == REDIS_ERROR && refused)
        go_down(c, ERR_AUTH, refused, redis_async_text(reply, &n));
    return c->state == STATE_LOGIN;
}

static void login_done(struct redis_async *c)
{
    if (--c->logins == 0)
        come_up(c);
}

static void on_auth(void *arg, int rc, const struct redisReply *reply)
{
    if (login_answer(arg, rc, reply, login_refused))
        login_done(arg);
}

static void on_select(void *arg, int rc, const struct redisReply *reply)
{
    struct err why = {0};
    size_t n;
    const char *text = redis_async_text(reply, &n);
    bool other = redis_async_kind(reply) == REDIS_ERROR && strncmp(text, "ERR", 3) == 0 &&
                 redis_find_error(text, n, &why) < 0;
    if (login_answer(arg, rc, reply, other ? why.text : login_refused))
        login_done(arg);
}

/* Of a server that a sentinel named: is it the master? A user who may not ask is believed. */
static void on_role(void *arg, int rc, const struct redisReply *reply)
{
    struct redis_async *c = arg;
    size_t n;
    if (!login_answer(c, rc, reply, NULL))
        return;
    const char *role = redis_async_text(redis_async_at(reply, 0), &n);
    if (n && strcmp(role, "master") != 0)
        go_down(c, ERR_REDIS, "a sentinel names it as the master, but it is none; a failover may be under way", NULL);
    else
        login_done(c);
}

/* Of a cluster: does this node have the queue? */
static void on_owner(void *arg, int rc, const struct redisReply *reply)
{
    struct redis_async *c = arg;
    struct err why = {0};
    size_t n;
    if (!login_answer(c, rc, reply, NULL))
        return;
    const char *text = redis_async_text(reply, &n);
    enum redis_turn to = redis_async_kind(reply) == REDIS_ERROR ? redis_find_turn(text, n, &c->place, &c->route)
                                                                 : REDIS_TURN_NONE;
    if (to == REDIS_TURN_GO) {
        switch_server(c);
    } else if (to == REDIS_TURN_PAUSE && strncmp(text, "CLUSTERDOWN", 11) == 0) {
        redis_find_error(text, n, &why);
        go_down(c, ERR_REDIS, why.text, NULL);
    } else {
        login_done(c);
    }
}

static void login_send(struct redis_async *c, redis_async_fn fn, int argc, const char *const *argv)
{
    size_t len[3];
    for (int i = 0; i < argc; i++)
        len[i] = strlen(argv[i]);
    struct command *k = c->state == STATE_LOGIN ? command_new(c, 0, fn, c, argc, argv, len) : NULL;
    if (!k)
        return;
    k->check = true;
    c->logins++;
    command_send(c, k);
}

static void login_begin(struct redis_async *c)
{
    const struct redis_url *u = &c->url;
    char db[16];
    c->state = STATE_LOGIN;
    c->state_deadline = uv_now(c->loop) + connect_ms(c) + (c->tls ? TLS_MORE_MS : 0);
    c->logins = 0;
    str_format(db, sizeof db, "%d", u->db);
    if (*u->password)
        login_send(c, on_auth, *u->user ? 3 : 2,
                   (const char *[]){"AUTH", *u->user ? u->user : u->password, u->password});
    login_send(c, on_select, 2, (const char *[]){"SELECT", db});
    if (c->place.must_be_master)
        login_send(c, on_role, 1, (const char *[]){"ROLE"});
    if (*c->key)
        login_send(c, on_owner, 2, (const char *[]){"EXISTS", c->key});
}

/* ---- connecting ---- */

static void connect_next(struct redis_async *c);

/* The next address of the name, or down. */
static void connect_failed(struct redis_async *c, const char *detail)
{
    char text[128];
    str_copy(text, sizeof text, detail); /* lives in the context */
    if (c->address + 1 < c->place.net.n) {
        c->address++;
        drop(c);
        connect_next(c);
    } else {
        go_down(c, ERR_REDIS, "cannot connect", text);
    }
}

static void on_connect(const redisAsyncContext *ac, int status)
{
    struct redis_async *c = ac->data;
    if (c->ac != ac)
        return;
    if (status == REDIS_OK) {
        if (c->tls)
            redis_tls_taken(c->tls);
        login_begin(c);
        return;
    }
    char text[128];
    str_copy(text, sizeof text, ac->errstr && *ac->errstr ? ac->errstr : "connection refused");
    c->ac = NULL; /* hiredis frees a context that never connected */
    connect_failed(c, text);
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct redis_async *c = ac->data;
    char text[128] = "";
    if (c->ac != ac)
        return;
    if (status != REDIS_OK && ac->errstr)
        str_copy(text, sizeof text, ac->errstr);
    c->ac = NULL; /* hiredis frees it after this callback */
    go_down(c, ERR_REDIS, "the connection was lost", *text ? text : NULL);
}

static redisAsyncContext *open_context(struct redis_async *c, struct err *err)
{
    const struct redis_place *p = &c->place;
    if (*p->path)
        return redisAsyncConnectUnix(p->path);
    if (!c->url.tls)
        return redisAsyncConnect(p->net.address[c->address], p->host.port);
    if (redis_tls_dial(&c->url, p->host.name, p->host.port, connect_ms(c), &c->tls, err) < 0)
        return NULL;
    return redisAsyncConnectUnix(redis_tls_path(c->tls)); /* on_connect, or drop, takes the path away */
}

static void connect_next(struct redis_async *c)
{
    struct err err = {0};
    c->state = STATE_CONNECTING;
    c->state_deadline = uv_now(c->loop) + connect_ms(c);
    redisAsyncContext *ac = open_context(c, &err);
    if (!ac) {
        go_down(c, ERR_REDIS, "cannot connect", *err.text ? err.text : "out of memory");
        return;
    }
    if (ac->err || redis_link_attach(c->loop, ac) < 0) {
        char text[128];
        str_copy(text, sizeof text, ac->err ? ac->errstr : "no handle for the socket");
        redisAsyncFree(ac);
        connect_failed(c, text);
        return;
    }
    c->ac = ac;
    ac->data = c;
    redisAsyncSetConnectCallback(ac, on_connect);
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    tick_by(c, c->state_deadline);
}

/* ---- finding ---- */

static void handle_gone(struct redis_async *c)
{
    if (--c->n_handles == 0)
        mem_free(c);
}

static void find_now(struct find *f)
{
    f->rc = redis_find(&f->url, &f->route, true, clock_us() + f->ms * CLOCK_MS, &f->place, &f->err);
}

static void found(struct redis_async *c, const struct find *f)
{
    c->route = f->route;
    if (f->rc < 0) {
        redis_url_show(&c->url, c->name, sizeof c->name);
        go_down(c, ERR_REDIS, f->err.text, NULL);
        return;
    }
    c->place = f->place;
    c->address = 0;
    redis_find_show(&c->place, c->name, sizeof c->name);
    connect_next(c);
}

/* A master that was replaced may live on for seconds, and take changes that nobody will see: it is left when the sentinels
 * name another. */
static void watched(struct redis_async *c, const struct find *f)
{
    if (f->rc == 0 && c->state == STATE_UP && !redis_find_same(&f->place, &c->place)) {
        err_clear(&c->why);
        err_set(&c->why, ERR_REDIS, "the sentinels have named another master");
        c->turning = true;
        if (!c->sent.first)
            switch_server(c);
    }
}

static void find_work(uv_work_t *w)
{
    find_now(w->data);
}

static void find_after(uv_work_t *w, int status)
{
    struct find *f = w->data;
    struct redis_async *c = f->c;
    bool finding = c && c->state == STATE_FINDING;
    if (c)
        c->find = NULL;
    if (c && finding && f->watch)
        on_retry(&c->retry); /* which waited for this one */
    else if (finding && status == 0)
        found(c, f);
    else if (c && status == 0)
        watched(c, f);
    mem_free(f);
}

/* False: no memory, no thread. c->find then holds it. */
static bool find_queue(struct redis_async *c, bool watch)
{
    struct find *f = mem_zalloc(sizeof *f);
    if (!f)
        return false;
    *f = (struct find){.work.data = f, .c = c, .url = c->url, .route = c->route, .ms = connect_ms(c), .watch = watch};
    if (uv_queue_work(c->loop, &f->work, find_work, find_after) == 0) {
        c->find = f;
        return true;
    }
    mem_free(f);
    return false;
}

static void on_watch(uv_timer_t *t)
{
    struct redis_async *c = t->data;
    if (c->state == STATE_UP && c->place.must_be_master && !c->find)
        find_queue(c, true);
}

static void on_retry(uv_timer_t *t)
{
    struct redis_async *c = t->data;
    if (c->state != STATE_WAITING && c->state != STATE_FINDING)
        return;
    c->state = STATE_FINDING;
    if (c->find) /* one of on_watch: its end calls us again */
        return;
    if (redis_find_is_quick(&c->url, &c->route)) {
        struct find f = {.url = c->url, .route = c->route, .ms = connect_ms(c)};
        find_now(&f);
        found(c, &f);
    } else if (!find_queue(c, false)) {
        go_down(c, ERR_REDIS, "out of memory", NULL);
    }
}

/* ---- deadlines ---- */

static void tell_unsent(struct redis_async *c)
{
    while (c->unsent.first) {
        struct command *k = c->unsent.first;
        list_remove(&c->unsent, k);
        command_end(k, k->rc, NULL);
    }
}

/* True when one that was sent got no answer in time. */
static bool tell_late(struct redis_async *c, uint64_t now)
{
    bool late = false;
    for (struct command *k = c->sent.first, *next; k; k = next) {
        next = k->next;
        if (now < k->deadline || !k->fn)
            continue;
        redis_async_fn fn = k->fn;
        k->fn = NULL;
        late = true;
        fn(k->arg, ERR_TIMEOUT, NULL);
        next = c->sent.first; /* the callback may have changed the list: begin again */
    }
    for (struct command *k = c->held.first, *next; k; k = next) {
        next = k->next;
        if (now < k->deadline)
            continue;
        list_remove(&c->held, k);
        command_end(k, ERR_REDIS, NULL);
        next = c->held.first;
    }
    return late;
}

static void on_tick(uv_timer_t *t)
{
    struct redis_async *c = t->data;
    uint64_t now = uv_now(c->loop);
    tell_unsent(c);
    if (tell_late(c, now))
        go_down(c, ERR_REDIS, "no answer within the deadline", NULL);
    else if (c->state == STATE_CONNECTING && now >= c->state_deadline)
        connect_failed(c, "no connection within the deadline");
    else if (c->state == STATE_LOGIN && now >= c->state_deadline)
        go_down(c, ERR_REDIS, "no connection within the deadline", NULL);
    if (c->state == STATE_CONNECTING || c->state == STATE_LOGIN)
        tick_by(c, c->state_deadline);
    for (struct command *k = c->sent.first; k; k = k->next)
        tick_by(c, k->deadline);
    for (struct command *k = c->held.first; k; k = k->next)
        tick_by(c, k->deadline);
    if (c->unsent.first)
        tick_by(c, 0);
}

/* ---- life ---- */

static void on_handle_closed(uv_handle_t *h)
{
    handle_gone(h->data);
}

int redis_async_new(uv_loop_t *loop, const struct redis_async_opts *opts, struct redis_async **ret, struct err *err)
{
    int rc = redis_tls_check(opts->url, err);
    struct redis_async *c = rc == 0 ? mem_zalloc(sizeof *c) : NULL;
    if (!c)
        return rc < 0 ? rc : err_set(err, ERR_NOMEM, "redis: out of memory");
    c->loop = loop;
    c->opts = *opts;
    c->url = *opts->url;
    str_copy(c->key, sizeof c->key, opts->key ? opts->key : "");
    redis_url_show(&c->url, c->name, sizeof c->name);
    uv_timer_init(loop, &c->retry);
    uv_timer_init(loop, &c->tick);
    uv_timer_init(loop, &c->again);
    uv_timer_init(loop, &c->watch);
    c->retry.data = c->tick.data = c->again.data = c->watch.data = c;
    c->n_handles = 4;
    c->state = STATE_WAITING;
    uv_timer_start(&c->retry, on_retry, 0, 0);
    if (*c->url.master)
        uv_timer_start(&c->watch, on_watch, WATCH_MS, WATCH_MS);
    *ret = c;
    return 0;
}

void redis_async_free(struct redis_async *c)
{
    if (!c || c->state == STATE_CLOSING)
        return;
    c->state = STATE_CLOSING;
    drop(c);
    while (c->held.first) {
        struct command *k = c->held.first;
        list_remove(&c->held, k);
        list_add(&c->unsent, k);
    }
    tell_unsent(c);
    if (c->find) {
        c->find->c = NULL;
        uv_cancel((uv_req_t *)&c->find->work);
    }
    uv_close((uv_handle_t *)&c->retry, on_handle_closed);
    uv_close((uv_handle_t *)&c->tick, on_handle_closed);
    uv_close((uv_handle_t *)&c->again, on_handle_closed);
    uv_close((uv_handle_t *)&c->watch, on_handle_closed);
}

bool redis_async_up(const struct redis_async *c)
{
    return c->state == STATE_UP;
}

const char *redis_async_name(const struct redis_async *c)
{
    return c->name;
}

const struct err *redis_async_why(const struct redis_async *c)
{
    return &c->why;
}

uint64_t redis_async_epoch(const struct redis_async *c)
{
    return c->epoch;
}
