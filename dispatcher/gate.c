#include "dispatcher/gate.h"

#include <string.h>
#include <strings.h>

#include "common/mem.h"
#include "common/schema.h"
#include "common/sha256.h"
#include "common/str.h"
#include "dispatcher/app.h"
#include "dispatcher/reply.h"
#include "dispatcher/route.h"
#include "dispatcher/server.h"
#include "dispatcher/upload.h"

enum {
    SMALL_BODY = 64 * 1024, /* where a body has no meaning */
    FORM_EXTRA = 2 * 1024 * 1024, /* text parts and boundaries beside the files */
    KEY_MAX = 256,
};

/* ---- who may call ---- */

static bool same_key(const char *a, size_t a_len, const char *b, size_t b_len)
{
    char x[SHA256_HEX] = "", y[SHA256_HEX] = "";
    unsigned diff = 0;
    if (sha256_bytes(a, a_len, x) < 0 || sha256_bytes(b, b_len, y) < 0)
        return false;
    for (size_t i = 0; i < sizeof x; i++) /* all of it, always: the time tells nothing */
        diff |= (unsigned)(x[i] ^ y[i]);
    return diff == 0;
}

static bool key_known(const struct conf *c, const char *key)
{
    size_t len = strlen(key);
    bool found = false;
    if (len == 0 || len > KEY_MAX)
        return false;
    for (const char *p = c->api_key; *p;) {
        size_t n = strcspn(p, ",");
        if (n)
            found |= same_key(p, n, key, len);
        p += n + (p[n] == ',');
    }
    return found;
}

static bool authorised(const struct request *r)
{
    const struct conf *c = &r->app->conf;
    const char *h = request_header(r, MHD_HTTP_HEADER_AUTHORIZATION);
    if (!*c->api_key || (r->route && (r->route->flags & ROUTE_OPEN)))
        return true;
    if (h)
        return key_known(c, h + (strncasecmp(h, "Bearer ", 7) == 0 ? 7 : 0));
    char cookie[KEY_MAX * 3 + 1] = ""; /* the page writes it percent-encoded */
    h = MHD_lookup_connection_value(r->conn, MHD_COOKIE_KIND, "troupe_key");
    if (!h || str_copy(cookie, sizeof cookie, h) < 0)
        return false;
    MHD_http_unescape(cookie);
    return key_known(c, cookie);
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
    int rc = route_find(r, r->method, r->path, allow, sizeof allow, &err);
    cors_headers(r);
    if (strcmp(r->method, MHD_HTTP_METHOD_OPTIONS) == 0)
        return;
    if (origin_check(r, &r->refused) < 0) {
        r->refused_status = 403;
        return;
    }
    if (!authorised(r)) {
        request_set_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
        err_set(&r->refused, ERR_AUTH, "a key is needed: send the header Authorization: Bearer KEY");
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

void gate_serve(struct request *r)
{
    if (strcmp(r->method, MHD_HTTP_METHOD_OPTIONS) == 0) {
        request_set_header(r, "Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS");
        request_set_header(r, "Access-Control-Allow-Headers",
                           "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Range");
        request_set_header(r, "Access-Control-Max-Age", "600");
        reply_empty(r, 204);
    } else if (r->refused.code) {
        reply_problem(r, r->refused_status ? r->refused_status : err_http(r->refused.code), &r->refused, 0);
    } else {
        r->route->handler(r);
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
    *ret_local = loopback && !*c->api_key;
    if (!loopback && !*c->api_key && !c->insecure)
        return err_set(err, ERR_INVALID,
                       "bind: %s can be reached from other machines and no api_key is set; set api_key, or bind to "
                       "127.0.0.1, or say --insecure", c->bind);
    return 0;
}
