#include "common/redis_find.h"

#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/queue.h"
#include "common/str.h"

#define SENTINEL_US (800 * CLOCK_MS) /* for one of several: a dead one must not use up the others' time */

/* ---- words of the server ---- */

static bool begins(const char *text, size_t len, const char *with)
{
    size_t n = strlen(with);
    return len >= n && memcmp(text, with, n) == 0;
}

/* "MOVED 3999 127.0.0.1:6381"; the host may be missing or '?' (the one that answered) and may be an IPv6 address. */
static bool parse_moved(const char *text, size_t len, const struct redis_place *at, struct redis_host *ret)
{
    char line[320];
    int64_t port;
    if (len >= sizeof(line))
        return false;
    memcpy(line, text, len);
    line[len] = 0;
    char *space = strrchr(line, ' '), *colon = strrchr(line, ':');
    if (!space || !colon || colon < space || str_parse_i64(colon + 1, 1, 65535, &port) < 0)
        return false;
    *colon = 0;
    bool same = !space[1] || strcmp(space + 1, "?") == 0;
    if (str_copy(ret->name, sizeof(ret->name), same ? at->host.name : space + 1) < 0 || !ret->name[0])
        return false;
    ret->port = (int)port;
    return true;
}

enum redis_turn redis_find_turn(const char *text, size_t len, const struct redis_place *at, struct redis_route *route)
{
    static const char *const elsewhere[] = {"READONLY", "UNBLOCKED", "MASTERDOWN", "NOREPLICAS"};
    static const char *const later[] = {"ASK ", "TRYAGAIN", "CLUSTERDOWN", "LOADING"};
    struct redis_host to;
    if (begins(text, len, "MOVED ") && parse_moved(text, len, at, &to)) {
        route->moved = true;
        route->to = to;
        return REDIS_TURN_GO;
    }
    for (size_t i = 0; i < sizeof(elsewhere) / sizeof(elsewhere[0]); i++) {
        if (begins(text, len, elsewhere[i])) {
            redis_find_lost(route);
            return REDIS_TURN_GO;
        }
    }
    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
        if (begins(text, len, later[i]))
            return REDIS_TURN_PAUSE;
    }
    return REDIS_TURN_NONE;
}

int redis_find_error(const char *text, size_t len, struct err *err)
{
    static const struct {
        const char *begin, *sentence;
    } words[] = {
        {"MOVED", "the queue's slot is on another node of the Redis cluster, which could not be reached in time"},
        {"ASK", "the queue's slot of the Redis cluster is being moved to another node; it goes on when that is done"},
        {"TRYAGAIN", "the queue's slot of the Redis cluster is on its way to another node; it goes on when that is done"},
        {"CLUSTERDOWN", "the Redis cluster is down: not every slot has a node that is up (redis-cli --cluster check)"},
        {"MASTERDOWN", "this Redis is a replica that has lost its master"},
        {"UNBLOCKED", "this Redis has become a replica"},
        {"NOREPLICAS", "Redis takes no changes: it has fewer replicas than its min-replicas-to-write"},
        {"ERR SELECT is not allowed in cluster",
         "a Redis cluster has only database 0: take the number off the setting redis"},
        {"ERR No such master", "the sentinel does not know the master of the setting redis"},
    };
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (begins(text, len, words[i].begin))
            return err_set(err, ERR_REDIS, "%s", words[i].sentence);
    }
    return queue_error(text, len, err);
}

/* ---- one blocking connection ---- */

static struct timeval left_of(int64_t until_us)
{
    int64_t left = until_us - clock_us();
    if (left < CLOCK_MS)
        left = CLOCK_MS;
    return (struct timeval){.tv_sec = left / CLOCK_S, .tv_usec = left % CLOCK_S};
}

static int64_t ms_left(int64_t until_us)
{
    int64_t ms = (until_us - clock_us()) / CLOCK_MS;
    return ms < 1 ? 1 : ms;
}

