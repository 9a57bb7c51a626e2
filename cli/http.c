#include "cli/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/str.h"

#define ANSWER_MAX (16 << 20)

static size_t to_buf(char *data, size_t size, size_t n, void *arg)
{
    return buf_add(arg, data, size * n) == 0 ? size * n : 0;
}

static size_t to_file(char *data, size_t size, size_t n, void *arg)
{
    return fwrite(data, size, n, arg) * size;
}

/* RFC 3986: all but the unreserved characters. */
static int escape(char *dst, size_t size, const char *text)
{
    size_t n = strlen(dst);
    for (const char *p = text; *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("-._~", *p);
        if (str_format(dst + n, size - n, plain ? "%c" : "%%%02X", (unsigned char)*p) < 0)
            return ERR_TOOBIG;
        n += strlen(dst + n);
    }
    return 0;
}

int http_query(char *path, size_t size, const char *name, const char *value)
{
    size_t n = strlen(path);
    if (!value)
        return 0;
    int rc = str_format(path + n, size - n, "%c%s=", strchr(path, '?') ? '&' : '?', name);
    return rc < 0 ? rc : escape(path, size, value);
}

int http_path(char *dst, size_t size, const char *path, const char *word)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    const char *at = strstr(path, "%s");
    if (!*word || word[strspn(word, plain)])
        return ERR_INVALID;
    int rc = str_format(dst, size, "%.*s%s", (int)(at - path), path, word);
    if (rc == 0) {
        size_t n = strlen(dst);
        rc = str_copy(dst + n, size - n, at + 2);
    }
    return rc;
}

struct call {
    CURL *curl;
    struct curl_slist *headers;
    struct buf answer;
    char url[1024];
};

static void call_done(struct call *h)
{
    curl_slist_free_all(h->headers);
    curl_easy_cleanup(h->curl);
    buf_done(&h->answer);
}

static int call_open(struct call *h, const struct cli *c, const char *path, struct err *err)
{
    static bool ready;
    char line[600];
    *h = (struct call){0};
    if (!ready && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return err_set(err, ERR_INTERNAL, "libcurl does not start");
    ready = true;
    buf_init(&h->answer, ANSWER_MAX);
    h->curl = curl_easy_init();
    if (!h->curl || str_format(h->url, sizeof h->url, "%s%s", c->server, path) < 0)
        return err_set(err, ERR_NOMEM, "no memory for a request");
    if (c->conf.api_key[0]) {
        str_format(line, sizeof line, "Authorization: Bearer %.*s", (int)strcspn(c->conf.api_key, ","),
                   c->conf.api_key);
        h->headers = curl_slist_append(h->headers, line);
    }
    curl_easy_setopt(h->curl, CURLOPT_URL, h->url);
    curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h->curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(h->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h->curl, CURLOPT_NOPROXY, "127.0.0.1,localhost");
    return 0;
}

static int no_answer(const struct call *h, const struct cli *c, CURLcode e, struct err *err)
{
    (void)h;
    if (e == CURLE_COULDNT_CONNECT || e == CURLE_COULDNT_RESOLVE_HOST)
        return err_set(err, ERR_IO,
                       "no dispatcher answers at %s: start one with `troupe up`, or name it with --server",
                       c->server);
    return err_set(err, e == CURLE_OPERATION_TIMEDOUT ? ERR_TIMEOUT : ERR_IO, "%s: %s", c->server,
                   curl_easy_strerror(e));
}

static int code_of(long status)
{
    static const struct {
        long status;
        int code;
    } known[] = {{404, ERR_NOTFOUND}, {401, ERR_AUTH},    {403, ERR_AUTH},    {409, ERR_CONFLICT},
                 {413, ERR_TOOBIG},   {422, ERR_INVALID}, {400, ERR_INVALID}, {429, ERR_LIMIT}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].status == status)
            return known[i].code;
    }
    return ERR_IO;
}

/* The server's own sentence, or the status. */
static int refused(const struct call *h, const struct cli *c, long status, struct err *err)
{
    json_t *v = NULL;
    int code = code_of(status);
    if (h->answer.data)
        json_parse(h->answer.data, h->answer.len, 16, &v, NULL); /* or nothing: then the status has to do */
    const char *detail = cli_text(v, "detail"), *name = cli_text(v, "code");
    if (!*detail)
        detail = cli_text(v, "title");
    if (*name)
        code = err_parse(name);
    if (status == 405 || (status == 404 && str_starts(detail, "there is nothing at ")))
        code = err_set(err, ERR_UNSUPPORTED, "the dispatcher at %s is older than this program and cannot do that: renew it",
                       c->server);
    else if (*detail)
        err_set(err, code, "%s", detail);
    else
        err_set(err, code, "the dispatcher answered HTTP %ld", status);
    json_decref(v);
    return code;
}

