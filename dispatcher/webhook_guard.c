/* webhook_guard.c -- URLs are taken apart by libcurl's own parser: two parsers that disagree are the classic hole. */
#include "dispatcher/webhook_guard.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "common/mem.h"
#include "common/str.h"

enum { HOST_MAX = 256, RULES_MAX = 64 };

/* A range of addresses, or a name. IPv4 addresses are kept and compared in their mapped form (::ffff:a.b.c.d). */
struct webhook_guard_rule {
    unsigned char bytes[16];
    int bits; /* -1: a name */
    char name[HOST_MAX];
};

struct range {
    unsigned char bytes[16];
    int bits;
};

static const struct range closed4[] = {
    {{0}, 8},                /* this network */
    {{10}, 8},               /* private */
    {{100, 64}, 10},         /* behind a carrier's NAT */
    {{127}, 8},              /* loopback */
    {{169, 254}, 16},        /* link-local; the clouds' metadata services */
    {{172, 16}, 12},         /* private */
    {{192, 0, 0}, 24},       /* protocol assignments */
    {{192, 0, 2}, 24},       /* documentation */
    {{192, 88, 99}, 24},     /* 6to4 relays, deprecated */
    {{192, 168}, 16},        /* private */
    {{198, 18}, 15},         /* benchmarks */
    {{198, 51, 100}, 24},    /* documentation */
    {{203, 0, 113}, 24},     /* documentation */
    {{224}, 4},              /* multicast */
    {{240}, 4},              /* reserved, broadcast */
};

static const struct range unicast6 = {{0x20}, 3}; /* all of IPv6 that is given out as global */
static const struct range closed6[] = {
    {{0x20, 0x01}, 23},             /* protocol assignments, Teredo, ORCHID */
    {{0x20, 0x01, 0x0d, 0xb8}, 32}, /* documentation */
    {{0x3f, 0xff}, 20},             /* documentation */
};
static const struct {
    struct range range;
    int at; /* where the IPv4 address stands in it */
} embedding[] = {
    {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 96}, 12}, /* mapped */
    {{{0, 0x64, 0xff, 0x9b}, 96}, 12},                      /* NAT64 */
    {{{0x20, 0x02}, 16}, 2},                                /* 6to4 */
};

static bool inside(const unsigned char *a, const unsigned char *range, int bits)
{
    int whole = bits / 8, rest = bits % 8;
    if (memcmp(a, range, (size_t)whole) != 0)
        return false;
    return rest == 0 || (a[whole] ^ range[whole]) >> (8 - rest) == 0;
}

static bool public4(const unsigned char a[4])
{
    for (size_t i = 0; i < sizeof closed4 / sizeof *closed4; i++)
        if (inside(a, closed4[i].bytes, closed4[i].bits))
            return false;
    return true;
}

static bool public6(const unsigned char a[16])
{
    for (size_t i = 0; i < sizeof embedding / sizeof *embedding; i++)
        if (inside(a, embedding[i].range.bytes, embedding[i].range.bits))
            return public4(a + embedding[i].at);
    if (!inside(a, unicast6.bytes, unicast6.bits))
        return false;
    for (size_t i = 0; i < sizeof closed6 / sizeof *closed6; i++)
        if (inside(a, closed6[i].bytes, closed6[i].bits))
            return false;
    return true;
}

static void map4(const void *four, unsigned char ret[16])
{
    memset(ret, 0, 10);
    ret[10] = ret[11] = 0xff;
    memcpy(ret + 12, four, 4);
}

bool webhook_guard_address(const struct webhook_guard *g, const struct sockaddr *a)
{
    unsigned char bytes[16];
    if (a->sa_family == AF_INET)
        map4(&((const struct sockaddr_in *)(const void *)a)->sin_addr, bytes);
    else if (a->sa_family == AF_INET6)
        memcpy(bytes, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, sizeof bytes);
    else
        return false;
    for (size_t i = 0; i < g->n_rules; i++)
        if (g->rules[i].bits >= 0 && inside(bytes, g->rules[i].bytes, g->rules[i].bits))
            return true;
    return public6(bytes);
}

/* ---- the setting ---- */

static bool name_ok(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._");
    return n > 0 && s[n] == 0 && strspn(s, "0123456789.") != n && !strstr(s, "..");
}

static int rule_parse(const char *word, struct webhook_guard_rule *r, struct err *err)
{
    char text[HOST_MAX];
    unsigned char four[4];
    int64_t bits = -1;
    str_copy(text, sizeof text, word);
    char *slash = strchr(text, '/');
    if (slash)
        *slash = 0;
    bool v4 = inet_pton(AF_INET, text, four) == 1;
    if (v4)
        map4(four, r->bytes);
    else if (inet_pton(AF_INET6, text, r->bytes) != 1)
        r->bits = -1;
    bool address = v4 || strchr(text, ':');
    if (!address && !slash && name_ok(text))
        return str_copy(r->name, sizeof r->name, text);
    if (address && r->bits == 0 && (!slash || str_parse_i64(slash + 1, 0, v4 ? 32 : 128, &bits) == 0)) {
        r->bits = !slash ? 128 : v4 ? 96 + (int)bits : (int)bits;
        return 0;
    }
    return err_set(err, ERR_INVALID, "'%.80s' is no address, no range as 10.1.0.0/16, and no host name", word);
}

