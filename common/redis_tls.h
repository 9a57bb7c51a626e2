/* redis_tls.h -- TLS to Redis for a client library that speaks none: a thread stands between a unix socket of this process
 * and the server. The one door to libssl.
 *
 * One struct redis_tls is one connection: the caller connects to its path (a socket in a private folder, which goes away
 * with redis_tls_taken), the thread accepts that, connects to the server, shakes hands and carries bytes until one side
 * ends. The certificate must be of an authority of `ca` (or the system) and for the host's name or address, unless
 * `insecure`; TLS 1.2 and newer. Files are read anew for each connection, so renewed certificates need no restart.
 *
 *     if ((rc = redis_tls_dial(&url, host, port, 2000, &t, &err)) < 0) ...
 *     ctx = redisConnectUnix(redis_tls_path(t));
 *     redis_tls_taken(t);
 *     rc = redis_tls_wait(t, 2000, &err);             blocking callers; others ask redis_tls_why when the connection ends
 *     ...
 *     redisFree(ctx), redis_tls_close(t);
 *
 * Rules of names: RFC 6125 by libcrypto's X509_VERIFY_PARAM_set1_host; SNI (RFC 6066) is sent for names.
 */
#ifndef COMMON_REDIS_TLS_H
#define COMMON_REDIS_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/redis_url.h"

struct redis_tls;

/* At a program's start: are the files of ca, cert and key there, and do they fit each other? ERR_INVALID names the option.
 * Without TLS: 0. */
int redis_tls_check(const struct redis_url *url, struct err *err);

/* Copies what it needs of url. timeout_ms: for connection and handshake. ERR_IO, ERR_NOMEM. */
int redis_tls_dial(const struct redis_url *url, const char *host, int port, int64_t timeout_ms, struct redis_tls **ret,
                   struct err *err);
const char *redis_tls_path(const struct redis_tls *t);
void redis_tls_taken(struct redis_tls *t); /* the caller is connected, or gave up: nobody else needs the path */
/* Until the handshake is done; ERR_REDIS says why not. */
int redis_tls_wait(struct redis_tls *t, int64_t timeout_ms, struct err *err);
/* Why the connection failed or ended, a sentence without the server's name; false: not known of any reason. */
bool redis_tls_why(struct redis_tls *t, char *dst, size_t size);
/* Lets go; the thread ends when the local side is closed too. NULL is fine. */
void redis_tls_close(struct redis_tls *t);

#endif
