/* server.c -- who owns what, and the four traps.
 *
 * The server owns its sockets, the libmicrohttpd daemon, one uv_poll on the daemon's epoll descriptor and one uv_timer
 * for its deadlines. server_free closes the handles; the memory goes in the last close callback. A request is made in
 * on_access and ends in on_completed, nowhere else.
 *
 * Traps of libmicrohttpd under a foreign loop:
 * 1. An answer queued on the handler's first call forces "Connection: close", so refusals found in the headers wait for
 *    the end of the body; only a client that asked (Expect: 100-continue), or a body beyond SWALLOW_MAX, is refused
 *    at once.
 * 2. After MHD_resume_connection nothing wakes the loop: server_wake arms the timer at 0 ms.
 * 3. A suspended connection is out of the epoll set, so its loss goes unseen: every park has a deadline of its own and
 *    event streams write a comment line now and then.
 * 4. Each connection holds a fixed pool for headers and buffers, which is also the limit of a request's headers: the setting
 *    max_header_bytes decides what ten thousand parked requests take.
 */
#include "dispatcher/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "common/mem.h"
#include "common/str.h"
#include "dispatcher/gate.h"

enum {
    LISTENERS = 8,
    BACKLOG = 1024,
    ACCEPTS_A_TURN = 64, /* fairness: then the loop looks at the others */
    DRAIN_IDLE_S = 2,
    ACCEPT_PAUSE_MS = 100, /* out of descriptors: try again then */
    LOOK_MS = 1000,        /* how often late clients are looked for */
    BODY_MS = 3600 * 1000, /* a whole body, however slow */
};

static const uint64_t SWALLOW_MAX = 512ull << 20;

struct listener {
    uv_poll_t poll;
    struct server *server;
    int fd;
};

/* The library's own timeout is about silence; a client that sends a byte now and then is stopped by this one. */
struct conn {
    struct server *server;
    int fd;
    uint64_t deadline; /* loop time, ms, until which the headers, then the body, must be here; 0: they are */
    struct conn *prev, *next;
};

struct server {
    struct server_opts opts;
    uv_loop_t *loop;
    struct MHD_Daemon *mhd;
    uv_poll_t poll;
    uv_timer_t timer, pause, look;
    struct listener listener[LISTENERS];
    int n_listeners, n_handles; /* n_handles: still to be closed by the loop */
    bool accepting, draining, running, woken;
    unsigned n_connections, n_requests;
    struct http_stats stats;
    uint64_t body_bytes;
    struct request *first;
    struct conn *first_conn; /* owned */
};

/* ---- connections ---- */

static void conn_new(struct server *s, struct MHD_Connection *conn, void **slot)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct conn *c = info ? mem_zalloc(sizeof *c) : NULL;
    *slot = c;
    if (!c)
        return;
    *c = (struct conn){.server = s, .fd = info->connect_fd, .next = s->first_conn};
    c->deadline = uv_now(s->loop) + (uint64_t)s->opts.idle_s * 1000;
    if (c->next)
        c->next->prev = c;
    s->first_conn = c;
}

static void conn_free(struct conn *c)
{
    if (!c)
        return;
    if (c->prev)
        c->prev->next = c->next;
    else
        c->server->first_conn = c->next;
    if (c->next)
        c->next->prev = c->prev;
    mem_free(c);
}

/* ms: how long what comes next may take; 0: as long as it wants. */
static void conn_allow(struct server *s, struct MHD_Connection *conn, uint64_t ms)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct conn *c = info ? info->socket_context : NULL;
    if (c)
        c->deadline = ms ? uv_now(s->loop) + ms : 0;
}

/* The library sees the end of what was shut down, and closes it. */
static void on_look(uv_timer_t *t)
{
    struct server *s = t->data;
    for (struct conn *c = s->first_conn; c; c = c->next) {
        if (c->deadline && uv_now(s->loop) > c->deadline)
            shutdown(c->fd, SHUT_RDWR);
    }
}

/* ---- requests ---- */

