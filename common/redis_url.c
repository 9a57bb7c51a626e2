#include "common/redis_url.h"

#include <stdint.h>
#include <string.h>

#include "common/str.h"

#define PORT 6379
#define SENTINEL_PORT 26379

/* %41 -> A, for passwords with '@' or '/'. */
static int percent(char *dst, size_t size, const char *src, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = src[i];
        if (c == '%') {
            static const char hex[] = "0123456789abcdef";
            const char *a = i + 2 < len ? strchr(hex, src[i + 1] | 0x20) : NULL;
            const char *b = i + 2 < len ? strchr(hex, src[i + 2] | 0x20) : NULL;
            if (!a || !b || !*a || !*b)
                return ERR_INVALID;
            c = (char)((a - hex) * 16 + (b - hex));
            i += 2;
        }
        if (n + 1 >= size || (unsigned char)c < 0x20)
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
    if (u->user[0] && !u->password[0])
        return err_set(err, ERR_INVALID, "redis: a user without a password; user:password@host is the form");
    return 0;
}

/* One of the hosts between the commas: name, name:port, [address]:port. */
static int parse_host(struct redis_host *h, const char *s, size_t len, struct err *err)
{
    bool v6 = len && *s == '[';
    const char *end = memchr(s, v6 ? ']' : ':', len); /* of the name */
    if (v6 && !end)
        return err_set(err, ERR_INVALID, "redis: the '[' before an IPv6 address is not closed");
    if (!end)
        end = s + len;
    const char *name = s + v6, *rest = end + v6;
    size_t name_len = (size_t)(end - name);
    if (name_len == 0)
        return err_set(err, ERR_INVALID, "redis: a host is missing; redis://host:6379/0 is the form");
    if (percent(h->name, sizeof(h->name), name, name_len) < 0)
        return err_set(err, ERR_INVALID, "redis: a host's name is too long or not well escaped");
    if (rest == s + len)
        return 0;
    if (*rest != ':' || parse_number(rest + 1, (size_t)(s + len - rest - 1), 65535, &h->port) < 0 || h->port == 0)
        return err_set(err, ERR_INVALID, "redis: a host's port must be a number from 1 to 65535");
    return 0;
}

static int parse_hosts(struct redis_url *u, const char *s, size_t len, struct err *err)
{
    for (size_t n;; s += n + 1, len -= n + 1) {
        const char *comma = memchr(s, ',', len);
        n = comma ? (size_t)(comma - s) : len;
        if (u->n_hosts == REDIS_URL_HOSTS)
            return err_set(err, ERR_INVALID, "redis: at most %d hosts can be named", REDIS_URL_HOSTS);
        u->hosts[u->n_hosts].port = u->master[0] ? SENTINEL_PORT : PORT;
        int rc = parse_host(&u->hosts[u->n_hosts], s, n, err);
        if (rc < 0)
            return rc;
        u->n_hosts++;
        if (!comma)
            return 0;
    }
}

static int parse_db(struct redis_url *u, const char *s, size_t len, struct err *err)
{
    if (len && parse_number(s, len, 65535, &u->db) < 0)
        return err_set(err, ERR_INVALID, "redis: what follows the last '/' must be the database's number");
    return 0;
}

/* "/db", or of sentinels "/master" and perhaps "/db" behind it; without the first '/'. */
static int parse_place(struct redis_url *u, bool sentinel, const char *s, size_t len, struct err *err)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (!sentinel)
        return parse_db(u, s, len, err);
    const char *slash = memchr(s, '/', len);
    size_t n = slash ? (size_t)(slash - s) : len;
    if (n == 0 || n >= sizeof(u->master) || strspn(s, letters) < n)
        return err_set(err, ERR_INVALID,
                       "redis: behind the sentinels' hosts the master's name must follow (A-Z a-z 0-9 . _ -); "
                       "redis+sentinel://host:26379/mymaster is the form");
    memcpy(u->master, s, n);
    u->master[n] = 0;
    return slash ? parse_db(u, slash + 1, len - n - 1, err) : 0;
}

/* ---- options ---- */

enum { FOR_UNIX = 1, FOR_TLS = 2, FOR_SENTINEL = 4 };

static const struct option {
    const char *name;
    int where;
    size_t at, size; /* of the text in struct redis_url; 0, 0: see option_set */
} options[] = {
#define TEXT(name, where, field) {name, where, offsetof(struct redis_url, field), sizeof(((struct redis_url *)0)->field)}
    TEXT("user", FOR_UNIX, user),
    TEXT("password", FOR_UNIX, password),
    {"db", FOR_UNIX, 0, 0},
    TEXT("ca", FOR_TLS, ca),
    TEXT("cert", FOR_TLS, cert),
    TEXT("key", FOR_TLS, key),
    {"insecure", FOR_TLS, 0, 0},
    TEXT("sentinel_user", FOR_SENTINEL, sentinel_user),
    TEXT("sentinel_password", FOR_SENTINEL, sentinel_password),
#undef TEXT
};

