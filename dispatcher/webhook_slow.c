#include "dispatcher/webhook_slow.h"

#include <string.h>
#include <strings.h>

#include "common/clock.h"
#include "common/str.h"

#define REMEMBER_US (60 * CLOCK_S)

void webhook_slow_host(const char *url, char ret[WEBHOOK_SLOW_HOST])
{
    const char *at = strstr(url, "://");
    at = at ? at + 3 : url;
    str_format(ret, WEBHOOK_SLOW_HOST, "%.*s", (int)strcspn(at, "/?#\\"), at);
}

static int find(const struct webhook_slow *s, const char *host)
{
    for (int i = 0; i < WEBHOOK_SLOW_MAX; i++)
        if (s->list[i].until_us && strcasecmp(s->list[i].host, host) == 0)
            return i;
    return -1;
}

void webhook_slow_note(struct webhook_slow *s, const char *host, bool slow, int64_t now_us)
{
    int at = find(s, host);
    if (!slow) {
        if (at >= 0)
            s->list[at].until_us = 0;
        return;
    }
    for (int i = 0; at < 0 && i < WEBHOOK_SLOW_MAX; i++)
        if (!s->list[i].until_us)
            at = i;
    if (at < 0) {
        at = 0;
        for (int i = 1; i < WEBHOOK_SLOW_MAX; i++)
            if (s->list[i].until_us < s->list[at].until_us)
                at = i;
    }
    str_copy(s->list[at].host, WEBHOOK_SLOW_HOST, host);
    s->list[at].until_us = now_us + REMEMBER_US;
}

bool webhook_slow_is(const struct webhook_slow *s, const char *host, int64_t now_us)
{
    int at = find(s, host);
    return at >= 0 && now_us < s->list[at].until_us;
}
