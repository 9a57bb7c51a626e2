/* comm_sockets.c -- ranks are processes, one stream socket for each pair. A frame: 16 bytes of head (magic, code, length),
 * then so many bytes; code < 0: the sender has given up, the bytes are its sentence. Both ends are of one build on machines of
 * one byte order. */
#include "kernels/comm/comm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"

#define MAGIC 0x54524f55u /* of a frame */
#define HELLO 0x54524f48u
#define RETRY (20 * CLOCK_MS) /* between two calls of one that does not listen yet */

struct head {
    uint32_t magic;
    int32_t code;
    uint64_t bytes;
};

struct farewell {
    struct head head;
    char text[sizeof(((struct err *)0)->text)];
};

struct hello {
    uint32_t magic;
    int32_t rank, size;
    uint32_t pad;
    uint64_t token;
};

struct sockets {
    struct comm comm;
    struct err why; /* the first failure: after it nothing is sent */
    int fd[COMM_MAX];
    bool cut[COMM_MAX]; /* a frame to this rank was begun and not ended */
};

/* One direction of one pair in an exchange. */
struct flow {
    struct head head;
    char *data;
    size_t bytes, done; /* done counts the head too */
    bool on;
};

struct traffic {
    struct flow out[COMM_MAX], in[COMM_MAX];
};

static int gone(struct sockets *k, int rank, struct err *err)
{
    err_set(&k->why, ERR_IO, "rank %d is gone", rank);
    return err_set(err, ERR_IO, "rank %d is gone", rank);
}

/* Head and data as one run of bytes: where byte `done` lies and how many follow in one piece. */
static size_t rest(struct flow *f, char **ret)
{
    if (f->done < sizeof(f->head)) {
        *ret = (char *)&f->head + f->done;
        return sizeof(f->head) - f->done;
    }
    *ret = f->data + (f->done - sizeof(f->head));
    return f->bytes + sizeof(f->head) - f->done;
}

/* One of ours, whatever the other says. */
static int code_of(int said)
{
    return said > -(int)ERR_COUNT && said < 0 ? said : ERR_IO;
}

/* What the other has to say instead of data. */
static int read_abort(struct sockets *k, int rank, const struct head *head, struct err *err)
{
    char text[sizeof(err->text)] = "";
    size_t n = head->bytes < sizeof(text) - 1 ? (size_t)head->bytes : sizeof(text) - 1, at = 0;
    for (ssize_t got = 1; at < n && got > 0; at += (size_t)(got > 0 ? got : 0)) {
        struct pollfd p = {k->fd[rank], POLLIN, 0};
        got = poll(&p, 1, 500) > 0 ? recv(k->fd[rank], text + at, n - at, 0) : 0;
    }
    text[at] = 0;
    const int rc = code_of(head->code);
    err_set(&k->why, rc, "%s", text);
    return err_set(err, rc, "%s", text);
}

static int check_head(struct sockets *k, int rank, const struct flow *f, struct err *err)
{
    const struct head *h = &f->head;
    if (h->magic == MAGIC && h->code < 0)
        return read_abort(k, rank, h, err);
    if (h->magic == MAGIC && h->bytes == f->bytes)
        return 0;
    err_set(err, ERR_SHAPE, "rank %d sends %llu bytes, %zu are wanted", rank, (unsigned long long)h->bytes, f->bytes);
    return err_set(&k->why, ERR_SHAPE, "%s", err->text);
}

