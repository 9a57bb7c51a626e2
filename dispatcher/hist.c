#include "dispatcher/hist.h"

#include <math.h>

static const double bounds[HIST_BOUNDS] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1, 2.5, 10, 60};

void hist_add(struct hist *h, double seconds)
{
    int i = 0;
    if (!isfinite(seconds) || seconds < 0)
        return;
    while (i < HIST_BOUNDS && seconds > bounds[i])
        i++;
    h->n[i]++;
    h->sum += seconds;
}

void hist_text(struct buf *b, const char *name, const char *labels, const double *le, const double *counts, size_t n,
               double sum)
{
    const char *comma = *labels ? "," : "";
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        total += isfinite(counts[i]) && counts[i] > 0 ? counts[i] : 0;
        buf_printf(b, "%s_bucket{%s%sle=\"", name, labels, comma);
        if (i + 1 < n)
            buf_printf(b, "%.6g\"} %.15g\n", le[i], total);
        else
            buf_printf(b, "+Inf\"} %.15g\n", total);
    }
    const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    buf_printf(b, "%s_sum%s%s%s %.12g\n%s_count%s%s%s %.15g\n", name, open, labels, close, isfinite(sum) ? sum : 0, name,
               open, labels, close, total);
}

void hist_write(struct buf *b, const char *name, const char *labels, const struct hist *h)
{
    double counts[HIST_BOUNDS + 1];
    for (size_t i = 0; i <= HIST_BOUNDS; i++)
        counts[i] = (double)h->n[i];
    hist_text(b, name, labels, bounds, counts, HIST_BOUNDS + 1, h->sum);
}
