/* redis_find.h -- which server holds the queue now: the seeds of the address, a cluster's redirections, what sentinels say.
 * Blocking, with a deadline; the dispatcher calls it in a pool thread.
 *
 *     struct redis_route route = {0};                            lives as long as the connection comes back
 *     rc = redis_find(&url, &route, clock_us() + 2 * CLOCK_S, &place, &err);
 *     ... connect to place, log in, check ROLE where place.must_be_master ...
 *     on an error reply:  redis_find_turn(text, len, &place, &route)   and do what it says
 *     connection lost or refused:  redis_find_lost(&url, &route)
 *
 * Facts: redis.io's cluster specification (MOVED, ASK, TRYAGAIN, CLUSTERDOWN) and sentinel client guide.
 *
 * A slot that is being moved answers ASK. It is not followed: all keys of a queue are one whole, and half of them are still
 * on the other side. The command waits until the slot has one owner again.
 */
#ifndef COMMON_REDIS_FIND_H
#define COMMON_REDIS_FIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/redis_net.h"
#include "common/redis_tls.h"
#include "common/redis_url.h"

struct redisContext;
struct redisReply;

struct redis_place {
    struct redis_host host;
    struct redis_net net; /* n = 0: not looked up (TLS and the blocking side do that themselves) */
    char path[108];       /* a unix socket; host is then "" */
    bool must_be_master;  /* a sentinel said so: ask it (ROLE) before use */
};

struct redis_route {
    unsigned seed;           /* counts up; modulo the hosts */
    bool moved;              /* to .to, by a cluster */
    struct redis_host to;
};

/* ERR_REDIS with a sentence: no sentinel answers, or none knows the master; a name does not resolve. */
int redis_find(const struct redis_url *u, struct redis_route *route, bool look_up, int64_t until_us, struct redis_place *ret,
               struct err *err);
/* True when redis_find answers without waiting: a socket, a number, or TLS without sentinels. */
bool redis_find_is_quick(const struct redis_url *u, const struct redis_route *route);
void redis_find_lost(struct redis_route *route); /* another seed comes next */
bool redis_find_same(const struct redis_place *a, const struct redis_place *b);
/* "host:port" or the path, for messages. Returns dst. */
const char *redis_find_show(const struct redis_place *p, char *dst, size_t size);

/* What an error reply says about the way. None of these commands was executed: it may be sent again. */
enum redis_turn {
    REDIS_TURN_NONE,  /* nothing: an ordinary error */
    REDIS_TURN_GO,    /* to another server: connect anew, route knows where */
    REDIS_TURN_PAUSE, /* the same server, a little later */
};
enum redis_turn redis_find_turn(const char *text, size_t len, const struct redis_place *at, struct redis_route *route);
/* queue_error, and the cluster's words besides. */
int redis_find_error(const char *text, size_t len, struct err *err);

/* A blocking hiredis context with TLS, logged in (AUTH only). *ret_tls is NULL without TLS. Freed by redisFree and
 * redis_tls_close. ERR_AUTH: the server refused the login, with its sentence; other codes: it was not reached. */
int redis_find_open(const struct redis_url *u, const struct redis_place *p, const char *user, const char *password,
                    int64_t until_us, struct redisContext **ret, struct redis_tls **ret_tls, struct err *err);
/* One command of plain words on it; NULL with err set, also for an error reply. */
struct redisReply *redis_find_ask(struct redisContext *c, int64_t until_us, int argc, const char *const *argv,
                                  struct err *err);
/* After one of the first commands failed with `said`: ERR_AUTH when the server answered so, else ERR_REDIS and the best
 * reason known. */
int redis_find_why(const struct redisContext *c, struct redis_tls *tls, const struct err *said, struct err *err);

#endif
