/* redis_async.c -- the connection's life:
 *
 *     WAITING --timer--> RESOLVING --> CONNECTING --> LOGIN --> UP
 *        ^                   |             |            |       |
 *        '------ on_down ----+-------------+------------+-------'
 *
 * struct redis_async owns two timers (retry, tick) and the resolver's request; struct link owns the uv_poll of one
 * hiredis context and is freed in that handle's close callback, because a context dies (hiredis calls cleanup) before
 * the loop lets go of its handle. Nothing is freed under its own callback: hiredis defers a free asked for inside one.
 */
#include "dispatcher/redis_async.h"

#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"

enum {
    RETRY_MIN_MS = 50,
    RETRY_MAX_MS = 2000,
    CONNECT_MS = 2000,
    COMMAND_MS = 5000,
};

enum state { STATE_WAITING, STATE_RESOLVING, STATE_CONNECTING, STATE_LOGIN, STATE_UP, STATE_CLOSING };

struct link {
    uv_poll_t poll;
    redisAsyncContext *ac; /* NULL once hiredis let go */
    int events;
};

struct command {
    struct redis_async *owner;
    redis_async_fn fn; /* NULL: answered already (deadline) */
    void *arg;
    uint64_t deadline; /* loop time, ms */
    int rc;            /* for a command that could not be sent */
    struct command *prev, *next;
};

struct redis_async {
    uv_loop_t *loop;
    struct redis_async_opts opts;
    char *host, *path, *user, *password;
    enum state state;
    redisAsyncContext *ac;
    uv_timer_t retry, tick;
    uv_getaddrinfo_t resolve;
    bool resolving;
    uint64_t state_deadline;
    uint64_t tick_at; /* loop time for which the tick is armed */
    unsigned pause_ms;
    int n_handles;
    struct command *first, *last; /* sent, in order */
    struct command *unsent;       /* failed at once; told on the next tick */
    struct err why;
};

/* ---- the adapter: hiredis' five hooks on one uv_poll ---- */

static void on_link_poll(uv_poll_t *p, int status, int events)
{
    struct link *l = p->data;
    if (l->ac && (status < 0 || (events & UV_READABLE)))
        redisAsyncHandleRead(l->ac);
    if (l->ac && status >= 0 && (events & UV_WRITABLE))
        redisAsyncHandleWrite(l->ac);
}

static void link_events(struct link *l, int on, int off)
{
    int events = (l->events | on) & ~off;
    if (events == l->events)
        return;
    l->events = events;
    if (events)
        uv_poll_start(&l->poll, events, on_link_poll);
    else
        uv_poll_stop(&l->poll);
}

static void link_add_read(void *p)
{
    link_events(p, UV_READABLE, 0);
}

static void link_del_read(void *p)
{
    link_events(p, 0, UV_READABLE);
}

static void link_add_write(void *p)
{
    link_events(p, UV_WRITABLE, 0);
}

static void link_del_write(void *p)
{
    link_events(p, 0, UV_WRITABLE);
}

static void on_link_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

static void link_cleanup(void *p)
{
    struct link *l = p;
    if (!l->ac)
        return;
    l->ac = NULL;
    uv_poll_stop(&l->poll);
    uv_close((uv_handle_t *)&l->poll, on_link_closed);
}

static int link_attach(uv_loop_t *loop, redisAsyncContext *ac)
{
    struct link *l = mem_zalloc(sizeof *l);
    if (!l)
        return ERR_NOMEM;
    if (uv_poll_init(loop, &l->poll, ac->c.fd) < 0) {
        mem_free(l);
        return ERR_IO;
    }
    l->poll.data = l;
    l->ac = ac;
    ac->ev.data = l;
    ac->ev.addRead = link_add_read;
    ac->ev.delRead = link_del_read;
    ac->ev.addWrite = link_add_write;
    ac->ev.delWrite = link_del_write;
    ac->ev.cleanup = link_cleanup;
    return 0;
}

/* ---- commands ---- */

static void command_unlink(struct command *k)
{
    struct redis_async *c = k->owner;
    if (k->prev)
        k->prev->next = k->next;
    else
        c->first = k->next;
    if (k->next)
        k->next->prev = k->prev;
    else
        c->last = k->prev;
}

