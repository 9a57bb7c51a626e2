#include "dispatcher/webhook_send.h"

#include <inttypes.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/str.h"
#include "common/version.h"
#include "dispatcher/webhook_sign.h"

enum {
    CONNECT_MS = 5000,
    ANSWER_MAX = 64 * 1024,
    HEADER_MAX = 1024,
};

static curl_socket_t on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct webhook_send *s = arg;
    bool open = purpose == CURLSOCKTYPE_IPCXN && (s->named || webhook_guard_address(s->guard, &a->addr));
    if (!open) {
        s->n_refused++;
        return CURL_SOCKET_BAD;
    }
    s->n_sockets++;
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* Reading more than the limit ends the transfer; the status is known by then. */
static size_t on_answer(char *data, size_t size, size_t n, void *arg)
{
    struct webhook_send *s = arg;
    (void)data;
    s->got += size * n;
    return s->got <= ANSWER_MAX ? size * n : 0;
}

static int add_header(struct webhook_send *s, const char *name, const char *value)
{
    char line[HEADER_MAX];
    if (str_format(line, sizeof line, "%s: %s", name, value) < 0)
        return ERR_TOOBIG;
    struct curl_slist *longer = curl_slist_append(s->headers, line);
    if (!longer)
        return ERR_NOMEM;
    s->headers = longer;
    return 0;
}

static int add_headers(struct webhook_send *s, const struct webhook_request *r, struct err *err)
{
    char text[WEBHOOK_SIGN_TEXT];
    int64_t now_s = clock_wall_ms() / 1000;
    int rc = add_header(s, "content-type", "application/json");
    str_format(text, sizeof text, "troupe/%s", version_text());
    rc = rc < 0 ? rc : add_header(s, "user-agent", text);
    rc = rc < 0 ? rc : add_header(s, "webhook-id", r->id);
    str_format(text, sizeof text, "%" PRId64, now_s);
    rc = rc < 0 ? rc : add_header(s, "webhook-timestamp", text);
    if (rc == 0 && *r->secrets)
        rc = webhook_sign(r->secrets, r->id, now_s, s->body.data, s->body.len, text, err);
    if (rc == 0 && *r->secrets)
        rc = add_header(s, "webhook-signature", text);
    if (rc == 0 && *r->traceparent)
        rc = add_header(s, "traceparent", r->traceparent);
    return rc < 0 ? rc : add_header(s, "expect", "");
}

static void set_options(struct webhook_send *s, const struct webhook_request *r, void *private_data)
{
    CURL *e = s->easy;
    curl_easy_setopt(e, CURLOPT_URL, r->url);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, s->headers);
    curl_easy_setopt(e, CURLOPT_POSTFIELDS, s->body.data);
    curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)s->body.len);
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, on_socket);
    curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, s);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, s->why);
    curl_easy_setopt(e, CURLOPT_PRIVATE, private_data);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L); /* or a name server that is silent holds up the loop at the deadline */
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)r->timeout_ms);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, r->timeout_ms < CONNECT_MS ? (long)r->timeout_ms : (long)CONNECT_MS);
}

int webhook_send_open(struct webhook_send *s, const struct webhook_guard *g, const struct webhook_request *r,
                      void *private_data, struct err *err)
{
    s->guard = g;
    int rc = webhook_guard_url(g, r->url, &s->named, err);
    if (rc == 0)
        rc = add_headers(s, r, err);
    if (rc == 0 && (s->easy = curl_easy_init()) == NULL)
        rc = ERR_NOMEM;
    if (rc == 0)
        set_options(s, r, private_data);
    return rc < 0 ? err_set(err, rc, "%s", err_text(rc)) : 0;
}

/* The status counts once the answer is whole, or as much of it as anyone reads. */
static void by_status(long status, struct webhook_outcome *ret)
{
    ret->status = (int)status;
    if (status / 100 == 2) {
        ret->verdict = QUEUE_HOOK_OK;
    } else if (status == 410) {
        ret->verdict = QUEUE_HOOK_DROP;
        str_copy(ret->why, sizeof ret->why, "the receiver answered 410: it wants no more of this job");
    } else {
        ret->verdict = QUEUE_HOOK_AGAIN;
        str_format(ret->why, sizeof ret->why, "the receiver answered %ld%s", status,
                   status / 100 == 3 ? "; redirects are not followed" : "");
    }
}

void webhook_send_result(const struct webhook_send *s, CURLcode code, struct webhook_outcome *ret)
{
    long status = 0;
    curl_off_t us = 0;
    *ret = (struct webhook_outcome){.verdict = QUEUE_HOOK_AGAIN};
    curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(s->easy, CURLINFO_TOTAL_TIME_T, &us);
    ret->seconds = (double)us / 1e6;
    if (status > 0 && (code == CURLE_OK || s->got > 0)) {
        by_status(status, ret);
    } else if (s->n_refused > 0 && s->n_sockets == 0) {
        ret->verdict = QUEUE_HOOK_DROP;
        str_copy(ret->why, sizeof ret->why, "the URL's host leads to an address that is not public, and the dispatcher's "
                 "setting webhook_allow does not name it");
    } else {
        if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_LOGIN_DENIED)
            ret->verdict = QUEUE_HOOK_DROP;
        str_format(ret->why, sizeof ret->why, "%s", *s->why ? s->why : curl_easy_strerror(code));
    }
}

void webhook_send_done(struct webhook_send *s)
{
    curl_easy_cleanup(s->easy);
    curl_slist_free_all(s->headers);
    buf_done(&s->body);
    *s = (struct webhook_send){0};
}
