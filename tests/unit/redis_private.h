/* redis_private.h -- a redis-server of the test's own: a temporary folder, a unix socket, no port, nothing on
 * disk unless asked for. Ends with the test program, whatever happens to it (PR_SET_PDEATHSIG). */
#ifndef TESTS_UNIT_REDIS_PRIVATE_H
#define TESTS_UNIT_REDIS_PRIVATE_H

#include <stdbool.h>
#include <sys/types.h>

struct redis_private {
    char folder[64];
    char url[96]; /* unix:///tmp/.../redis.sock */
    pid_t pid;
};

/* False when there is no redis-server on this machine (the test is then skipped); fails the program on
 * anything else. */
bool redis_private_start(struct redis_private *r, bool aof);
void redis_private_stop(struct redis_private *r, bool keep_folder); /* SIGTERM; waits */
void redis_private_kill(struct redis_private *r);                   /* SIGKILL; waits; the folder stays */
void redis_private_again(struct redis_private *r, bool aof);        /* same folder */

#endif