static struct request *request_new(struct server *s, struct MHD_Connection *conn, const char *path, const char *method)
{
    struct request *r = mem_zalloc(sizeof *r);
    if (!r)
        return NULL;
    r->app = s->opts.app;
    r->server = s;
    r->conn = conn;
    r->path = mem_strdup(path);
    r->method = mem_strdup(method);
    r->start_us = uv_hrtime() / 1000;
    if (!r->path || !r->method) {
        mem_free(r->path);
        mem_free(r->method);
        mem_free(r);
        return NULL;
    }
    r->next = s->first;
    if (r->next)
        r->next->prev = r;
    s->first = r;
    s->n_requests++;
    return r;
}

static void request_free(struct request *r)
{
    struct server *s = r->server;
    if (r->state_free)
        r->state_free(r->state);
    gate_close(r);
    if (r->response)
        MHD_destroy_response(r->response);
    for (int i = 0; i < r->n_headers; i++)
        mem_free(r->header[i].value);
    mem_free(r->path);
    mem_free(r->method);
    if (r->prev)
        r->prev->next = r->next;
    else
        s->first = r->next;
    if (r->next)
        r->next->prev = r->prev;
    s->n_requests--;
    mem_free(r);
}

static enum MHD_Result request_queue(struct request *r)
{
    if (!r->response)
        return MHD_NO;
    enum MHD_Result ok = MHD_queue_response(r->conn, (unsigned)r->status, r->response);
    MHD_destroy_response(r->response);
    r->response = NULL;
    return ok;
}

/* ---- callbacks of the library ---- */

static enum MHD_Result on_begin(struct request *r)
{
    gate_open(r);
    r->begun = true;
    if (!r->refused.code)
        return MHD_YES;
    const char *expect = request_header(r, MHD_HTTP_HEADER_EXPECT);
    const char *length = request_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
    int64_t n = 0;
    if (length && str_parse_i64(length, 0, INT64_MAX, &n) < 0)
        n = INT64_MAX;
    if (!(expect && strcasecmp(expect, "100-continue") == 0) && (uint64_t)n <= SWALLOW_MAX)
        return MHD_YES;
    gate_serve(r);
    return request_queue(r);
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                 const char *version, const char *data, size_t *n, void **slot)
{
    struct request *r = *slot;
    (void)version;
    if (!r) {
        r = request_new(cls, conn, url, method);
        *slot = r;
        conn_allow(cls, conn, BODY_MS);
        return r ? on_begin(r) : MHD_NO;
    }
    if (*n) {
        r->swallowed += *n;
        gate_eat(r, data, *n);
        *n = 0;
        return r->swallowed <= SWALLOW_MAX ? MHD_YES : MHD_NO;
    }
    r->held = false;
    conn_allow(cls, conn, 0);
    if (!r->served) {
        r->served = true;
        gate_serve(r);
    }
    if (r->held) /* parked in this call, perhaps resumed in it too: the library calls again */
        return MHD_YES;
    return request_queue(r);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **slot, enum MHD_RequestTerminationCode why)
{
    struct request *r = *slot;
    struct server *s = cls;
    conn_allow(s, conn, (uint64_t)s->opts.idle_s * 1000);
    if (!r)
        return;
    double seconds = (double)(uv_hrtime() / 1000 - r->start_us) / 1e6;
    http_stats_count(&s->stats, r, seconds);
    LOG(DEBUG, "request", log_str("method", r->method), log_str("path", r->path), log_int("status", r->status),
        log_int("whole", why == MHD_REQUEST_TERMINATED_COMPLETED_OK),
        log_num("ms", seconds * 1000));
    request_free(r);
    *slot = NULL;
}

static void listeners_start(struct server *s);

static void on_connection(void *cls, struct MHD_Connection *conn, void **slot, enum MHD_ConnectionNotificationCode code)
{
    struct server *s = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        s->n_connections++;
        conn_new(s, conn, slot);
        return;
    }
    s->n_connections--;
    conn_free(*slot);
    if (!s->draining && !s->accepting)
        listeners_start(s);
}