static void on_reply(redisAsyncContext *ac, void *reply, void *priv)
{
    struct command *k = priv;
    (void)ac;
    command_unlink(k);
    if (k->fn)
        k->fn(k->arg, reply ? 0 : ERR_REDIS, reply);
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

/* Remembers a command that will fail on the next tick. */
static void command_fail(struct redis_async *c, struct command *k)
{
    k->next = c->unsent;
    c->unsent = k;
    tick_by(c, 0);
}

/* Queues a command on the context; k->fn is told later in every case. */
static void command_send(struct redis_async *c, struct command *k, int argc, const char **argv, const size_t *len)
{
    if (c->ac && redisAsyncCommandArgv(c->ac, on_reply, k, argc, argv, len) == REDIS_OK) {
        k->prev = c->last;
        if (c->last)
            c->last->next = k;
        else
            c->first = k;
        c->last = k;
        tick_by(c, k->deadline);
        return;
    }
    command_fail(c, k);
}

static struct command *command_new(struct redis_async *c, unsigned deadline_ms, redis_async_fn fn, void *arg)
{
    struct command *k = mem_zalloc(sizeof *k);
    if (!k)
        return NULL;
    unsigned ms = deadline_ms ? deadline_ms : c->opts.command_ms ? c->opts.command_ms : COMMAND_MS;
    *k = (struct command){.owner = c, .fn = fn, .arg = arg, .rc = ERR_REDIS, .deadline = uv_now(c->loop) + ms};
    return k;
}

void redis_async_command(struct redis_async *c, unsigned deadline_ms, redis_async_fn fn, void *arg, int argc,
                         const char *const *argv, const size_t *argv_len)
{
    struct command *k = command_new(c, deadline_ms, fn, arg);
    if (!k) { /* no memory to remember it: the one case that is answered inside the call */
        fn(arg, ERR_NOMEM, NULL);
        return;
    }
    if (c->state == STATE_UP)
        command_send(c, k, argc, (const char **)(uintptr_t)argv, argv_len);
    else
        command_fail(c, k);
}

/* ---- the connection ---- */

static void on_retry(uv_timer_t *t);

/* Everything that ends an attempt or a connection comes here once. */
static void go_down(struct redis_async *c, int code, const char *what, const char *detail)
{
    if (c->state == STATE_WAITING || c->state == STATE_CLOSING)
        return;
    c->state = STATE_WAITING;
    err_clear(&c->why);
    err_set(&c->why, code, "Redis at %s: %s%s%s", c->path ? c->path : c->host, what, detail ? ": " : "",
            detail ? detail : "");
    redisAsyncContext *ac = c->ac;
    c->ac = NULL;
    if (ac)
        redisAsyncFree(ac); /* calls the pending callbacks; deferred when we are inside one */
    unsigned ms = c->pause_ms ? c->pause_ms : RETRY_MIN_MS;
    c->pause_ms = ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : ms * 2;
    uint64_t jitter = uv_hrtime() % (ms / 2 + 1);
    uv_timer_start(&c->retry, on_retry, ms / 2 + jitter, 0);
    if (c->opts.on_down)
        c->opts.on_down(c->opts.arg, &c->why);
}

static const char login_refused[] =
    "login refused; the setting redis takes a password (redis://:PASSWORD@host:port/0)";

static void on_login(void *arg, int rc, const struct redisReply *reply)
{
    struct redis_async *c = arg;
    if (c->state != STATE_LOGIN)
        return;
    if (rc < 0) {
        go_down(c, ERR_REDIS, "the connection was lost during login", NULL);
    } else if (redis_async_kind(reply) == REDIS_ERROR) {
        size_t n;
        go_down(c, ERR_AUTH, login_refused, redis_async_text(reply, &n));
    } else {
        c->state = STATE_UP;
        c->pause_ms = 0;
        if (c->opts.on_up)
            c->opts.on_up(c->opts.arg);
    }
}

static void login_ignored(void *arg, int rc, const struct redisReply *reply)
{
    struct redis_async *c = arg;
    size_t n;
    if (rc == 0 && c->state == STATE_LOGIN && redis_async_kind(reply) == REDIS_ERROR)
        go_down(c, ERR_AUTH, login_refused, redis_async_text(reply, &n));
}

static void login_send(struct redis_async *c, redis_async_fn fn, int argc, const char **argv)
{
    size_t len[3];
    for (int i = 0; i < argc; i++)
        len[i] = strlen(argv[i]);
    struct command *k = c->state == STATE_LOGIN ? command_new(c, 0, fn, c) : NULL;
    if (k)
        command_send(c, k, argc, argv, len);
}

static void on_connect(const redisAsyncContext *ac, int status)
{
    struct redis_async *c = ac->data;
    if (c->ac != ac)
        return;
    if (status != REDIS_OK) {
        char text[128];
        str_copy(text, sizeof text, ac->errstr && *ac->errstr ? ac->errstr : "connection refused");
        c->ac = NULL; /* hiredis frees a context that never connected */
        go_down(c, ERR_REDIS, "cannot connect", text);
        return;
    }
    c->state = STATE_LOGIN;
    c->state_deadline = uv_now(c->loop) + (c->opts.connect_ms ? c->opts.connect_ms : CONNECT_MS);
    char db[16];
    str_format(db, sizeof db, "%d", c->opts.db);
    const char *auth[3] = {"AUTH", c->user ? c->user : c->password, c->password};
    if (c->password)
        login_send(c, login_ignored, c->user ? 3 : 2, auth);
    login_send(c, on_login, 2, (const char *[]){"SELECT", db});
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

static void connect_to(struct redis_async *c, const char *ip)
{
    redisAsyncContext *ac = c->path ? redisAsyncConnectUnix(c->path) : redisAsyncConnect(ip, c->opts.port);
    c->state = STATE_CONNECTING;
    c->state_deadline = uv_now(c->loop) + (c->opts.connect_ms ? c->opts.connect_ms : CONNECT_MS);
    if (!ac) {
        go_down(c, ERR_REDIS, "out of memory", NULL);
        return;
    }
    if (ac->err || link_attach(c->loop, ac) < 0) {
        char text[128];
        str_copy(text, sizeof text, ac->err ? ac->errstr : "no handle for the socket");
        redisAsyncFree(ac);
        go_down(c, ERR_REDIS, "cannot connect", text);
        return;
    }
    c->ac = ac;
    ac->data = c;
    redisAsyncSetConnectCallback(ac, on_connect);
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    tick_by(c, c->state_deadline);
}

static void handle_gone(struct redis_async *c)
{
    if (--c->n_handles > 0 || c->resolving)
        return;
    mem_free(c->host);
    mem_free(c->path);
    mem_free(c->user);
    mem_free(c->password);
    mem_free(c);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct redis_async *c = req->data;
    char ip[64] = "";
    c->resolving = false;
    if (status == 0)
        getnameinfo(list->ai_addr, list->ai_addrlen, ip, sizeof ip, NULL, 0, NI_NUMERICHOST);
    uv_freeaddrinfo(list);
    if (c->state == STATE_CLOSING) {
        c->n_handles++;
        handle_gone(c);
    } else if (c->state == STATE_RESOLVING) {
        if (*ip)
            connect_to(c, ip);
        else
            go_down(c, ERR_REDIS, "the name does not resolve", status ? uv_strerror(status) : NULL);
    }
}

static void on_retry(uv_timer_t *t)
{
    struct redis_async *c = t->data;
    if (c->state != STATE_WAITING || c->resolving)
        return;
    c->state = STATE_RESOLVING;
    if (c->path) {
        connect_to(c, NULL);
        return;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    c->resolve.data = c;
    int rc = uv_getaddrinfo(c->loop, &c->resolve, on_resolved, c->host, NULL, &hints);
    if (rc < 0)
        go_down(c, ERR_REDIS, "the name does not resolve", uv_strerror(rc));
    else
        c->resolving = true;
}

/* Tells the commands that could not be sent, and looks after deadlines. */
static void on_tick(uv_timer_t *t)
{
    struct redis_async *c = t->data;
    uint64_t now = uv_now(c->loop);
    while (c->unsent) {
        struct command *k = c->unsent;
        c->unsent = k->next;
        k->fn(k->arg, k->rc, NULL);
        mem_free(k);
    }
    bool late = false;
    for (struct command *k = c->first, *next; k; k = next) {
        next = k->next;
        if (now < k->deadline || !k->fn)
            continue;
        redis_async_fn fn = k->fn;
        k->fn = NULL;
        late = true;
        fn(k->arg, ERR_TIMEOUT, NULL);
        next = c->first; /* the callback may have changed the list: begin again */
    }
    if (late)
        go_down(c, ERR_REDIS, "no answer within the deadline", NULL);
    else if ((c->state == STATE_CONNECTING || c->state == STATE_LOGIN) && now >= c->state_deadline)
        go_down(c, ERR_REDIS, "no connection within the deadline", NULL);
    if (c->state == STATE_CONNECTING || c->state == STATE_LOGIN)
        tick_by(c, c->state_deadline);
    for (struct command *k = c->first; k; k = k->next)
        tick_by(c, k->deadline);
    if (c->unsent)
        tick_by(c, 0);
}

static int copy_texts(struct redis_async *c)
{
    const struct redis_async_opts *o = &c->opts;
    c->host = mem_strdup(o->host);
    c->path = mem_strdup(o->path);
    c->user = mem_strdup(o->user);
    c->password = mem_strdup(o->password);
    bool bad = (o->host && !c->host) || (o->path && !c->path) || (o->user && !c->user) ||
               (o->password && !c->password);
    return bad ? ERR_NOMEM : 0;
}

static void on_handle_closed(uv_handle_t *h)
{
    handle_gone(h->data);
}

void redis_async_opts_url(struct redis_async_opts *o, const struct redis_url *url)
{
    o->host = *url->path ? NULL : url->hosts[0].name;
    o->path = *url->path ? url->path : NULL;
    o->port = url->hosts[0].port;
    o->user = *url->user ? url->user : NULL;
    o->password = *url->password ? url->password : NULL;
    o->db = url->db;
}

int redis_async_new(uv_loop_t *loop, const struct redis_async_opts *opts, struct redis_async **ret, struct err *err)
{
    struct redis_async *c = mem_zalloc(sizeof *c);
    if (!c)
        return err_set(err, ERR_NOMEM, "redis: out of memory");
    c->loop = loop;
    c->opts = *opts;
    if (copy_texts(c) < 0) {
        c->n_handles = 1;
        handle_gone(c);
        return err_set(err, ERR_NOMEM, "redis: out of memory");
    }
    uv_timer_init(loop, &c->retry);
    uv_timer_init(loop, &c->tick);
    c->retry.data = c->tick.data = c;
    c->n_handles = 2;
    c->state = STATE_WAITING;
    uv_timer_start(&c->retry, on_retry, 0, 0);
    *ret = c;
    return 0;
}

void redis_async_free(struct redis_async *c)
{
    if (!c || c->state == STATE_CLOSING)
        return;
    redisAsyncContext *ac = c->ac;
    c->state = STATE_CLOSING;
    c->ac = NULL;
    if (ac)
        redisAsyncFree(ac);
    while (c->unsent) {
        struct command *k = c->unsent;
        c->unsent = k->next;
        k->fn(k->arg, ERR_REDIS, NULL);
        mem_free(k);
    }
    if (c->resolving)
        uv_cancel((uv_req_t *)&c->resolve);
    uv_close((uv_handle_t *)&c->retry, on_handle_closed);
    uv_close((uv_handle_t *)&c->tick, on_handle_closed);
}

bool redis_async_up(const struct redis_async *c)
{
    return c->state == STATE_UP;
}

enum redis_async_kind redis_async_kind(const struct redisReply *r)
{
    switch (r ? r->type : REDIS_REPLY_NIL) {
    case REDIS_REPLY_INTEGER:
        return REDIS_INT;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
        return REDIS_TEXT;
    case REDIS_REPLY_ARRAY:
        return REDIS_LIST;
    case REDIS_REPLY_ERROR:
        return REDIS_ERROR;
    default:
        return REDIS_NIL;
    }
}

const char *redis_async_text(const struct redisReply *r, size_t *ret_len)
{
    enum redis_async_kind k = redis_async_kind(r);
    bool has = k == REDIS_TEXT || k == REDIS_ERROR;
    *ret_len = has ? (size_t)r->len : 0;
    return has ? r->str : "";
}

size_t redis_async_count(const struct redisReply *r)
{
    return redis_async_kind(r) == REDIS_LIST ? r->elements : 0;
}

const struct redisReply *redis_async_at(const struct redisReply *r, size_t i)
{
    return i < redis_async_count(r) ? r->element[i] : NULL;
}
