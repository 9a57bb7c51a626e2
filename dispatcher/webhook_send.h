/* webhook_send.h -- one try to deliver a webhook: the HTTP request, and what its end means.
 *
 *     struct webhook_send s = {0};
 *     rc = webhook_send_open(&s, &request, slot, &err);    s.easy goes to curl_loop_add; CURLINFO_PRIVATE is slot
 *     ... on_end: webhook_send_result(&s, code, &outcome);
 *     webhook_send_done(&s);                               after the handle left the loop
 *
 * Redirects are not followed (a signed body is for the receiver that the client named; Standard Webhooks asks senders to
 * treat them as failures), proxies of the environment are not used (they would connect where the guard cannot look), and
 * of the answer only the status counts: its body is read for 64 KiB at most and dropped.
 */
#ifndef DISPATCHER_WEBHOOK_SEND_H
#define DISPATCHER_WEBHOOK_SEND_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/queue.h"
#include "dispatcher/webhook_guard.h"

struct webhook_request {
    const char *url;
    const char *id;          /* webhook-id */
    const char *secrets;     /* newest first; "": no signature */
    const char *traceparent; /* "": none */
    int64_t timeout_ms;      /* for everything, > 0; connecting has 5 s of it */
};

struct webhook_send {
    CURL *easy;                /* owned */
    struct curl_slist *headers; /* owned */
    struct buf body;           /* owned: the caller fills it before open */
    const struct webhook_guard *guard; /* borrowed until done */
    bool named;                /* the host is allowed by name */
    unsigned n_sockets, n_refused;
    size_t got;                /* bytes of the answer's body */
    char why[CURL_ERROR_SIZE];
};

struct webhook_outcome {
    enum queue_hook_verdict verdict;
    int status;     /* HTTP's; 0: there was none */
    double seconds;
    char why[256];  /* "" for a delivery */
};

/* ERR_INVALID: the guard refuses the URL, with its sentence. private_data comes back by CURLINFO_PRIVATE. */
int webhook_send_open(struct webhook_send *s, const struct webhook_guard *g, const struct webhook_request *r,
                      void *private_data, struct err *err);
void webhook_send_result(const struct webhook_send *s, CURLcode code, struct webhook_outcome *ret);
void webhook_send_done(struct webhook_send *s); /* zeroed or done already: fine */

#endif