static void on_library_log(void *cls, const char *fmt, va_list ap)
{
    (void)cls; /* its remarks are about clients that went away */
    (void)fmt;
    (void)ap;
}

/* ---- the loop ---- */

static void on_timer(uv_timer_t *t);

static void server_run(struct server *s)
{
    MHD_UNSIGNED_LONG_LONG ms;
    s->running = true;
    s->woken = false;
    MHD_run(s->mhd);
    s->running = false;
    if (s->woken)
        uv_timer_start(&s->timer, on_timer, 0, 0);
    else if (MHD_get_timeout(s->mhd, &ms) == MHD_YES)
        uv_timer_start(&s->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&s->timer);
}

static void on_timer(uv_timer_t *t)
{
    server_run(t->data);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    server_run(p->data);
}

void server_wake(struct server *s)
{
    s->woken = true;
    if (!s->running && s->mhd)
        uv_timer_start(&s->timer, on_timer, 0, 0);
}

/* ---- accepting ---- */

static void listeners_stop(struct server *s)
{
    s->accepting = false;
    for (int i = 0; i < s->n_listeners; i++)
        uv_poll_stop(&s->listener[i].poll);
}

static void on_pause(uv_timer_t *t)
{
    struct server *s = t->data;
    if (!s->draining && !s->accepting)
        listeners_start(s);
}

static void on_listener(uv_poll_t *p, int status, int events)
{
    struct listener *l = p->data;
    struct server *s = l->server;
    (void)events;
    for (int i = 0; status == 0 && i < ACCEPTS_A_TURN && s->accepting; i++) {
        struct sockaddr_storage addr;
        socklen_t len = sizeof addr;
        if (s->n_connections >= s->opts.max_connections) {
            listeners_stop(s); /* the others wait in the backlog until one leaves */
            break;
        }
        int fd = accept4(l->fd, (struct sockaddr *)&addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
            listeners_stop(s);
            uv_timer_start(&s->pause, on_pause, ACCEPT_PAUSE_MS, 0);
        }
        if (fd < 0)
            break;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        MHD_add_connection(s->mhd, fd, (struct sockaddr *)&addr, len);
    }
    server_run(s);
}

static void listeners_start(struct server *s)
{
    s->accepting = true;
    for (int i = 0; i < s->n_listeners; i++)
        uv_poll_start(&s->listener[i].poll, UV_READABLE, on_listener);
}

static int port_of(int fd)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        return 0;
    if (a.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
    return ntohs(((struct sockaddr_in *)&a)->sin_port);
}

static int open_socket(const char *host, int port, int *ret_fd, struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    char service[16];
    str_format(service, sizeof service, "%d", port);
    int gai = getaddrinfo(host, service, &hints, &list);
    if (gai != 0)
        return err_set(err, ERR_INVALID, "listen address %s: %s", host, gai_strerror(gai));
    int on = 1, rc = 0;
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        rc = err_set(err, errno == EADDRINUSE ? ERR_CONFLICT : ERR_IO, "listen on %s port %d: %s%s", host, port,
                     strerror(errno), errno == EADDRINUSE ? "; stop the other program or choose another port" : "");
        if (fd >= 0)
            close(fd);
    } else {
        *ret_fd = fd;
    }
    freeaddrinfo(list);
    return rc;
}

int server_listen(struct server *s, const char *host, int port, int *ret_port, struct err *err)
{
    if (s->n_listeners == LISTENERS)
        return err_set(err, ERR_LIMIT, "listen on %s: at most %d addresses", host, LISTENERS);
    int fd = -1;
    int rc = open_socket(host, port, &fd, err);
    if (rc < 0)
        return rc;
    struct listener *l = &s->listener[s->n_listeners];
    *l = (struct listener){.server = s, .fd = fd};
    rc = uv_poll_init(s->loop, &l->poll, fd);
    if (rc < 0) {
        close(fd);
        return err_set(err, ERR_IO, "listen on %s: %s", host, uv_strerror(rc));
    }
    l->poll.data = l;
    s->n_listeners++;
    s->n_handles++;
    listeners_start(s);
    if (ret_port)
        *ret_port = port_of(fd);
    return 0;
}