static int perform(struct call *h, const struct cli *c, struct err *err)
{
    long status = 0;
    curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, h->headers);
    CURLcode e = curl_easy_perform(h->curl);
    if (e != CURLE_OK)
        return no_answer(h, c, e, err);
    curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
    return status >= 400 ? refused(h, c, status, err) : 0;
}

/* jansson's texts come from its own allocator. */
static void free_text(char *text)
{
    json_malloc_t m;
    json_free_t f;
    json_get_alloc_funcs(&m, &f);
    if (text)
        f(text);
}

static int answer_json(struct call *h, json_t **ret, struct err *err)
{
    *ret = NULL;
    return h->answer.len ? json_parse(h->answer.data, h->answer.len, 32, ret, err) : 0;
}

int http_json(const struct cli *c, const char *method, const char *path, const json_t *body, long timeout_s,
              json_t **ret, struct err *err)
{
    struct call h;
    char *text = NULL;
    int rc = call_open(&h, c, path, err);
    if (rc < 0)
        goto out;
    curl_easy_setopt(h.curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h.curl, CURLOPT_TIMEOUT, timeout_s);
    curl_easy_setopt(h.curl, CURLOPT_WRITEFUNCTION, to_buf);
    curl_easy_setopt(h.curl, CURLOPT_WRITEDATA, &h.answer);
    if (body) {
        text = json_dumps(body, JSON_COMPACT);
        h.headers = curl_slist_append(h.headers, "Content-Type: application/json");
        curl_easy_setopt(h.curl, CURLOPT_COPYPOSTFIELDS, text ? text : "{}");
    } else if (strcmp(method, "POST") == 0) {
        curl_easy_setopt(h.curl, CURLOPT_COPYPOSTFIELDS, "");
    }
    rc = perform(&h, c, err);
    if (rc == 0)
        rc = answer_json(&h, ret, err);
out:
    free_text(text);
    call_done(&h);
    return rc;
}

struct uploading {
    void (*up)(void *arg, double sent, double total);
    void *arg;
};

static int on_transfer(void *arg, curl_off_t dl_total, curl_off_t dl, curl_off_t ul_total, curl_off_t ul)
{
    struct uploading *u = arg;
    (void)dl_total;
    (void)dl;
    if (u->up && ul_total > 0)
        u->up(u->arg, (double)ul, (double)ul_total);
    return cli_stopped;
}

static curl_mime *form_of(CURL *curl, const struct http_part *part, int n, struct err *err)
{
    curl_mime *form = curl_mime_init(curl);
    for (int i = 0; form && i < n; i++) {
        curl_mimepart *p = curl_mime_addpart(form);
        if (!p || curl_mime_name(p, part[i].name) != CURLE_OK)
            break;
        CURLcode e = part[i].is_file ? curl_mime_filedata(p, part[i].value)
                                     : curl_mime_data(p, part[i].value, CURL_ZERO_TERMINATED);
        if (e != CURLE_OK) {
            err_set(err, ERR_NOTFOUND, "%s: %s cannot be read", part[i].name, part[i].value);
            curl_mime_free(form);
            return NULL;
        }
    }
    return form;
}

int http_form(const struct cli *c, const char *path, const struct http_part *part, int n,
              void (*up)(void *arg, double sent, double total), void *arg, json_t **ret, struct err *err)
{
    struct call h;
    struct uploading u = {up, arg};
    curl_mime *form = NULL;
    int rc = call_open(&h, c, path, err);
    if (rc < 0)
        goto out;
    form = form_of(h.curl, part, n, err);
    if (!form) {
        rc = err_set(err, ERR_NOMEM, "no memory for a form");
        rc = err ? err->code : rc;
        goto out;
    }
    curl_easy_setopt(h.curl, CURLOPT_MIMEPOST, form);
    curl_easy_setopt(h.curl, CURLOPT_TIMEOUT, 600L);
    curl_easy_setopt(h.curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h.curl, CURLOPT_XFERINFOFUNCTION, on_transfer);
    curl_easy_setopt(h.curl, CURLOPT_XFERINFODATA, &u);
    curl_easy_setopt(h.curl, CURLOPT_WRITEFUNCTION, to_buf);
    curl_easy_setopt(h.curl, CURLOPT_WRITEDATA, &h.answer);
    rc = perform(&h, c, err);
    if (rc == 0)
        rc = answer_json(&h, ret, err);
out:
    curl_mime_free(form);
    call_done(&h);
    return rc;
}

