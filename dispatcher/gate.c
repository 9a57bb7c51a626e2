#include "dispatcher/gate.h"

#include <string.h>
#include <strings.h>

#include "common/clock.h"
#include "common/schema.h"
#include "common/str.h"
#include "dispatcher/app.h"
#include "dispatcher/backend.h"
#include "dispatcher/reply.h"
#include "dispatcher/route.h"
#include "dispatcher/server.h"
#include "dispatcher/tenants.h"
#include "dispatcher/upload.h"

enum {
    SMALL_BODY = 64 * 1024, /* where a body has no meaning */
    FORM_EXTRA = 2 * 1024 * 1024, /* text parts and boundaries beside the files */
};

/* ---- who may call ---- */

/* "Bearer KEY", "Key KEY", "Key id:KEY", "KEY": from behind the scheme. */
static const char *behind_scheme(const char *h)
{
    h += strspn(h, " ");
    if (strncasecmp(h, "Bearer ", 7) == 0)
        h += 7;
    else if (strncasecmp(h, "Key ", 4) == 0)
        h += 4;
    return h + strspn(h, " ");
}

static struct keys_key *key_shown(const struct request *r)
{
    const char *h = request_header(r, MHD_HTTP_HEADER_AUTHORIZATION);
    char cookie[KEYS_SHOWN_MAX * 3 + 1] = ""; /* the page writes it percent-encoded */
    if (h)
        return tenants_find(r->app->tenants, behind_scheme(h));
    h = MHD_lookup_connection_value(r->conn, MHD_COOKIE_KIND, "troupe_key");
    if (!h || str_copy(cookie, sizeof cookie, h) < 0)
        return NULL;
    MHD_http_unescape(cookie);
    return tenants_find(r->app->tenants, cookie);
}

/* Who calls: fills scope, tenant, key_id. *ret_key: the key, NULL without keys or on open routes. ERR_AUTH. */
static int who_calls(struct request *r, struct keys_key **ret_key, struct err *err)
{
    bool open = r->route && (r->route->flags & ROUTE_OPEN);
    struct keys_key *key = NULL;
    char when[32];
    r->scope = KEYS_ADMIN;
    *ret_key = NULL;
    if (!tenants_need_key(r->app->tenants))
        return 0;
    r->scope = KEYS_NOBODY;
    if (open)
        return 0;
    key = key_shown(r);
    if (!key)
        return err_set(err, ERR_AUTH, "a key is needed: send the header Authorization: Bearer KEY");
    if (keys_expired(key, clock_wall_ms()))
        return err_set(err, ERR_AUTH, "the key %s expired at %s; ask for a new one", key->id,
                       clock_format(when, sizeof when, key->expires_ms));
    r->scope = key->scope;
    str_copy(r->tenant, sizeof r->tenant, key->tenant);
    str_copy(r->key_id, sizeof r->key_id, key->id);
    *ret_key = key;
    return 0;
}

/* Calls but submits, which the queue counts itself, over all dispatchers. */
static int rate_check(struct request *r, struct keys_key *key, struct err *err)
{
    const struct conf *c = &r->app->conf;
    if (!key || c->rate_reads_per_s <= 0 || (r->route && r->route->body == ROUTE_BODY_SUBMIT))
        return 0;
    int64_t wait_us = keys_take(key, c->rate_reads_per_s, (double)c->rate_reads_burst, clock_us());
    if (wait_us == 0)
        return 0;
    r->refused_retry_s = (wait_us + CLOCK_S - 1) / CLOCK_S;
    return err_set(err, ERR_LIMIT, "the key %s makes more than %g calls a second; try again in %lld s", key->id,
                   c->rate_reads_per_s, (long long)r->refused_retry_s);
}

static int scope_check(const struct request *r, struct err *err)
{
    if (r->scope != KEYS_JOBS || !r->route || (r->route->flags & (ROUTE_JOBS | ROUTE_OPEN)))
        return 0;
    return err_set(err, ERR_AUTH, "this needs a key of scope admin; the key %s is for the jobs of %s", r->key_id,
                   r->tenant);
}

