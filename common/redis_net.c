#include "common/redis_net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"

/* ---- the look-up ---- */

struct look_up {
    pthread_mutex_t lock;
    pthread_cond_t done;
    int refs; /* the asker and the thread */
    bool ready;
    int gai; /* what getaddrinfo said */
    char name[256];
    struct redis_net found;
};

static void look_up_unref(struct look_up *l)
{
    pthread_mutex_lock(&l->lock);
    bool last = --l->refs == 0;
    pthread_mutex_unlock(&l->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->done);
    mem_free(l);
}

static void *look_up_thread(void *arg)
{
    struct look_up *l = arg;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    struct redis_net found = {.n = 0};
    int gai = getaddrinfo(l->name, NULL, &hints, &list);
    for (struct addrinfo *a = gai == 0 ? list : NULL; a && found.n < REDIS_NET_ADDRESSES; a = a->ai_next) {
        if (getnameinfo(a->ai_addr, a->ai_addrlen, found.address[found.n], sizeof(found.address[0]), NULL, 0,
                        NI_NUMERICHOST) == 0)
            found.n++;
    }
    if (gai == 0)
        freeaddrinfo(list);
    pthread_mutex_lock(&l->lock);
    l->found = found;
    l->gai = gai;
    l->ready = true;
    pthread_cond_signal(&l->done);
    pthread_mutex_unlock(&l->lock);
    look_up_unref(l);
    return NULL;
}

/* Signals are the business of the program's own threads. */
static int start(struct look_up *l)
{
    sigset_t all, before;
    pthread_attr_t attr;
    pthread_t thread;
    sigfillset(&all);
    if (pthread_attr_init(&attr) != 0)
        return ERR_NOMEM;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attr, look_up_thread, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return failed ? ERR_NOMEM : 0;
}

static struct look_up *look_up_new(const char *name)
{
    struct look_up *l = mem_zalloc(sizeof(*l));
    pthread_condattr_t attr;
    if (!l)
        return NULL;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->done, &attr);
    pthread_condattr_destroy(&attr);
    str_copy(l->name, sizeof(l->name), name);
    l->refs = 2;
    if (start(l) == 0)
        return l;
    l->refs = 1;
    look_up_unref(l);
    return NULL;
}

bool redis_net_numeric(const char *name, struct redis_net *ret)
{
    struct in6_addr any;
    if (strlen(name) >= sizeof(ret->address[0]) ||
        (inet_pton(AF_INET, name, &any) != 1 && inet_pton(AF_INET6, name, &any) != 1))
        return false;
    str_copy(ret->address[0], sizeof(ret->address[0]), name);
    ret->n = 1;
    return true;
}

int redis_net_look_up(const char *name, int64_t until_us, struct redis_net *ret, struct err *err)
{
    if (redis_net_numeric(name, ret))
        return 0;
    struct look_up *l = look_up_new(name);
    struct timespec until = {.tv_sec = until_us / CLOCK_S, .tv_nsec = until_us % CLOCK_S * 1000};
    int rc = 0;
    if (!l)
        return err_set(err, ERR_NOMEM, "no memory to look up '%s'", name);
    pthread_mutex_lock(&l->lock);
    while (!l->ready && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&l->done, &l->lock, &until);
    if (!l->ready)
        rc = err_set(err, ERR_REDIS, "the name '%s' was not found in time: the name server does not answer", name);
    else if (l->gai != 0 || l->found.n == 0)
        rc = err_set(err, ERR_REDIS, "the name '%s' does not resolve: %s", name,
                     l->gai ? gai_strerror(l->gai) : "no address");
    else
        rc = 0;
    if (rc == 0)
        *ret = l->found;
    pthread_mutex_unlock(&l->lock);
    look_up_unref(l);
    return rc;
}

/* ---- the connection ---- */

/* Waits until fd is connected; 0 or an errno. */
static int wait_connected(int fd, int64_t until_us)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        int64_t left = until_us - clock_us();
        int n = poll(&p, 1, left <= 0 ? 0 : (int)(left / 1000 + 1));
        if (n == 0)
            return ETIMEDOUT;
        if (n < 0 && errno != EINTR)
            return errno;
        if (n > 0)
            break;
    }
    int e = 0;
    socklen_t len = sizeof(e);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0 ? errno : e;
}

static void set_options(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {{IPPROTO_TCP, TCP_NODELAY, 1},    {SOL_SOCKET, SO_KEEPALIVE, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 15},
                   {IPPROTO_TCP, TCP_KEEPINTVL, 5}, {IPPROTO_TCP, TCP_KEEPCNT, 3}};
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(options[i].value));
}

/* 0 or an errno. */
static int dial_address(const char *address, int port, int64_t until_us, int *ret_fd)
{
    struct sockaddr_in six_less = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    bool v4 = inet_pton(AF_INET, address, &six_less.sin_addr) == 1;
    if (!v4 && inet_pton(AF_INET6, address, &six.sin6_addr) != 1)
        return EADDRNOTAVAIL;
    int fd = socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), e = 0;
    if (fd < 0)
        return errno;
    if (connect(fd, v4 ? (const void *)&six_less : (const void *)&six, v4 ? sizeof(six_less) : sizeof(six)) < 0)
        e = errno == EINPROGRESS ? wait_connected(fd, until_us) : errno;
    if (e) {
        close(fd);
        return e;
    }
    set_options(fd);
    *ret_fd = fd;
    return 0;
}

int redis_net_dial(const char *name, int port, int64_t until_us, int *ret_fd, struct err *err)
{
    struct redis_net net = {.n = 0};
    int e = EADDRNOTAVAIL;
    int rc = redis_net_look_up(name, until_us, &net, err);
    for (int i = 0; rc == 0 && e && i < net.n; i++) {
        int64_t now = clock_us(), left = until_us - now;
        e = dial_address(net.address[i], port, i + 1 < net.n ? now + left / 2 : until_us, ret_fd);
    }
    if (rc == 0 && e)
        rc = err_set(err, ERR_REDIS, "%s", e == ETIMEDOUT ? "no answer in time" : strerror(e));
    return rc;
}