/* ---- life ---- */

static struct MHD_Daemon *daemon_start(struct server *s)
{
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG;
    return MHD_start_daemon(flags, 0, NULL, NULL, on_access, s,
                            MHD_OPTION_EXTERNAL_LOGGER, on_library_log, NULL,
                            MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_CONNECTION_LIMIT, s->opts.max_connections + 8,
                            MHD_OPTION_CONNECTION_TIMEOUT, s->opts.idle_s,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)s->opts.header_bytes,
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
                            MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
                            MHD_OPTION_END);
}

int server_new(uv_loop_t *loop, const struct server_opts *opts, struct server **ret, struct err *err)
{
    struct server *s = mem_zalloc(sizeof *s);
    if (!s)
        return err_set(err, ERR_NOMEM, "server: out of memory");
    s->opts = *opts;
    s->loop = loop;
    s->mhd = daemon_start(s);
    const union MHD_DaemonInfo *info = s->mhd ? MHD_get_daemon_info(s->mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info || uv_poll_init(loop, &s->poll, info->epoll_fd) < 0) {
        if (s->mhd)
            MHD_stop_daemon(s->mhd);
        mem_free(s);
        return err_set(err, ERR_INTERNAL, "server: the HTTP library did not start");
    }
    uv_timer_init(loop, &s->timer);
    uv_timer_init(loop, &s->pause);
    uv_timer_init(loop, &s->look);
    s->poll.data = s->timer.data = s->pause.data = s->look.data = s;
    s->n_handles = 4;
    uv_timer_start(&s->look, on_look, LOOK_MS, LOOK_MS);
    uv_poll_start(&s->poll, UV_READABLE, on_poll);
    *ret = s;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    struct server *s = h->data;
    if (--s->n_handles == 0)
        mem_free(s);
}

static void on_listener_closed(uv_handle_t *h)
{
    struct listener *l = h->data;
    close(l->fd);
    h->data = l->server;
    on_closed(h);
}

void server_drain(struct server *s)
{
    if (s->draining)
        return;
    s->draining = true;
    listeners_stop(s);
    for (int i = 0; i < s->n_listeners; i++)
        uv_close((uv_handle_t *)&s->listener[i].poll, on_listener_closed);
    s->n_listeners = 0;
    for (struct request *r = s->first; r; r = r->next) {
        if (!r->served) /* still sending: its client may be gone unseen (trap 3), so silence now counts sooner */
            MHD_set_connection_option(r->conn, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)DRAIN_IDLE_S);
    }
    server_wake(s);
}

void server_free(struct server *s)
{
    if (!s)
        return;
    server_drain(s);
    for (struct request *r = s->first; r; r = r->next)
        request_unpark(r); /* the library must not be stopped with suspended connections */
    struct MHD_Daemon *mhd = s->mhd;
    s->mhd = NULL;
    uv_poll_stop(&s->poll);
    uv_timer_stop(&s->timer);
    MHD_stop_daemon(mhd);
    uv_close((uv_handle_t *)&s->poll, on_closed);
    uv_close((uv_handle_t *)&s->timer, on_closed);
    uv_close((uv_handle_t *)&s->pause, on_closed);
    uv_close((uv_handle_t *)&s->look, on_closed);
}

bool server_draining(const struct server *s)
{
    return s->draining;
}

unsigned server_n_requests(const struct server *s)
{
    return s->n_requests;
}

unsigned server_n_connections(const struct server *s)
{
    return s->n_connections;
}

const struct http_stats *server_stats(const struct server *s)
{
    return &s->stats;
}

bool server_reserve(struct server *s, uint64_t bytes)
{
    if (bytes > s->opts.max_body_memory || s->body_bytes > s->opts.max_body_memory - bytes)
        return false;
    s->body_bytes += bytes;
    return true;
}

void server_release(struct server *s, uint64_t bytes)
{
    s->body_bytes -= bytes < s->body_bytes ? bytes : s->body_bytes;
}