int http_download(const struct cli *c, const char *path, const char *file, struct err *err)
{
    struct call h;
    char part[1100];
    FILE *f = NULL;
    int rc = call_open(&h, c, path, err);
    if (rc == 0 && (str_format(part, sizeof part, "%s.part", file) < 0 || !(f = fopen(part, "wb"))))
        rc = err_set(err, ERR_IO, "%s cannot be written: %s", file, strerror(errno));
    if (rc == 0) {
        curl_easy_setopt(h.curl, CURLOPT_WRITEFUNCTION, to_file);
        curl_easy_setopt(h.curl, CURLOPT_WRITEDATA, f);
        curl_easy_setopt(h.curl, CURLOPT_FAILONERROR, 1L);
        curl_easy_setopt(h.curl, CURLOPT_TIMEOUT, 3600L);
        rc = perform(&h, c, err);
    }
    if (f && fclose(f) != 0 && rc == 0)
        rc = err_set(err, ERR_IO, "%s cannot be written: %s", file, strerror(errno));
    if (rc == 0 && rename(part, file) != 0)
        rc = err_set(err, ERR_IO, "%s cannot be written: %s", file, strerror(errno));
    if (rc < 0 && f)
        unlink(part);
    call_done(&h);
    return rc;
}

/* ---- server-sent events (WHATWG HTML, section "Server-sent events") ---- */

struct stream {
    int (*fn)(void *arg, const char *event, const char *id, const char *data);
    void *arg;
    struct buf line, data;
    char event[48], id[64];
    bool stopped;
    struct call *call;
};

static void dispatch(struct stream *s)
{
    if (s->data.len && s->fn(s->arg, s->event[0] ? s->event : "message", s->id, s->data.data))
        s->stopped = true;
    buf_clear(&s->data);
    s->event[0] = 0;
}

static void take_line(struct stream *s)
{
    char none[1] = "";
    char *line = s->line.data ? s->line.data : none;
    char *colon = strchr(line, ':');
    const char *value = colon ? colon + 1 + (colon[1] == ' ') : "";
    if (!*line) {
        dispatch(s);
    } else if (colon && colon != line) {
        *colon = 0;
        if (strcmp(line, "data") == 0) {
            if (s->data.len)
                buf_puts(&s->data, "\n");
            buf_puts(&s->data, value);
        } else if (strcmp(line, "event") == 0) {
            str_copy(s->event, sizeof s->event, value);
        } else if (strcmp(line, "id") == 0) {
            str_copy(s->id, sizeof s->id, value);
        }
    }
    buf_clear(&s->line);
}

static size_t to_stream(char *data, size_t size, size_t n, void *arg)
{
    struct stream *s = arg;
    long status = 0;
    curl_easy_getinfo(s->call->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 400)
        return to_buf(data, size, n, &s->call->answer);
    for (size_t i = 0; i < size * n && !s->stopped; i++) {
        if (data[i] == '\n')
            take_line(s);
        else if (data[i] != '\r' && buf_add(&s->line, &data[i], 1) < 0)
            return 0;
    }
    return s->stopped ? 0 : size * n;
}

static int on_idle(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)arg;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return cli_stopped;
}

int http_events(const struct cli *c, const char *path, const char *last_id,
                int (*fn)(void *arg, const char *event, const char *id, const char *data), void *arg,
                struct err *err)
{
    struct call h;
    struct stream s = {.fn = fn, .arg = arg, .call = &h};
    char line[128];
    int rc = call_open(&h, c, path, err);
    buf_init(&s.line, 1 << 20);
    buf_init(&s.data, 1 << 20);
    if (rc == 0) {
        if (last_id[0] && str_format(line, sizeof line, "Last-Event-ID: %s", last_id) == 0)
            h.headers = curl_slist_append(h.headers, line);
        h.headers = curl_slist_append(h.headers, "Accept: text/event-stream");
        curl_easy_setopt(h.curl, CURLOPT_WRITEFUNCTION, to_stream);
        curl_easy_setopt(h.curl, CURLOPT_WRITEDATA, &s);
        curl_easy_setopt(h.curl, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(h.curl, CURLOPT_XFERINFOFUNCTION, on_idle);
        curl_easy_setopt(h.curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(h.curl, CURLOPT_LOW_SPEED_TIME, 60L); /* the server comments every 15 s */
        struct err why = {0};
        rc = perform(&h, c, &why);
        if (s.stopped || cli_stopped)
            rc = 0;
        else if (rc < 0)
            err_set(err, rc, "%s", why.text);
    }
    buf_done(&s.line);
    buf_done(&s.data);
    call_done(&h);
    return rc;
}
