/* redis_url.h -- where Redis is: parsed from the setting `redis`.
 *
 *     redis://[[user]:password@]host[:port][/db]
 *     unix:///path/to/socket[?db=N&password=...]      also a bare /path/to/socket, and redis+unix://
 */
#ifndef COMMON_REDIS_URL_H
#define COMMON_REDIS_URL_H

#include <stddef.h>

#include "common/err.h"

struct redis_url {
    char host[256]; /* "" when path is set */
    int port;       /* 6379 */
    char path[108]; /* unix socket */
    char user[64];
    char password[256];
    int db;
};

/* ERR_INVALID says what is wrong, without the password. TLS (rediss://) is refused with a sentence. */
int redis_url_parse(const char *text, struct redis_url *ret, struct err *err);
/* For logs and errors: "host:6379/0" or the socket's path; never the password. Returns dst. */
const char *redis_url_show(const struct redis_url *u, char *dst, size_t size);

#endif
