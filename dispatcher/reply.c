#include "dispatcher/reply.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"

static void answer_with(struct request *r, int status, struct MHD_Response *m, const char *type)
{
    if (m && type)
        MHD_add_response_header(m, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (m)
        MHD_add_response_header(m, "X-Content-Type-Options", "nosniff");
    request_answer(r, status, m);
}

void reply_text(struct request *r, int status, const char *type, const char *text, size_t len)
{
    struct MHD_Response *m = MHD_create_response_from_buffer(len, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (m)
        MHD_add_response_header(m, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    answer_with(r, status, m, type);
}

static void json_as(struct request *r, int status, const char *type, json_t *take)
{
    char *text = take ? json_dumps(take, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(take);
    if (!text) {
        request_answer(r, 500, NULL);
        return;
    }
    reply_text(r, status, type, text, strlen(text));
    mem_free(text);
}

void reply_json(struct request *r, int status, json_t *take)
{
    json_as(r, status, "application/json", take);
}

/* "" or W/ and the quotes taken off; a list and "*" are understood. */
static bool etag_matches(const char *header, const char *etag)
{
    size_t n = strlen(etag);
    for (const char *p = header; p && *p;) {
        p += strspn(p, " \t,");
        if (*p == '*')
            return true;
        if (str_starts(p, "W/"))
            p += 2;
        if (*p == '"' && strncmp(p + 1, etag, n) == 0 && p[1 + n] == '"')
            return true;
        p = strchr(p, ',');
    }
    return false;
}

static void add_etag(struct MHD_Response *m, const char *etag)
{
    char quoted[160];
    str_format(quoted, sizeof quoted, "\"%s\"", etag);
    MHD_add_response_header(m, MHD_HTTP_HEADER_ETAG, quoted);
}

void reply_static(struct request *r, const char *type, const char *text, size_t len, const char *etag)
{
    bool same = etag_matches(request_header(r, MHD_HTTP_HEADER_IF_NONE_MATCH), etag);
    struct MHD_Response *m = MHD_create_response_from_buffer(same ? 0 : len, (void *)(uintptr_t)text,
                                                             MHD_RESPMEM_PERSISTENT);
    if (m) {
        add_etag(m, etag);
        MHD_add_response_header(m, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    }
    answer_with(r, same ? 304 : 200, m, type);
}

void reply_empty(struct request *r, int status)
{
    answer_with(r, status, MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT), NULL);
}

/* The sentence's leading "name: " when name looks like a field; its length, else 0. */
static size_t field_length(const char *text)
{
    size_t n = 0;
    while (islower((unsigned char)text[n]) || isdigit((unsigned char)text[n]) || text[n] == '_' || text[n] == '-' ||
           text[n] == '.')
        n++;
    return n > 0 && n < 64 && text[n] == ':' && text[n + 1] == ' ' ? n : 0;
}

/* Only what JSON can carry: a sentence may quote what a client sent. */
static json_t *clean_text(const char *text)
{
    char copy[sizeof((struct err *)0)->text];
    str_copy(copy, sizeof copy, text);
    size_t n = strlen(copy);
    while (n > 0 && !str_utf8_ok(copy, n) && n > strlen(copy) - 4)
        n--; /* a cut in the middle of the last character */
    if (str_utf8_ok(copy, n))
        return json_stringn(copy, n);
    for (size_t i = 0; copy[i]; i++) {
        if ((unsigned char)copy[i] >= 0x80)
            copy[i] = '?';
    }
    return json_string(copy);
}

void reply_problem(struct request *r, int status, const struct err *err, int64_t retry_after_s)
{
    char after[24], type[96];
    const char *text = *err->text ? err->text : err_text(err->code);
    if (status == 503 && retry_after_s <= 0)
        retry_after_s = 2;
    if (retry_after_s > 0) {
        str_format(after, sizeof after, "%lld", (long long)retry_after_s);
        request_set_header(r, MHD_HTTP_HEADER_RETRY_AFTER, after);
    }
    str_format(type, sizeof type, "/docs#%s", err_name(err->code));
    json_t *o = json_pack("{s:s, s:s, s:i, s:o*, s:s}", "type", type, "title", err_text(err->code), "status", status,
                          "detail", clean_text(text), "code", err_name(err->code));
    size_t n = field_length(text);
    if (o && n)
        json_object_set_new(o, "field", json_stringn(text, n));
    if (o && retry_after_s > 0)
        json_object_set_new(o, "retry_after_s", json_integer(retry_after_s));
    json_as(r, status, "application/problem+json", o);
}

void reply_error(struct request *r, const struct err *err)
{
    reply_problem(r, err_http(err->code), err, 0);
}

enum { RANGE_TEXT = 24 };

/* "bytes=a-b" to its two numbers; either text may be empty, not both. */
static bool range_numbers(const char *header, char a[RANGE_TEXT], char b[RANGE_TEXT], int64_t *ret_a, int64_t *ret_b)
{
    const char *p = header && str_starts(header, "bytes=") && !strchr(header, ',') ? header + 6 : "";
    const char *dash = strchr(p, '-');
    if (!dash || dash - p >= RANGE_TEXT || strlen(dash + 1) >= RANGE_TEXT || !p[1])
        return false;
    str_format(a, RANGE_TEXT, "%.*s", (int)(dash - p), p);
    str_copy(b, RANGE_TEXT, dash + 1);
    if ((*a && str_parse_i64(a, 0, INT64_MAX, ret_a) < 0) || (*b && str_parse_i64(b, 0, INT64_MAX, ret_b) < 0))
        return false;
    return !*a || !*b || *ret_b >= *ret_a;
}

/* One "bytes=a-b" of a file of size bytes. 1: first and last are set; 0: no range, or one we may ignore; -1: none of it
 * lies in the file. */
static int range_parse(const char *header, uint64_t size, uint64_t *ret_first, uint64_t *ret_last)
{
    char a[RANGE_TEXT], b[RANGE_TEXT];
    int64_t first = 0, last = 0;
    if (!range_numbers(header, a, b, &first, &last))
        return 0;
    if (!*a) { /* the last n bytes */
        if (last == 0 || size == 0)
            return -1;
        first = (uint64_t)last >= size ? 0 : (int64_t)(size - (uint64_t)last);
        last = (int64_t)size - 1;
    } else if (!*b || (uint64_t)last >= size) {
        last = (int64_t)size - 1;
    }
    if ((uint64_t)first >= size)
        return -1;
    *ret_first = (uint64_t)first;
    *ret_last = (uint64_t)last;
    return 1;
}

static void add_name(struct request *r, struct MHD_Response *m, const char *name)
{
    char text[192];
    const char *download = request_query(r, "download");
    str_format(text, sizeof text, "%s; filename=\"%s\"", download && *download != '0' ? "attachment" : "inline", name);
    MHD_add_response_header(m, MHD_HTTP_HEADER_CONTENT_DISPOSITION, text);
}

static void add_range(struct MHD_Response *m, bool outside, uint64_t first, uint64_t last, uint64_t size)
{
    char text[80];
    if (outside)
        str_format(text, sizeof text, "bytes */%llu", (unsigned long long)size);
    else
        str_format(text, sizeof text, "bytes %llu-%llu/%llu", (unsigned long long)first, (unsigned long long)last,
                   (unsigned long long)size);
    MHD_add_response_header(m, MHD_HTTP_HEADER_CONTENT_RANGE, text);
}

/* range_parse of the request, unless If-Range names another version of the file. */
static int range_asked(const struct request *r, const char *etag, uint64_t size, uint64_t *first, uint64_t *last)
{
    const char *version = request_header(r, MHD_HTTP_HEADER_IF_RANGE);
    if (version && !etag_matches(version, etag))
        return 0;
    return range_parse(request_header(r, MHD_HTTP_HEADER_RANGE), size, first, last);
}

void reply_file(struct request *r, int fd, const char *type, const char *etag, const char *name)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        close(fd);
        request_answer(r, 500, NULL);
        return;
    }
    uint64_t size = (uint64_t)st.st_size, first = 0, last = size ? size - 1 : 0;
    int part = range_asked(r, etag, size, &first, &last);
    bool same = etag_matches(request_header(r, MHD_HTTP_HEADER_IF_NONE_MATCH), etag);
    struct MHD_Response *m;
    if (same || part < 0) {
        close(fd);
        m = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    } else {
        m = MHD_create_response_from_fd_at_offset64(size ? last - first + 1 : 0, fd, first);
        if (!m)
            close(fd);
    }
    if (m) {
        add_etag(m, etag);
        MHD_add_response_header(m, MHD_HTTP_HEADER_ACCEPT_RANGES, "bytes");
        MHD_add_response_header(m, MHD_HTTP_HEADER_CACHE_CONTROL, "private, max-age=0, must-revalidate");
        if (part && !same)
            add_range(m, part < 0, first, last, size);
        if (name)
            add_name(r, m, name);
    }
    answer_with(r, same ? 304 : part < 0 ? 416 : part ? 206 : 200, m, type);
}