struct redisReply *redis_find_ask(struct redisContext *c, int64_t until_us, int argc, const char *const *argv,
                                  struct err *err)
{
    redisSetTimeout(c, left_of(until_us));
    redisReply *reply = redisCommandArgv(c, argc, (const char **)(uintptr_t)argv, NULL);
    if (!reply) {
        err_set(err, ERR_REDIS, "%s", c->err == REDIS_ERR_IO && errno == EAGAIN ? "no answer in time" : c->errstr);
    } else if (reply->type == REDIS_REPLY_ERROR) {
        redis_find_error(reply->str, reply->len, err);
        freeReplyObject(reply);
        reply = NULL;
    }
    return reply;
}

static int open_tls(const struct redis_url *u, const struct redis_place *p, int64_t until_us, redisContext **ret,
                    struct redis_tls **ret_tls, struct err *err)
{
    struct redis_tls *t = NULL;
    int rc = redis_tls_dial(u, p->host.name, p->host.port, ms_left(until_us), &t, err);
    if (rc < 0)
        return rc;
    *ret = redisConnectUnixWithTimeout(redis_tls_path(t), left_of(until_us));
    *ret_tls = t;
    redis_tls_taken(t);
    return redis_tls_wait(t, ms_left(until_us) + 100, err); /* the thread's own sentence comes first */
}

static int open_tcp(const struct redis_place *p, int64_t until_us, redisContext **ret, struct err *err)
{
    int fd = -1;
    int rc = redis_net_dial(p->host.name, p->host.port, until_us, &fd, err);
    if (rc < 0)
        return rc;
    *ret = redisConnectFd(fd);
    if (!*ret)
        close(fd);
    return 0;
}

/* hiredis' blocking side reads and writes with the socket's own timeouts. */
static int make_blocking(redisContext *c, int64_t until_us)
{
    struct timeval tv = left_of(until_us);
    int flags = fcntl(c->fd, F_GETFL);
    return flags < 0 || fcntl(c->fd, F_SETFL, flags & ~O_NONBLOCK) < 0 || redisSetTimeout(c, tv) != REDIS_OK ? ERR_IO : 0;
}

int redis_find_why(const struct redisContext *c, struct redis_tls *tls, const struct err *said, struct err *err)
{
    char why[256];
    if (c->err == 0) /* the server answered, and that was it */
        return err_set(err, ERR_AUTH, "%s", said->text);
    if (tls && redis_tls_why(tls, why, sizeof(why)))
        return err_set(err, ERR_REDIS, "%s", why);
    bool closed = c->err == REDIS_ERR_EOF || (c->err == REDIS_ERR_IO && strstr(said->text, "reset"));
    return err_set(err, ERR_REDIS, "%s%s", said->text,
                   closed && !tls ? "; if it is a port for TLS, the setting redis must begin with rediss://" : "");
}

static int log_in(redisContext *c, struct redis_tls *tls, const char *user, const char *password, int64_t until_us,
                  struct err *err)
{
    struct err why = {0};
    const char *words[] = {"AUTH", user[0] ? user : password, password};
    if (!password[0])
        return 0;
    redisReply *reply = redis_find_ask(c, until_us, user[0] ? 3 : 2, words, &why);
    if (!reply)
        return redis_find_why(c, tls, &why, err);
    freeReplyObject(reply);
    return 0;
}

int redis_find_open(const struct redis_url *u, const struct redis_place *p, const char *user, const char *password,
                    int64_t until_us, struct redisContext **ret, struct redis_tls **ret_tls, struct err *err)
{
    redisContext *c = NULL;
    struct redis_tls *tls = NULL;
    int rc = 0;
    if (p->path[0])
        c = redisConnectUnixWithTimeout(p->path, left_of(until_us));
    else
        rc = u->tls ? open_tls(u, p, until_us, &c, &tls, err) : open_tcp(p, until_us, &c, err);
    if (rc == 0 && !c)
        rc = err_set(err, ERR_NOMEM, "no memory for a Redis connection");
    if (rc == 0 && (c->err || make_blocking(c, until_us) < 0))
        rc = err_set(err, ERR_REDIS, "%s", c->err ? c->errstr : "the socket cannot be set up");
    if (rc == 0)
        rc = log_in(c, tls, user, password, until_us, err);
    if (rc == 0) {
        *ret = c;
        *ret_tls = tls;
        return 0;
    }
    if (c)
        redisFree(c);
    redis_tls_close(tls);
    return rc;
}

