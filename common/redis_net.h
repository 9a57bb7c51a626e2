/* redis_net.h -- a TCP connection to a name, with one deadline for the look-up and the connection together.
 *
 * The system's look-up knows no deadline, so it runs in a thread that is left behind when it takes too long; the thread
 * ends by itself. Addresses are written as numbers, which need no look-up.
 *
 *     rc = redis_net_dial("redis.example.org", 6379, clock_us() + 2 * CLOCK_S, &fd, &err);      close(fd) at the end
 */
#ifndef COMMON_REDIS_NET_H
#define COMMON_REDIS_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

#define REDIS_NET_ADDRESSES 8

struct redis_net {
    char address[REDIS_NET_ADDRESSES][48]; /* numbers, in the system's order */
    int n;
};

/* Fills ret at once when name is a number already; false: it must be looked up. */
bool redis_net_numeric(const char *name, struct redis_net *ret);
/* until_us: clock_us(). ERR_REDIS when the name has no address, or none in time; ERR_NOMEM. */
int redis_net_look_up(const char *name, int64_t until_us, struct redis_net *ret, struct err *err);
/* Tries the addresses one after the other, none for longer than half of what is left while there are more. The socket is
 * non-blocking, closed on exec, without delay and kept alive. */
int redis_net_dial(const char *name, int port, int64_t until_us, int *ret_fd, struct err *err);

#endif
