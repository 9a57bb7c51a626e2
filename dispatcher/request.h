/* request.h -- one HTTP exchange, from its first header to its last byte, as the handlers see it.
 *
 * server.c makes a request when headers have arrived, lets the route's body sink eat the body, then calls the handler.
 * A handler answers at once, or parks the request and answers later from a Redis or thread-pool callback:
 *
 *     void api_thing_get(struct request *r)
 *     {
 *         if (bad)
 *             return reply_error(r, &err);
 *         request_park(r);
 *         thing_fetch(r->app, on_thing, r);      on_thing calls reply_json(r, 200, ...)
 *     }
 *
 * Lifetime: a parked request cannot go away (its connection is suspended), so a callback may keep the pointer until it
 * replies. After the reply is queued the request belongs to the server again and ends in request_free, which is called
 * once, after the last byte or the loss of the connection. Whatever a handler keeps for later (`state`) is given back
 * through `state_free` there. Everything runs on the loop's thread.
 */
#ifndef DISPATCHER_REQUEST_H
#define DISPATCHER_REQUEST_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "dispatcher/keys.h"

struct app;
struct route;
struct server;
struct upload;

enum {
    REQUEST_PARAMS = 2,
    REQUEST_PARAM_BYTES = 96,
    REQUEST_HEADERS = 10,
};

struct request_header {
    const char *name; /* a literal */
    char *value;      /* owned */
};

struct request {
    struct app *app;             /* borrowed */
    struct server *server;       /* borrowed */
    struct MHD_Connection *conn; /* borrowed */
    const struct route *route;   /* NULL: no such path */
    char *method;                /* owned */
    char *path;                  /* owned; decoded, without the query */
    bool head;                   /* HEAD: the same answer without its body */
    char param[REQUEST_PARAMS][REQUEST_PARAM_BYTES]; /* the {..} parts of the route's path */

    enum keys_scope scope;   /* what the caller may: without keys in use everybody is an admin */
    char tenant[KEYS_NAME];  /* whose jobs: "" for the one without a name */
    char key_id[KEYS_NAME];  /* "" without keys */

    struct err refused;    /* found before or in the body; the handler is then not called */
    int refused_status;    /* 0: the error's own */
    int64_t refused_retry_s; /* > 0: Retry-After */
    struct buf body;       /* small bodies and JSON, complete when the handler runs */
    struct upload *upload; /* owned; multipart and raw bodies on their way to disk */
    uint64_t swallowed;    /* body bytes read */

    struct request_header header[REQUEST_HEADERS]; /* of the answer */
    int n_headers;
    struct MHD_Response *response; /* owned until queued */
    int status;
    bool begun, served, answered;
    bool parked;           /* suspended now */
    bool held;             /* was parked during the present call */
    uint64_t reserved;     /* bytes of body taken from the server's memory */

    void *state; /* the handler's, given back by state_free */
    void (*state_free)(void *state);
    uint64_t start_us;
    struct request *prev, *next; /* in the server's list */
};

/* Header, query value: NULL when absent; borrowed until the request ends. */
const char *request_header(const struct request *r, const char *name);
const char *request_query(const struct request *r, const char *name);

/* Suspends the connection: no bytes move until an answer is queued or request_unpark is called. */
void request_park(struct request *r);
void request_unpark(struct request *r);

/* Whether the client has closed its end: for parked requests, whose loss the library cannot see. */
bool request_gone(const struct request *r);

/* A header of the answer to come. The value is copied; past REQUEST_HEADERS it is dropped. */
void request_set_header(struct request *r, const char *name, const char *value);

/* Queues the answer and takes the response. Wakes the request when it is parked. Once per request: a second answer is
 * dropped. NULL (out of memory): the connection is closed. */
void request_answer(struct request *r, int status, struct MHD_Response *response);

#endif