int webhook_guard_init(struct webhook_guard *g, const char *allow, struct err *err)
{
    char word[HOST_MAX];
    int rc = 0;
    *g = (struct webhook_guard){.rules = mem_calloc(RULES_MAX, sizeof *g->rules)};
    if (!g->rules)
        return err_set(err, ERR_NOMEM, "out of memory");
    while (rc == 0 && *allow) {
        size_t skip = strspn(allow, " "), n = strcspn(allow + skip, ", ");
        rc = str_format(word, sizeof word, "%.*s", (int)n, allow + skip);
        allow += skip + n;
        allow += strspn(allow, " ");
        allow += *allow == ',';
        if (rc == 0 && g->n_rules == RULES_MAX)
            rc = err_set(err, ERR_INVALID, "more than %d words", RULES_MAX);
        if (rc == 0 && n > 0)
            rc = rule_parse(word, &g->rules[g->n_rules++], err);
    }
    if (rc < 0) {
        err_set(err, rc, "a word is longer than %d characters", HOST_MAX - 1);
        webhook_guard_done(g);
    }
    return rc;
}

void webhook_guard_done(struct webhook_guard *g)
{
    mem_free(g->rules);
    *g = (struct webhook_guard){0};
}

/* ---- URLs ---- */

static bool name_is(const struct webhook_guard_rule *r, const char *host)
{
    size_t n = strlen(host), m = strlen(r->name);
    if (r->bits >= 0 || m == 0 || m > n)
        return false;
    return *r->name == '.' ? strcasecmp(host + n - m, r->name) == 0 && n > m : strcasecmp(host, r->name) == 0;
}

static bool named(const struct webhook_guard *g, const char *host)
{
    for (size_t i = 0; i < g->n_rules; i++)
        if (name_is(&g->rules[i], host))
            return true;
    return false;
}

/* An address in any of the forms that resolvers take for one (127.1, 0x7f000001), without asking a resolver. */
static bool numeric(const char *host, struct sockaddr_storage *ret)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *found = NULL;
    if (getaddrinfo(host, NULL, &hints, &found) != 0 || !found)
        return false;
    memcpy(ret, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return true;
}

static int check_host(const struct webhook_guard *g, const char *host, bool *ret_named, struct err *err)
{
    struct sockaddr_storage a = {0};
    char bare[HOST_MAX];
    bool v6 = *host == '[';
    int rc = str_copy(bare, sizeof bare, v6 ? host + 1 : host);
    size_t n = strlen(bare);
    if (rc < 0 || n == 0)
        return err_set(err, ERR_INVALID, "the URL's host is longer than %d characters, or missing", HOST_MAX - 1);
    if (v6 ? bare[n - 1] == ']' : bare[n - 1] == '.')
        bare[--n] = 0;
    if (n == 0 || strchr(bare, '%'))
        return err_set(err, ERR_INVALID, "%s is no host", host);
    *ret_named = named(g, bare);
    if (*ret_named)
        return 0;
    bool home = strcasecmp(bare, "localhost") == 0 || (n > 10 && strcasecmp(bare + n - 10, ".localhost") == 0);
    if (numeric(home ? "127.0.0.1" : bare, &a) && !webhook_guard_address(g, (struct sockaddr *)&a))
        return err_set(err, ERR_INVALID, "%.80s is a private or special address; webhooks go to public ones, and to "
                       "those that the dispatcher's setting webhook_allow names", bare);
    return 0;
}

int webhook_guard_url(const struct webhook_guard *g, const char *url, bool *ret_named, struct err *err)
{
    char *host = NULL, *user = NULL, *password = NULL;
    bool found = false;
    int rc = 0;
    if (strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0) /* libcurl takes "http:/x" too */
        return err_set(err, ERR_INVALID, "an http:// or https:// URL is expected");
    CURLU *u = curl_url();
    if (!u)
        return err_set(err, ERR_NOMEM, "out of memory");
    CURLUcode e = curl_url_set(u, CURLUPART_URL, url, 0);
    if (e == CURLUE_OK)
        e = curl_url_get(u, CURLUPART_HOST, &host, 0);
    if (e == CURLUE_OUT_OF_MEMORY)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    else if (e != CURLUE_OK)
        rc = err_set(err, ERR_INVALID, "not a URL that can be called (%s)", curl_url_strerror(e));
    else if (curl_url_get(u, CURLUPART_USER, &user, 0) == CURLUE_OK ||
             curl_url_get(u, CURLUPART_PASSWORD, &password, 0) == CURLUE_OK)
        rc = err_set(err, ERR_INVALID, "a URL with a user or a password is not allowed");
    else
        rc = check_host(g, host, &found, err);
    curl_free(host);
    curl_free(user);
    curl_free(password);
    curl_url_cleanup(u);
    if (rc == 0)
        *ret_named = found;
    return rc;
}
