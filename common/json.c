#include "common/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"

/* jansson has no depth setting of its own at run time (its limit is 2048): nesting is counted over the text first. */
static int depth_of(const char *s, size_t n)
{
    int depth = 0, deepest = 0;
    int in_string = 0;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in_string = 0;
            continue;
        }
        in_string = s[i] == '"';
        if (s[i] == '{' || s[i] == '[')
            deepest = ++depth > deepest ? depth : deepest;
        else if (s[i] == '}' || s[i] == ']')
            depth--;
    }
    return deepest;
}

static int parse(const char *text, size_t len, int max_depth, size_t flags, json_t **ret, struct err *err)
{
    json_error_t why;
    int depth = depth_of(text, len);
    if (depth > max_depth)
        return err_set(err, ERR_BADREQ, "JSON: nested %d deep, at most %d is allowed", depth, max_depth);
    json_t *v = json_loadb(text, len, flags | JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
    if (!v)
        return err_set(err, ERR_BADREQ, "JSON: line %d, column %d: %s", why.line, why.column, why.text);
    *ret = v;
    return 0;
}

int json_parse(const char *text, size_t len, int max_depth, json_t **ret, struct err *err)
{
    return parse(text, len, max_depth, 0, ret, err);
}

static int slurp(FILE *f, struct buf *b)
{
    char chunk[16384];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0) {
        int rc = buf_add(b, chunk, n);
        if (rc < 0)
            return rc;
    }
    return ferror(f) ? ERR_IO : 0;
}

static int read_file(const char *path, size_t max_bytes, size_t flags, json_t **ret, struct err *err)
{
    struct buf b;
    buf_init(&b, max_bytes);
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s", path, strerror(errno));
    int rc = slurp(f, &b);
    fclose(f);
    if (rc < 0) {
        err_set(err, rc, "%s: %s", path, err_text(rc));
    } else if ((rc = parse(b.data ? b.data : "", b.len, 64, flags, ret, err)) < 0) {
        err_wrap(err, "%s", path);
        rc = ERR_FORMAT;
    }
    buf_done(&b);
    return rc;
}

int json_read_file(const char *path, size_t max_bytes, json_t **ret, struct err *err)
{
    return read_file(path, max_bytes, 0, ret, err);
}

int json_read_file_nul(const char *path, size_t max_bytes, json_t **ret, struct err *err)
{
    return read_file(path, max_bytes, JSON_ALLOW_NUL, ret, err);
}