static bool is_loopback(const char *host, size_t n)
{
    static const char *const names[] = {"localhost", "::1", "[::1]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i]) == n && strncasecmp(host, names[i], n) == 0)
            return true;
    }
    return n > 4 && strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") >= n;
}

/* "localhost:8000" without its port. */
static size_t host_length(const char *h)
{
    const char *end = strrchr(h, ':');
    if (*h == '[')
        return strcspn(h, "]") + 1;
    return end ? (size_t)(end - h) : strlen(h);
}

/* ERR_AUTH when a browser calls for a page that is neither ours nor allowed. */
static int origin_check(const struct request *r, struct err *err)
{
    const char *host = request_header(r, MHD_HTTP_HEADER_HOST), *origin = request_header(r, MHD_HTTP_HEADER_ORIGIN);
    const char *allowed = r->app->conf.cors, *at = origin ? strstr(origin, "://") : NULL;
    if (r->app->local_only && host && !is_loopback(host, host_length(host)))
        return err_set(err, ERR_AUTH, "host: %.80s is not this machine's own name; set api_key to serve others", host);
    if (!origin || strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0 || strcmp(r->method, "OPTIONS") == 0)
        return 0;
    if (strcmp(allowed, "*") == 0 || (*allowed && strcasecmp(allowed, origin) == 0))
        return 0;
    if (at && host && strcasecmp(at + 3, host) == 0)
        return 0;
    return err_set(err, ERR_AUTH, "origin: pages of %.80s may not call here; allow it with the setting cors", origin);
}