static int pull(struct sockets *k, int rank, struct flow *f, struct err *err)
{
    while (f->on) {
        char *at;
        size_t n = rest(f, &at);
        ssize_t got = n ? recv(k->fd[rank], at, n, MSG_DONTWAIT) : 0;
        if (n && got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            return 0;
        if (n && got <= 0)
            return gone(k, rank, err);
        const bool in_head = f->done < sizeof(f->head);
        f->done += (size_t)got;
        if (in_head && f->done == sizeof(f->head) && check_head(k, rank, f, err) < 0)
            return err->code;
        f->on = f->done < f->bytes + sizeof(f->head);
    }
    return 0;
}

/* A peer that takes no more may have said why: then that is the reason. */
static int refused(struct sockets *k, int rank, struct err *err)
{
    struct head h;
    if (recv(k->fd[rank], &h, sizeof(h), MSG_DONTWAIT) == (ssize_t)sizeof(h) && h.magic == MAGIC && h.code < 0)
        return read_abort(k, rank, &h, err);
    return gone(k, rank, err);
}

static int push(struct sockets *k, int rank, struct flow *f, struct err *err)
{
    while (f->on) {
        char *at;
        size_t n = rest(f, &at);
        ssize_t put = n ? send(k->fd[rank], at, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
        if (n && put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            return 0;
        if (n && put < 0)
            return refused(k, rank, err);
        f->done += (size_t)put;
        f->on = f->done < f->bytes + sizeof(f->head);
    }
    return 0;
}

static void start(struct traffic *t, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in)
{
    for (int i = 0; i < s->n; i++) {
        t->out[i] = (struct flow){{MAGIC, 0, out[i].bytes}, out[i].data, out[i].bytes, 0, i != s->me && out[i].bytes};
        t->in[i] = (struct flow){{0, 0, 0}, in[i].data, in[i].bytes, 0, i != s->me && in[i].bytes};
    }
}

/* The sockets that something is waited for on, their places; -1 beyond the deadline. */
static int wait_some(struct sockets *k, const struct comm_set *s, const struct traffic *t, int64_t until, struct pollfd *fds,
                     int *place)
{
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        const short events = (short)((t->in[i].on ? POLLIN : 0) | (t->out[i].on ? POLLOUT : 0));
        if (!events)
            continue;
        fds[n] = (struct pollfd){k->fd[s->rank[i]], events, 0};
        place[n++] = i;
    }
    const int64_t left = until - clock_us();
    if (n && (left <= 0 || (poll(fds, (nfds_t)n, (int)(left / CLOCK_MS + 1)) == 0 && clock_us() >= until)))
        return -1;
    return n;
}

static int sockets_exchange(struct comm *c, const struct comm_set *s, const struct comm_piece *out,
                            const struct comm_piece *in, struct err *err)
{
    struct sockets *k = (struct sockets *)c;
    struct traffic t;
    struct pollfd fds[COMM_MAX];
    int place[COMM_MAX], n = 1, rc = 0;
    const int64_t until = clock_us() + c->deadline_us;
    if (k->why.code)
        return err_set(err, k->why.code, "%s", k->why.text);
    start(&t, s, out, in);
    while (rc == 0 && (n = wait_some(k, s, &t, until, fds, place)) > 0) {
        for (int j = 0; j < n && rc == 0; j++) {
            const int i = place[j];
            rc = pull(k, s->rank[i], &t.in[i], err);
            if (rc == 0)
                rc = push(k, s->rank[i], &t.out[i], err);
            if (rc == 0 && (fds[j].revents & (POLLERR | POLLHUP)) && (t.in[i].on || t.out[i].on))
                rc = refused(k, s->rank[i], err);
        }
    }
    if (rc == 0 && n < 0) {
        err_set(&k->why, ERR_TIMEOUT, "rank %d did not come before the deadline", s->rank[place[0]]);
        rc = err_set(err, ERR_TIMEOUT, "%s", k->why.text);
    }
    for (int i = 0; i < s->n; i++)
        k->cut[s->rank[i]] = t.out[i].on && t.out[i].done > 0;
    return rc;
}

/* Looks, and takes nothing: another thread may be in an exchange. A rank that gave up said why, and where nothing that was
 * sent before stands in front of it that is the reason; others went because of it. */
static int sockets_check(struct comm *c, struct err *err)
{
    struct sockets *k = (struct sockets *)c;
    struct farewell said;
    int gone = -1;
    for (int i = 0; i < c->size; i++) {
        struct pollfd p = {k->fd[i], POLLRDHUP, 0};
        if (i == c->rank || poll(&p, 1, 0) <= 0)
            continue;
        const ssize_t n = recv(k->fd[i], &said, sizeof(said), MSG_DONTWAIT | MSG_PEEK);
        if (n >= (ssize_t)sizeof(said.head) && said.head.magic == MAGIC && said.head.code < 0)
            return err_set(err, code_of(said.head.code), "%.*s", (int)(n - (ssize_t)sizeof(said.head)), said.text);
        gone = gone < 0 ? i : gone;
    }
    return gone < 0 ? 0 : err_set(err, ERR_IO, "rank %d is gone", gone);
}

/* Best effort: a peer that does not read learns it from the closed socket. */
static void sockets_abort(struct comm *c, int code, const char *why)
{
    struct sockets *k = (struct sockets *)c;
    struct farewell frame;
    str_format(frame.text, sizeof(frame.text), "rank %d: %s", c->rank, why);
    frame.head = (struct head){MAGIC, code, strlen(frame.text)};
    err_set(&k->why, code, "%s", frame.text);
    for (int i = 0; i < c->size; i++) {
        if (i == c->rank || k->fd[i] < 0)
            continue;
        if (!k->cut[i]) /* otherwise these bytes would be taken for data: then the closed socket alone says it */
            send(k->fd[i], &frame, sizeof(frame.head) + (size_t)frame.head.bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        shutdown(k->fd[i], SHUT_WR);
    }
}

static void close_all(const int *fd, int size)
{
    for (int i = 0; i < size; i++)
        if (fd[i] >= 0)
            close(fd[i]);
}

static void sockets_close(struct comm *c)
{
    close_all(((struct sockets *)c)->fd, c->size);
    mem_free(c);
}

static const struct comm_carrier sockets_carrier = {
    .name = "sockets", .exchange = sockets_exchange, .check = sockets_check, .abort = sockets_abort, .close = sockets_close};

int comm_sockets_adopt(struct comm **ret, int rank, int size, const int *fd, int64_t deadline_us, struct err *err)
{
    struct sockets *k = mem_zalloc(sizeof(*k));
    if (!k) {
        close_all(fd, size);
        return err_set(err, ERR_NOMEM, "no memory for the connections of %d ranks", size);
    }
    k->comm = (struct comm){&sockets_carrier, rank, size, deadline_us};
    for (int i = 0; i < size; i++)
        k->fd[i] = i == rank ? -1 : fd[i];
    *ret = &k->comm;
    return 0;
}

/* ---- how they meet ---- */

union address {
    struct sockaddr any;
    struct sockaddr_un un;
    struct sockaddr_in in;
};

static int address_of(const char *text, union address *ret, socklen_t *ret_len, struct err *err)
{
    char host[64];
    int64_t port = 0;
    const char *colon = strrchr(text, ':');
    memset(ret, 0, sizeof(*ret));
    if (str_starts(text, "unix:") && str_copy(ret->un.sun_path, sizeof(ret->un.sun_path), text + 5) == 0) {
        ret->un.sun_family = AF_UNIX;
        *ret_len = sizeof(ret->un);
        return 0;
    }
    if (str_starts(text, "tcp:") && colon > text + 4 &&
        str_format(host, sizeof(host), "%.*s", (int)(colon - text - 4), text + 4) == 0 &&
        str_parse_i64(colon + 1, 1, 65535, &port) == 0 && inet_pton(AF_INET, host, &ret->in.sin_addr) == 1) {
        ret->in.sin_family = AF_INET;
        ret->in.sin_port = htons((uint16_t)port);
        *ret_len = sizeof(ret->in);
        return 0;
    }
    return err_set(err, ERR_INVALID, "a rank's address %s: unix:PATH or tcp:A.B.C.D:PORT is wanted", text);
}

static int listen_at(const char *text, int *ret, struct err *err)
{
    union address a;
    socklen_t len = 0;
    const int one = 1;
    int rc = address_of(text, &a, &len, err);
    if (rc < 0)
        return rc;
    const int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (a.any.sa_family == AF_UNIX)
        unlink(a.un.sun_path);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 || bind(fd, &a.any, len) < 0 ||
        listen(fd, COMM_MAX) < 0) {
        rc = err_set(err, ERR_IO, "a rank cannot listen at %s: %s", text, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    *ret = fd;
    return 0;
}

/* All n bytes before the deadline; false: not. */
static bool all_bytes(int fd, void *data, size_t n, bool out, int64_t until)
{
    for (size_t at = 0; at < n;) {
        struct pollfd p = {fd, out ? POLLOUT : POLLIN, 0};
        const int64_t left = until - clock_us();
        if (left <= 0 || poll(&p, 1, (int)(left / CLOCK_MS + 1)) < 0)
            return false;
        const ssize_t k = out ? send(fd, (char *)data + at, n - at, MSG_DONTWAIT | MSG_NOSIGNAL)
                              : recv(fd, (char *)data + at, n - at, MSG_DONTWAIT);
        if (k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        at += k > 0 ? (size_t)k : 0;
    }
    return true;
}

static int call(const char *text, struct hello mine, int64_t until, int *ret, struct err *err)
{
    union address a;
    socklen_t len = 0;
    int rc = address_of(text, &a, &len, err);
    while (rc == 0 && clock_us() < until) {
        struct hello theirs;
        const int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, &a.any, len) == 0 && all_bytes(fd, &mine, sizeof(mine), true, until) &&
            all_bytes(fd, &theirs, sizeof(theirs), false, until) && theirs.magic == HELLO && theirs.token == mine.token) {
            *ret = fd;
            return 0;
        }
        if (fd >= 0)
            close(fd);
        clock_sleep_us(RETRY);
    }
    return rc < 0 ? rc : err_set(err, ERR_TIMEOUT, "rank %d: nobody of the group answers at %s", mine.rank, text);
}

/* Takes calls until all ranks behind this one are there; others that call are sent away. */
static int answer(int door, struct hello mine, int *fd, int64_t until, struct err *err)
{
    for (int missing = mine.size - 1 - mine.rank; missing > 0;) {
        struct hello theirs;
        struct pollfd p = {door, POLLIN, 0};
        const int64_t left = until - clock_us();
        if (left <= 0)
            return err_set(err, ERR_TIMEOUT, "rank %d: %d ranks did not come", mine.rank, missing);
        poll(&p, 1, (int)(left / CLOCK_MS + 1));
        const int one = accept4(door, NULL, NULL, SOCK_CLOEXEC);
        if (one < 0)
            continue;
        const int64_t soon = clock_us() + CLOCK_S < until ? clock_us() + CLOCK_S : until;
        if (all_bytes(one, &theirs, sizeof(theirs), false, soon) && theirs.magic == HELLO && theirs.token == mine.token &&
            theirs.size == mine.size && theirs.rank > mine.rank && theirs.rank < mine.size && fd[theirs.rank] < 0 &&
            all_bytes(one, &mine, sizeof(mine), true, soon)) {
            fd[theirs.rank] = one;
            missing--;
        } else {
            close(one);
        }
    }
    return 0;
}

int comm_sockets_open(struct comm **ret, int rank, int size, const char *const *address, uint64_t token, int64_t deadline_us,
                      struct err *err)
{
    const struct hello mine = {HELLO, rank, size, 0, token};
    const int64_t until = clock_us() + deadline_us;
    int fd[COMM_MAX], door = -1, rc;
    if (size < 1 || size > COMM_MAX || rank < 0 || rank >= size)
        return err_set(err, ERR_INVALID, "rank %d of %d: groups have up to %d", rank, size, COMM_MAX);
    for (int i = 0; i < size; i++)
        fd[i] = -1;
    rc = listen_at(address[rank], &door, err);
    for (int i = 0; i < rank && rc == 0; i++)
        rc = call(address[i], mine, until, &fd[i], err);
    if (rc == 0)
        rc = answer(door, mine, fd, until, err);
    if (door >= 0)
        close(door);
    if (rc == 0)
        return comm_sockets_adopt(ret, rank, size, fd, deadline_us, err);
    close_all(fd, size);
    return rc;
}