static int option_set(struct redis_url *u, const struct option *o, const char *value, size_t len)
{
    int yes = 0, rc;
    if (o->size)
        return percent((char *)u + o->at, o->size, value, len);
    if (o->where == FOR_UNIX)
        return parse_number(value, len, 65535, &u->db);
    rc = parse_number(value, len, 1, &yes);
    u->insecure = yes;
    return rc;
}

static const struct option *option_find(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (strlen(options[i].name) == len && memcmp(options[i].name, name, len) == 0)
            return &options[i];
    }
    return NULL;
}

static int parse_options(struct redis_url *u, int where, const char *s, struct err *err)
{
    if (strchr(s, '@')) /* the name of an option could be half a password: it is not shown */
        return err_set(err, ERR_INVALID, "redis: '@' among the options; in a password '?' is written %%3F, and in an "
                                         "option '@' is written %%40");
    while (*s) {
        size_t len = strcspn(s, "&"), name = strcspn(s, "=&");
        const struct option *o = option_find(s, name);
        if (!o)
            return err_set(err, ERR_INVALID, "redis: the option '%.*s' is not known", (int)(name < 40 ? name : 40), s);
        if (!(o->where & where))
            return err_set(err, ERR_INVALID, "redis: the option '%s' is for %s", o->name,
                           o->where == FOR_UNIX  ? "unix:// only; elsewhere user:password@ and /db say that"
                           : o->where == FOR_TLS ? "TLS: rediss:// or rediss+sentinel://"
                                                 : "redis+sentinel:// and rediss+sentinel:// only");
        if (name == len || option_set(u, o, s + name + 1, len - name - 1) < 0)
            return err_set(err, ERR_INVALID, "redis: the option '%s' has no value, or not a good one", o->name);
        s += len + (s[len] == '&');
    }
    if (!u->cert[0] != !u->key[0])
        return err_set(err, ERR_INVALID, "redis: the options 'cert' and 'key' belong together");
    return 0;
}

/* ---- the forms ---- */

static int parse_tcp(struct redis_url *u, bool tls, bool sentinel, const char *s, struct err *err)
{
    size_t len = strcspn(s, "/?"), place = s[len] == '/' ? strcspn(s + len, "?") : 0;
    const char *rest = s + len, *at = memrchr(s, '@', len);
    int rc = 0;
    u->tls = tls;
    if (at) {
        rc = parse_user(u, s, (size_t)(at - s), err);
        len -= (size_t)(at + 1 - s);
        s = at + 1;
    }
    if (rc == 0)
        rc = parse_place(u, sentinel, rest + (place > 0), place - (place > 0), err);
    if (rc == 0)
        rc = parse_hosts(u, s, len, err);
    if (rc == 0 && rest[place] == '?')
        rc = parse_options(u, (tls ? FOR_TLS : 0) | (sentinel ? FOR_SENTINEL : 0), rest + place + 1, err);
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
    return s[len] ? parse_options(u, FOR_UNIX, s + len + 1, err) : 0;
}

int redis_url_parse(const char *text, struct redis_url *ret, struct err *err)
{
    struct redis_url u = {0};
    int rc;
    if (str_starts(text, "redis://"))
        rc = parse_tcp(&u, false, false, text + 8, err);
    else if (str_starts(text, "rediss://"))
        rc = parse_tcp(&u, true, false, text + 9, err);
    else if (str_starts(text, "redis+sentinel://"))
        rc = parse_tcp(&u, false, true, text + 17, err);
    else if (str_starts(text, "rediss+sentinel://"))
        rc = parse_tcp(&u, true, true, text + 18, err);
    else if (str_starts(text, "unix://"))
        rc = parse_unix(&u, text + 7, err);
    else if (str_starts(text, "redis+unix://"))
        rc = parse_unix(&u, text + 13, err);
    else if (text[0] == '/')
        rc = parse_unix(&u, text, err);
    else
        rc = err_set(err, ERR_INVALID,
                     "redis: the address must begin with redis://, rediss://, redis+sentinel:// or unix://");
    if (rc == 0)
        *ret = u;
    return rc;
}

const char *redis_url_show(const struct redis_url *u, char *dst, size_t size)
{
    size_t n = 0;
    if (u->path[0]) {
        str_copy(dst, size, u->path);
        return dst;
    }
    str_copy(dst, size, u->master[0] ? u->tls ? "rediss+sentinel://" : "redis+sentinel://" : u->tls ? "rediss://" : "");
    for (int i = 0; i < u->n_hosts; i++) {
        bool v6 = strchr(u->hosts[i].name, ':');
        n = strlen(dst);
        str_format(dst + n, size - n, "%s%s%s%s:%d", i ? "," : "", v6 ? "[" : "", u->hosts[i].name, v6 ? "]" : "",
                   u->hosts[i].port);
    }
    n = strlen(dst);
    str_format(dst + n, size - n, "%s%s/%d", u->master[0] ? "/" : "", u->master, u->db);
    return dst;
}

const char *redis_url_warning(const struct redis_url *u)
{
    return u->tls && u->insecure
               ? "insecure=1: the certificate of Redis is not checked, anybody on the way can read and change all"
               : NULL;
}
