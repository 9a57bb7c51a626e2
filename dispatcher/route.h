/* route.h -- which path means what: one table for dispatch, allowed methods, body limits, keys and the OpenAPI paths.
 *
 * A row's path may hold {name} segments; each matches one segment of at most REQUEST_PARAM_BYTES - 1 bytes and lands in
 * request.param in order. A segment {id} is a job's id: whoever has scope jobs is let through to the handler only when the
 * job is its tenant's own (gate.c looks), so handlers need not ask whose it is.
 */
#ifndef DISPATCHER_ROUTE_H
#define DISPATCHER_ROUTE_H

#include <stdbool.h>
#include <stddef.h>

#include "dispatcher/request.h"

enum route_body {
    ROUTE_BODY_NONE,   /* a small body is read and ignored */
    ROUTE_BODY_SUBMIT, /* multipart to disk, or JSON in memory */
    ROUTE_BODY_BLOB,   /* raw bytes or multipart to disk */
};

enum {
    ROUTE_OPEN = 1,   /* no key needed */
    ROUTE_HIDDEN = 2, /* not in the OpenAPI document */
    ROUTE_JOBS = 4,   /* a key of scope jobs is enough; without it, and ROUTE_OPEN, a route needs scope admin */
};

struct route {
    const char *method;
    const char *path;
    enum route_body body;
    unsigned flags;
    void (*handler)(struct request *r);
    const char *summary; /* one line of the OpenAPI document */
};

int route_job_param(const struct route *t); /* index of {id} in request.param; -1: none */
const struct route *route_table(size_t *ret_n);

/* Finds the row and fills r->route, r->head and r->param. ERR_NOTFOUND; ERR_UNSUPPORTED with *ret_allow (a literal-like
 * static text "GET, HEAD") when the path exists under other methods. */
int route_find(struct request *r, const char *method, const char *path, char *ret_allow, size_t allow_size,
               struct err *err);

#endif
