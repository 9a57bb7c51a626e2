/* redis_url.h -- where Redis is: parsed from the setting `redis`.
 *
 *     redis://[[user]:password@]host[:port][,host2[:port]...][/db]        one server, or seeds of a cluster
 *     rediss://...[?ca=FILE&cert=FILE&key=FILE&insecure=1]                the same over TLS
 *     redis+sentinel://[[user]:password@]host[:26379][,...]/master[/db][?sentinel_user=U&sentinel_password=P]
 *     rediss+sentinel://...                                               TLS to the sentinels and to the server
 *     unix:///path/to/socket[?db=N&user=U&password=P]      also a bare /path/to/socket, and redis+unix://
 *
 * Percent escapes (%40) stand for bytes that would end a part. An option that is not known is refused by its name; no
 * sentence ever holds a password. Facts of the forms: the IANA registrations redis and rediss, redis.io's client guides.
 */
#ifndef COMMON_REDIS_URL_H
#define COMMON_REDIS_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

#define REDIS_URL_HOSTS 8

struct redis_host {
    char name[256]; /* a name or an address, without brackets */
    int port;
};

struct redis_url {
    struct redis_host hosts[REDIS_URL_HOSTS];
    int n_hosts;    /* 0 when path is set */
    char path[108]; /* unix socket; "" otherwise */
    char user[64];  /* "": the default user */
    char password[256];
    int db;
    char master[64]; /* sentinel: the master's name; "": the hosts are servers */
    char sentinel_user[64], sentinel_password[256];
    bool tls, insecure;                  /* insecure: the server's certificate is not looked at */
    char ca[256], cert[256], key[256]; /* PEM files; "": the system's authorities, no certificate of ours */
};

/* ERR_INVALID says what is wrong, without the password. */
int redis_url_parse(const char *text, struct redis_url *ret, struct err *err);
/* For logs and errors: "host:6379/0" or the socket's path; never the password. Returns dst. */
const char *redis_url_show(const struct redis_url *u, char *dst, size_t size);
/* A sentence that the program should log at its start (certificates are not checked), or NULL. */
const char *redis_url_warning(const struct redis_url *u);

#endif
