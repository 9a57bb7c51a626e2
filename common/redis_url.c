#include "common/redis_url.h"

#include <stdbool.h>
#include <string.h>

#include "common/str.h"

/* %41 -> A, for passwords with '@' or '/'. */
static int percent(char *dst, size_t size, const char *src, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = src[i];
        if (c == '%' && i + 2 < len) {
            static const char hex[] = "0123456789abcdef";
            const char *a = strchr(hex, src[i + 1] | 0x20), *b = strchr(hex, src[i + 2] | 0x20);
            if (!a || !b || !*a || !*b)
                return ERR_INVALID;
            c = (char)((a - hex) * 16 + (b - hex));
            i += 2;
        }
        if (n + 1 >= size || c == 0)
            return ERR_INVALID;
        dst[n++] = c;
    }
    dst[n] = 0;
    return 0;
}

static int parse_number(const char *s, size_t len, int max, int *ret)
{
    char t[16];
    int64_t v;
    if (len >= sizeof(t))
        return ERR_INVALID;
    memcpy(t, s, len);
    t[len] = 0;
    int rc = str_parse_i64(t, 0, max, &v);
    if (rc == 0)
        *ret = (int)v;
    return rc;
}

static int parse_user(struct redis_url *u, const char *s, size_t len, struct err *err)
{
    const char *colon = memchr(s, ':', len);
    size_t user = colon ? (size_t)(colon - s) : len;
    if (percent(u->user, sizeof(u->user), s, user) < 0 ||
        (colon && percent(u->password, sizeof(u->password), colon + 1, len - user - 1) < 0))
        return err_set(err, ERR_INVALID,
                       "redis: the user or password before '@' is too long or not well escaped");
    return 0;
}

static int parse_host(struct redis_url *u, const char *s, size_t len, struct err *err)
{
    const char *port = NULL;
    if (len && *s == '[') { /* IPv6 */
        const char *end = memchr(s, ']', len);
        if (!end)
            return err_set(err, ERR_INVALID, "redis: the '[' before an IPv6 address is not closed");
        port = end + 1 < s + len && end[1] == ':' ? end + 2 : NULL;
        if (percent(u->host, sizeof(u->host), s + 1, (size_t)(end - s - 1)) < 0)
            return err_set(err, ERR_INVALID, "redis: the host's name is too long");
    } else {
        const char *colon = memchr(s, ':', len);
        size_t n = colon ? (size_t)(colon - s) : len;
        port = colon ? colon + 1 : NULL;
        if (n == 0 || percent(u->host, sizeof(u->host), s, n) < 0)
            return err_set(err, ERR_INVALID, "redis: a host is missing; redis://host:6379/0 is the form");
    }
    if (port && (parse_number(port, (size_t)(s + len - port), 65535, &u->port) < 0 || u->port == 0))
        return err_set(err, ERR_INVALID, "redis: the port must be a number from 1 to 65535");
    return 0;
}

static int parse_tcp(struct redis_url *u, const char *s, struct err *err)
{
    size_t len = strcspn(s, "/?");
    const char *rest = s + len;
    const char *at = memrchr(s, '@', len);
    int rc = 0;
    if (at) {
        rc = parse_user(u, s, (size_t)(at - s), err);
        len -= (size_t)(at + 1 - s);
        s = at + 1;
    }
    if (rc == 0)
        rc = parse_host(u, s, len, err);
    if (rc == 0 && *rest == '/' && rest[1] && parse_number(rest + 1, strlen(rest + 1), 65535, &u->db) < 0)
        return err_set(err, ERR_INVALID, "redis: what follows the host's '/' must be the database's number");
    return rc;
}

static int parse_unix(struct redis_url *u, const char *s, struct err *err)
{
    size_t len = strcspn(s, "?");
    if (len == 0 || len >= sizeof(u->path))
        return err_set(err, ERR_INVALID, "redis: the socket's path must have 1 to %zu bytes",
                       sizeof(u->path) - 1);
    memcpy(u->path, s, len);
    u->path[len] = 0;
    for (s += len; *s; s += len) {
        s++;
        len = strcspn(s, "&");
        if (str_starts(s, "db=") && parse_number(s + 3, len - 3, 65535, &u->db) == 0)
            continue;
        if (str_starts(s, "password=") && percent(u->password, sizeof(u->password), s + 9, len - 9) == 0)
            continue;
        return err_set(err, ERR_INVALID,
                       "redis: after a socket's path only ?db=N and &password=... may follow");
    }
    return 0;
}

int redis_url_parse(const char *text, struct redis_url *ret, struct err *err)
{
    struct redis_url u = {.port = 6379};
    int rc;
    if (str_starts(text, "redis://"))
        rc = parse_tcp(&u, text + 8, err);
    else if (str_starts(text, "unix://"))
        rc = parse_unix(&u, text + 7, err);
    else if (str_starts(text, "redis+unix://"))
        rc = parse_unix(&u, text + 13, err);
    else if (text[0] == '/')
        rc = parse_unix(&u, text, err);
    else if (str_starts(text, "rediss://"))
        rc = err_set(err, ERR_INVALID,
                     "redis: TLS (rediss://) is not offered; use a tunnel or a private network");
    else
        rc = err_set(err, ERR_INVALID, "redis: the address must begin with redis:// or unix://");
    if (rc == 0)
        *ret = u;
    return rc;
}

const char *redis_url_show(const struct redis_url *u, char *dst, size_t size)
{
    if (u->path[0])
        str_copy(dst, size, u->path);
    else
        str_format(dst, size, "%s:%d/%d", u->host, u->port, u->db);
    return dst;
}
