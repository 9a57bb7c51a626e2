#include "dispatcher/http_stats.h"

#include <string.h>

#include "common/str.h"
#include "dispatcher/route.h"

static size_t place_of(const struct route *route)
{
    size_t n, i;
    const struct route *table = route_table(&n);
    if (!route)
        return HTTP_STATS_ROUTES;
    i = (size_t)(route - table);
    return i < HTTP_STATS_ROUTES ? i : HTTP_STATS_ROUTES;
}

static bool lasts_as_long_as_asked(const struct request *r)
{
    return r->route && (str_ends(r->route->path, "/events") || request_query(r, "wait"));
}

void http_stats_count(struct http_stats *h, const struct request *r, double seconds)
{
    size_t at = place_of(r->route);
    int class = r->status >= 100 && r->status < 600 ? r->status / 100 : 0;
    h->n[at][class]++;
    if (class && !lasts_as_long_as_asked(r))
        hist_add(&h->seconds[at], seconds);
}

static void labels_of(size_t at, char *dst, size_t size)
{
    size_t n;
    const struct route *table = route_table(&n);
    if (at < n && at < HTTP_STATS_ROUTES)
        str_format(dst, size, "method=\"%s\",route=\"%s\"", table[at].method, table[at].path);
    else
        str_format(dst, size, "method=\"other\",route=\"other\"");
}

void http_stats_write(const struct http_stats *h, struct buf *b)
{
    static const char *const classes[] = {"none", "1xx", "2xx", "3xx", "4xx", "5xx"};
    char labels[160];
    buf_puts(b, "# HELP troupe_http_requests_total Requests by route and class of status.\n"
                "# TYPE troupe_http_requests_total counter\n");
    for (size_t at = 0; at <= HTTP_STATS_ROUTES; at++) {
        labels_of(at, labels, sizeof labels);
        for (int k = 0; k < 6; k++) {
            if (h->n[at][k])
                buf_printf(b, "troupe_http_requests_total{%s,code=\"%s\"} %llu\n", labels, classes[k],
                           (unsigned long long)h->n[at][k]);
        }
    }
    buf_puts(b, "# HELP troupe_http_request_duration_seconds Until the last byte; without event streams and ?wait=.\n"
                "# TYPE troupe_http_request_duration_seconds histogram\n");
    for (size_t at = 0; at <= HTTP_STATS_ROUTES; at++) {
        uint64_t any = 0;
        for (int k = 1; k < 6; k++)
            any += h->n[at][k];
        labels_of(at, labels, sizeof labels);
        if (any)
            hist_write(b, "troupe_http_request_duration_seconds", labels, &h->seconds[at]);
    }
}