/* ---- where ---- */

const char *redis_find_show(const struct redis_place *p, char *dst, size_t size)
{
    if (p->path[0])
        str_copy(dst, size, p->path);
    else
        str_format(dst, size, strchr(p->host.name, ':') ? "[%s]:%d" : "%s:%d", p->host.name, p->host.port);
    return dst;
}

void redis_find_lost(struct redis_route *route)
{
    if (!route->moved)
        route->seed++;
    route->moved = false;
}

static const struct redis_host *next_host(const struct redis_url *u, const struct redis_route *route)
{
    return route->moved ? &route->to : &u->hosts[route->seed % (unsigned)u->n_hosts];
}

bool redis_find_is_quick(const struct redis_url *u, const struct redis_route *route)
{
    struct redis_net number;
    if (!route->moved && (u->path[0] || u->master[0]))
        return u->path[0];
    return u->tls || redis_net_numeric(next_host(u, route)->name, &number);
}

static int read_master(const struct redis_url *u, const redisReply *reply, struct redis_host *ret, struct err *err)
{
    int64_t port;
    if (reply->type == REDIS_REPLY_NIL)
        return err_set(err, ERR_REDIS, "it does not know a master of the name '%s'", u->master);
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 || reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[1]->type != REDIS_REPLY_STRING || str_parse_i64(reply->element[1]->str, 1, 65535, &port) < 0 ||
        str_copy(ret->name, sizeof(ret->name), reply->element[0]->str) < 0)
        return err_set(err, ERR_REDIS, "its answer is not a master's address");
    ret->port = (int)port;
    return 0;
}

static int ask_sentinel(const struct redis_url *u, const struct redis_place *at, int64_t until_us, struct redis_host *ret,
                        struct err *err)
{
    redisContext *c = NULL;
    struct redis_tls *tls = NULL;
    int rc = redis_find_open(u, at, u->sentinel_user, u->sentinel_password, until_us, &c, &tls, err);
    if (rc < 0)
        return rc;
    const char *words[] = {"SENTINEL", "get-master-addr-by-name", u->master};
    redisReply *reply = redis_find_ask(c, until_us, 3, words, err);
    rc = reply ? read_master(u, reply, ret, err) : ERR_REDIS;
    freeReplyObject(reply);
    redisFree(c);
    redis_tls_close(tls);
    return rc;
}

static int ask_sentinels(const struct redis_url *u, struct redis_route *route, int64_t until_us, struct redis_host *ret,
                         struct err *err)
{
    struct err why = {0};
    char name[280];
    for (int i = 0; i < u->n_hosts && clock_us() < until_us; i++) {
        struct redis_place at = {.host = *next_host(u, route)};
        int64_t until = u->n_hosts > 1 && until_us - clock_us() > SENTINEL_US ? clock_us() + SENTINEL_US : until_us;
        err_clear(&why);
        if (ask_sentinel(u, &at, until, ret, &why) == 0)
            return 0;
        route->seed++;
        err_wrap(&why, "the sentinel at %s", redis_find_show(&at, name, sizeof(name)));
    }
    return err_set(err, ERR_REDIS, "no sentinel names the master: %s", why.text);
}

bool redis_find_same(const struct redis_place *a, const struct redis_place *b)
{
    return strcmp(a->host.name, b->host.name) == 0 && a->host.port == b->host.port && strcmp(a->path, b->path) == 0;
}

int redis_find(const struct redis_url *u, struct redis_route *route, bool look_up, int64_t until_us, struct redis_place *ret,
               struct err *err)
{
    struct redis_place p = {.must_be_master = u->master[0]};
    int rc = 0;
    if (u->path[0] && !route->moved)
        str_copy(p.path, sizeof(p.path), u->path);
    else if (u->master[0] && !route->moved)
        rc = ask_sentinels(u, route, until_us, &p.host, err);
    else
        p.host = *next_host(u, route);
    if (rc == 0 && look_up && !p.path[0] && !u->tls)
        rc = redis_net_look_up(p.host.name, until_us, &p.net, err);
    if (rc == 0)
        *ret = p;
    return rc;
}
