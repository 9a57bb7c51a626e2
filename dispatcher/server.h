/* server.h -- HTTP/1.1 on the loop: listening sockets, libmicrohttpd, and the life of each request.
 *
 *     struct server_opts o = {.app = app, .max_connections = 1024, .idle_s = 75, .header_bytes = 5120};
 *     rc = server_new(loop, &o, &s, err);
 *     rc = server_listen(s, "127.0.0.1", 0, &port, err);
 *     ...                                    uv_run
 *     server_drain(s);                       stop accepting; answer what is parked; wait for server_n_requests == 0
 *     server_free(s);
 *
 * libmicrohttpd runs without threads: its epoll descriptor is one uv_poll, its deadlines one uv_timer. Connections are
 * accepted here (so that several addresses share one limit) and handed over. Four traps of that library decide the
 * shape of server.c; they are told at its head.
 */
#ifndef DISPATCHER_SERVER_H
#define DISPATCHER_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/err.h"
#include "dispatcher/http_stats.h"
#include "dispatcher/request.h"

struct server_opts {
    struct app *app;
    unsigned max_connections;
    unsigned idle_s;           /* silence on a connection that is not parked; also for the headers of a request */
    unsigned header_bytes;     /* of a request; a parked connection takes about as much */
    uint64_t max_body_memory;  /* bytes of bodies held in memory by all requests together */
};

int server_new(uv_loop_t *loop, const struct server_opts *opts, struct server **ret, struct err *err);
/* Closes everything at once; every request must have ended, or is cut. The loop must run once more afterwards for the
 * handles' close callbacks. NULL is fine. */
void server_free(struct server *s);

/* Adds a listening address. port 0: one that is free; *ret_port says which. ERR_IO with the system's reason,
 * ERR_CONFLICT when the port is taken. */
int server_listen(struct server *s, const char *host, int port, int *ret_port, struct err *err);

/* Stops accepting. Requests in flight go on; keep-alive connections are closed when they next fall idle. */
void server_drain(struct server *s);
bool server_draining(const struct server *s);

unsigned server_n_requests(const struct server *s);
unsigned server_n_connections(const struct server *s);
const struct http_stats *server_stats(const struct server *s); /* since start */

/* Reserves memory for a body; false when all requests together would pass the limit. */
bool server_reserve(struct server *s, uint64_t bytes);
void server_release(struct server *s, uint64_t bytes);

/* Something was resumed outside of the library's own run: run it on the loop's next turn. */
void server_wake(struct server *s);

#endif
