#include "cli/figures.h"

#include <string.h>

#include "cli/cli.h"
#include "common/str.h"

double figures_quantile(const json_t *hist, double q)
{
    const json_t *le = json_object_get(hist, "le"), *n = json_object_get(hist, "n");
    size_t bounds = json_array_size(le);
    double total = 0, seen = 0, from = 0;
    for (size_t i = 0; i < json_array_size(n); i++)
        total += json_number_value(json_array_get(n, i));
    if (total <= 0 || bounds == 0)
        return -1;
    for (size_t i = 0; i < bounds; i++) {
        double to = json_number_value(json_array_get(le, i)), here = json_number_value(json_array_get(n, i));
        if (here > 0 && seen + here >= q * total)
            return from + (to - from) * (q * total - seen) / here;
        seen += here;
        from = to;
    }
    return from;
}

const char *figures_seconds(char *dst, size_t size, double s)
{
    if (!(s >= 0))
        str_copy(dst, size, "-");
    else if (s < 9.95)
        str_format(dst, size, "%.1f s", s);
    else if (s < 119.5)
        str_format(dst, size, "%.0f s", s);
    else if (s < 3600)
        str_format(dst, size, "%d min %d s", (int)s / 60, (int)s % 60);
    else if (s < 48 * 3600)
        str_format(dst, size, "%d h %d min", (int)s / 3600, (int)s / 60 % 60);
    else
        str_format(dst, size, "%.0f days", s / 86400);
    return dst;
}

const char *figures_spread(char *dst, size_t size, const json_t *hist)
{
    char half[32], most[32];
    double p50 = figures_quantile(hist, 0.5), p90 = figures_quantile(hist, 0.9);
    if (p50 < 0)
        str_copy(dst, size, "-");
    else
        str_format(dst, size, "p50 %s, p90 %s", figures_seconds(half, sizeof half, p50),
                   figures_seconds(most, sizeof most, p90));
    return dst;
}

const char *figures_paused(char *dst, size_t size, const json_t *stats)
{
    const json_t *list = json_object_get(stats, "paused_list");
    size_t i, n = 0;
    json_t *one;
    dst[0] = 0;
    json_array_foreach(list, i, one) {
        char name[100];
        cli_clean(name, sizeof name, json_string_value(one) ? json_string_value(one) : "");
        char *colon = strchr(name, ':');
        if (colon)
            *colon = ' ';
        str_format(dst + n, size - n, "%s%s", n ? ", " : "", strcmp(name, "queue") == 0 ? "the queue" : name);
        n = strlen(dst);
    }
    if (!n && json_is_true(json_object_get(stats, "paused")))
        str_copy(dst, size, "the queue");
    return dst;
}
