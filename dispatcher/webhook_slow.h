/* webhook_slow.h -- receivers that were waited for in vain lately. Few tries at once are for them, so that a dead one with
 * a thousand deliveries does not take every place and hold up everybody else's.
 *
 *     webhook_slow_host(url, host);
 *     if (webhook_slow_is(&s, host, now) && on their way to host >= a few) ...      later
 *     webhook_slow_note(&s, host, no_answer, now);                                  a try ended
 *
 * Remembered for a minute after the last failure, and until the first answer; of at most WEBHOOK_SLOW_MAX receivers (the one
 * that would be forgotten first makes room). Cannot fail; zeroed is ready.
 */
#ifndef DISPATCHER_WEBHOOK_SLOW_H
#define DISPATCHER_WEBHOOK_SLOW_H

#include <stdbool.h>
#include <stdint.h>

enum { WEBHOOK_SLOW_MAX = 64, WEBHOOK_SLOW_HOST = 264 };

struct webhook_slow {
    struct {
        char host[WEBHOOK_SLOW_HOST];
        int64_t until_us; /* 0: free */
    } list[WEBHOOK_SLOW_MAX];
};

/* "host:port" as it stands in the URL; cut where it is too long. */
void webhook_slow_host(const char *url, char ret[WEBHOOK_SLOW_HOST]);
void webhook_slow_note(struct webhook_slow *s, const char *host, bool slow, int64_t now_us);
bool webhook_slow_is(const struct webhook_slow *s, const char *host, int64_t now_us);

#endif
