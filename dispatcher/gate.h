/* gate.h -- what stands between the socket and a handler: finding the route, keys, browsers' origins, body limits.
 *
 * server.c calls these four in this order; a refusal is kept in r->refused and answered when the body is over.
 *
 *     gate_open(r)          headers are here
 *     gate_eat(r, data, n)  a slice of the body
 *     gate_serve(r)         the body is complete: calls the handler, or answers the refusal
 *     gate_close(r)         the exchange is over: gives back what the first three took
 *
 * Keys: `Authorization: Bearer KEY`, bare `Authorization: KEY`, `Authorization: Key id:KEY`, or the cookie troupe_key, which
 * the page sets for players and event streams (they cannot send headers). A key of scope jobs opens only the routes marked
 * ROUTE_JOBS, and of those with a job's id only its tenant's jobs: gate_serve asks Redis whose the job is before the
 * handler hears of it (a job never changes hands, so there is no gap between the two). Blobs are shared: who can name the
 * SHA-256 of a file has seen the file. Without keys on a loopback address, calls from foreign pages
 * are refused by their Host and Origin headers: a browser on this machine must not become somebody's remote control.
 */
#ifndef DISPATCHER_GATE_H
#define DISPATCHER_GATE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/conf.h"
#include "dispatcher/request.h"

void gate_open(struct request *r);
void gate_eat(struct request *r, const char *data, size_t n);
void gate_serve(struct request *r);
void gate_close(struct request *r);

/* The rule of a program's start: keys, or loopback, or --insecure. ERR_INVALID with the ways out. *ret_local: loopback
 * without keys. */
int gate_check_conf(const struct conf *c, bool *ret_local, struct err *err);

#endif