static void cors_headers(struct request *r)
{
    const char *allowed = r->app->conf.cors, *origin = request_header(r, MHD_HTTP_HEADER_ORIGIN);
    if (!*allowed || !origin || (strcmp(allowed, "*") != 0 && strcasecmp(allowed, origin) != 0))
        return;
    request_set_header(r, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    request_set_header(r, MHD_HTTP_HEADER_VARY, "Origin");
    request_set_header(r, "Access-Control-Expose-Headers", "Location, ETag, Content-Range, Retry-After");
}

/* ---- bodies ---- */

static int64_t content_length(const struct request *r)
{
    const char *h = request_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
    int64_t n;
    return h && str_parse_i64(h, 0, INT64_MAX, &n) == 0 ? n : -1;
}

static bool type_is(const struct request *r, const char *type)
{
    const char *h = request_header(r, MHD_HTTP_HEADER_CONTENT_TYPE);
    size_t n = strlen(type);
    return h && strncasecmp(h, type, n) == 0 && (h[n] == 0 || h[n] == ';' || h[n] == ' ');
}

static int64_t body_limit(const struct request *r, bool form)
{
    const struct conf *c = &r->app->conf;
    if (r->route->body == ROUTE_BODY_NONE)
        return SMALL_BODY;
    if (r->route->body == ROUTE_BODY_SUBMIT && !form)
        return c->max_json_bytes;
    if (r->route->body == ROUTE_BODY_BLOB)
        return FORM_EXTRA + (c->max_audio_bytes > c->max_image_bytes ? c->max_audio_bytes : c->max_image_bytes);
    return FORM_EXTRA + c->max_audio_bytes + c->max_image_bytes;
}

static void body_open(struct request *r)
{
    bool form = type_is(r, "multipart/form-data");
    int64_t limit = body_limit(r, form), n = content_length(r);
    char shown[2][32];
    buf_init(&r->body, (size_t)limit);
    if (n > limit) {
        str_bytes(shown[0], sizeof shown[0], (uint64_t)n);
        str_bytes(shown[1], sizeof shown[1], (uint64_t)limit);
        err_set(&r->refused, ERR_TOOBIG, "the body of %s is larger than the limit of %s%s", shown[0], shown[1],
                r->route->body == ROUTE_BODY_SUBMIT ? "; large media go as files (multipart or POST /v1/blobs)" : "");
        return;
    }
    if (r->route->body == ROUTE_BODY_BLOB)
        upload_new(r, form ? UPLOAD_FORM : UPLOAD_RAW, NULL, &r->upload, &r->refused);
    else if (r->route->body == ROUTE_BODY_SUBMIT && form)
        upload_new(r, UPLOAD_FORM, schema_at(0), &r->upload, &r->refused);
    else if (r->route->body == ROUTE_BODY_SUBMIT && !type_is(r, "application/json")) {
        r->refused_status = 415;
        err_set(&r->refused, ERR_BADREQ, "content-type: send multipart/form-data or application/json");
    }
}

void gate_eat(struct request *r, const char *data, size_t n)
{
    char shown[32];
    if (r->refused.code || !r->route)
        return;
    if (r->upload) {
        upload_feed(r->upload, data, n, &r->refused);
    } else if (!server_reserve(r->server, n)) {
        err_set(&r->refused, ERR_NOMEM,
                "too many large requests at once; try again, or upload files instead of base64");
    } else {
        r->reserved += n;
        if (buf_add(&r->body, data, n) < 0)
            err_set(&r->refused, ERR_TOOBIG, "the body is larger than the limit of %s",
                    str_bytes(shown, sizeof shown, r->body.max));
    }
}

/* ---- the four ---- */

void gate_open(struct request *r)
{
    char allow[64] = "";
    struct err err = {0};
    struct keys_key *key = NULL;
    int rc = route_find(r, r->method, r->path, allow, sizeof allow, &err);
    cors_headers(r);
    if (strcmp(r->method, MHD_HTTP_METHOD_OPTIONS) == 0)
        return;
    if (origin_check(r, &r->refused) < 0) {
        r->refused_status = 403;
        return;
    }
    if (who_calls(r, &key, &r->refused) < 0) {
        request_set_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
        return;
    }
    if (rate_check(r, key, &r->refused) < 0)
        return;
    if (rc == 0 && scope_check(r, &r->refused) < 0) {
        r->refused_status = 403;
        return;
    }
    if (rc < 0) {
        r->refused = err;
        if (*allow) {
            request_set_header(r, MHD_HTTP_HEADER_ALLOW, allow);
            r->refused_status = 405;
        }
        return;
    }
    body_open(r);
}

/* ---- whose job ---- */

/* Another's job, and one that is not there, are the same answer. */
static void on_owner(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct err err = *why;
    if (rc == 0 && (len != strlen(r->tenant) || (len && memcmp(bytes, r->tenant, len) != 0)))
        rc = err_set(&err, ERR_NOTFOUND, "no job %.80s is here", r->param[route_job_param(r->route)]);
    if (rc < 0)
        reply_error(r, &err);
    else
        r->route->handler(r);
}

static void serve(struct request *r)
{
    int at = r->scope == KEYS_JOBS ? route_job_param(r->route) : -1;
    struct queue_cmd c = {0};
    struct err err = {0};
    if (at < 0) {
        r->route->handler(r);
        return;
    }
    int rc = queue_cmd_owner(&c, &r->app->queue, r->param[at], &err);
    if (rc == ERR_NOTFOUND)
        r->route->handler(r); /* no id at all: the handler's own sentence */
    else
        backend_ask(r, rc, &c, &err, on_owner);
}

void gate_serve(struct request *r)
{
    if (strcmp(r->method, MHD_HTTP_METHOD_OPTIONS) == 0) {
        request_set_header(r, "Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS");
        request_set_header(r, "Access-Control-Allow-Headers",
                           "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Range");
        request_set_header(r, "Access-Control-Max-Age", "600");
        reply_empty(r, 204);
    } else if (r->refused.code) {
        reply_problem(r, r->refused_status ? r->refused_status : err_http(r->refused.code), &r->refused,
                      r->refused_retry_s);
    } else {
        serve(r);
    }
}

void gate_close(struct request *r)
{
    upload_free(r->upload);
    buf_done(&r->body);
    server_release(r->server, r->reserved);
    r->upload = NULL;
    r->reserved = 0;
}

int gate_check_conf(const struct conf *c, bool *ret_local, struct err *err)
{
    bool loopback = is_loopback(c->bind, strlen(c->bind));
    *ret_local = loopback && !*c->api_key && !*c->keys;
    if (!loopback && !*c->api_key && !*c->keys && !c->insecure)
        return err_set(err, ERR_INVALID,
                       "bind: %s can be reached from other machines and no keys are set; set api_key or keys, or bind to "
                       "127.0.0.1, or say --insecure", c->bind);
    return 0;
}
