#include "common/str.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/err.h"

int str_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret)
{
    char *end;
    if (!s || !*s || isspace((unsigned char)*s))
        return ERR_INVALID;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (errno || *end || v < min || v > max)
        return ERR_INVALID;
    *ret = v;
    return 0;
}

int str_parse_f64(const char *s, double min, double max, double *ret)
{
    char *end;
    if (!s || !*s || isspace((unsigned char)*s))
        return ERR_INVALID;
    errno = 0;
    double v = strtod(s, &end);
    if (*end || !isfinite(v) || v < min || v > max)
        return ERR_INVALID;
    *ret = v;
    return 0;
}

int str_parse_bool(const char *s, bool *ret)
{
    static const char *const yes[] = {"1", "true", "yes", "on"}, *const no[] = {"0", "false", "no", "off"};
    for (size_t i = 0; s && i < 4; i++) {
        if (strcasecmp(s, yes[i]) == 0 || strcasecmp(s, no[i]) == 0) {
            *ret = strcasecmp(s, yes[i]) == 0;
            return 0;
        }
    }
    return ERR_INVALID;
}

void str_end_whole(char *text)
{
    size_t n = strlen(text), tail = 0;
    while (tail < 3 && tail < n && ((unsigned char)text[n - 1 - tail] & 0xc0) == 0x80)
        tail++;
    unsigned char lead = tail < n ? (unsigned char)text[n - 1 - tail] : 0;
    size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (bytes > tail + 1)
        text[n - 1 - tail] = 0;
}

int str_copy(char *dst, size_t size, const char *src)
{
    return str_format(dst, size, "%s", src);
}

int str_format(char *dst, size_t size, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(dst, size, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < size)
        return 0;
    if (n < 0)
        return ERR_INTERNAL;
    if (size)
        str_end_whole(dst);
    return ERR_TOOBIG;
}

int str_path(char *dst, size_t size, const char *dir, const char *name)
{
    size_t n = strlen(dir);
    return str_format(dst, size, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

bool str_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);
    return n >= k && memcmp(s + n - k, suffix, k) == 0;
}

/* Length of the valid sequence at p (n bytes left), 0 if there is none. */
static size_t utf8_step(const unsigned char *p, size_t n)
{
    static const struct {
        unsigned char first_min, first_max, second_min, second_max, len;
    } row[] = {
        {0x00, 0x7f, 0, 0, 1},          {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3},    {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4},    {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (p[0] < row[i].first_min || p[0] > row[i].first_max)
            continue;
        if (row[i].len > n || (row[i].len > 1 && (p[1] < row[i].second_min || p[1] > row[i].second_max)))
            return 0;
        for (size_t k = 2; k < row[i].len; k++) {
            if ((p[k] & 0xc0) != 0x80)
                return 0;
        }
        return row[i].len;
    }
    return 0;
}

bool str_utf8_ok(const char *s, size_t n)
{
    while (n > 0) {
        size_t k = utf8_step((const unsigned char *)s, n);
        if (k == 0)
            return false;
        s += k;
        n -= k;
    }
    return true;
}

static int same_letter(char a, char b)
{
    return a == b || ((a == '-' || a == '_') && (b == '-' || b == '_'));
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

int str_distance(const char *a, const char *b, int limit)
{
    enum { LONGEST = 64 };
    int row[3][LONGEST + 1]; /* of the table of distances between beginnings: two before, one before, this one */
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > LONGEST || m > LONGEST)
        return limit;
    for (int k = 0; k <= m; k++)
        row[0][k] = k;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *before = row[(i - 1) % 3];
        now[0] = i;
        for (int k = 1; k <= m; k++) {
            now[k] = least(before[k - 1] + !same_letter(a[i - 1], b[k - 1]), least(before[k], now[k - 1]) + 1);
            if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
                now[k] = least(now[k], row[(i - 2) % 3][k - 2] + 1);
        }
    }
    return least(row[n % 3][m], limit);
}

const char *str_nearest(const char *name, const char *const *list)
{
    const char *best = NULL;
    int fewest = strlen(name) < 6 ? (int)strlen(name) / 2 + 1 : 4; /* more changes than that are no help */
    for (; *list; list++) {
        int n = str_distance(name, *list, fewest);
        if (n < fewest) {
            fewest = n;
            best = *list;
        }
    }
    return best;
}

bool str_in_list(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; at; at = strchr(at, '|')) {
        at += *at == '|';
        if (strcspn(at, "|") == n && memcmp(at, word, n) == 0)
            return true;
    }
    return false;
}

const char *str_bytes(char *dst, size_t size, uint64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t i = 0;
    while (v >= 1024 && i < 4) {
        v /= 1024;
        i++;
    }
    str_format(dst, size, i ? "%.1f %s" : "%.0f %s", v, unit[i]);
    return dst;
}
