#include "worker/bench/bench_time.h"

#include <stdlib.h>

#include "common/clock.h"
#include "kernels/ops.h"

enum { SAMPLES_MAX = 64, CALLS_MAX = 1000 };
#define SAMPLE_SECONDS 0.005 /* a wait costs some 10 us: a five hundredth of it */

double bench_time_now(void)
{
    return (double)clock_us() / (double)CLOCK_S;
}

int bench_time_wait(struct run *r)
{
    float one;
    size_t mark = run_mark(r);
    struct tensor t = run_new(r, DTYPE_F32, 1, SHAPE(1));
    op_fill(r, t, 0);
    int rc = run_read(r, t, &one);
    run_rewind(r, mark);
    return rc;
}

/* Seconds of n calls; notes what one counts. */
static double sample(struct run *r, const struct bench_work *w, int n, struct bench_time *count)
{
    size_t mark = run_mark(r);
    if (w->refresh)
        w->refresh(r, w->arg);
    bench_time_wait(r);
    double flops = r->flops, bytes = r->bytes, start = bench_time_now();
    for (int i = 0; i < n && !run_failed(r); i++) {
        w->call(r, w->arg);
        run_rewind(r, mark);
    }
    count->flops = (r->flops - flops) / n;
    count->bytes = (r->bytes - bytes) / n;
    bench_time_wait(r);
    return bench_time_now() - start;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* sorted[0..n), between two of them where p asks for it. */
static double quantile(const double *sorted, int n, double p)
{
    double at = p * (n - 1);
    int i = (int)at;
    return i + 1 < n ? sorted[i] + (at - i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

int bench_time_calls(struct run *r, const struct bench_work *w, const struct bench_limits *l, struct bench_time *ret)
{
    double s[SAMPLES_MAX], begin = bench_time_now();
    int n = 0, calls = 1, most = l->samples < SAMPLES_MAX ? l->samples : SAMPLES_MAX;
    *ret = (struct bench_time){0};
    sample(r, w, 1, ret);
    double once = sample(r, w, 1, ret);
    if (!w->refresh && once < SAMPLE_SECONDS)
        calls = once * CALLS_MAX > SAMPLE_SECONDS ? (int)(SAMPLE_SECONDS / once) + 1 : CALLS_MAX;
    if (calls == 1)
        s[n++] = once;
    while (!run_failed(r) && n < most && (n < 3 || bench_time_now() - begin < l->seconds)) {
        if (n > 0 && n < 3 && bench_time_now() - begin + s[0] * calls > 4 * l->seconds)
            break;
        s[n++] = sample(r, w, calls, ret) / calls;
    }
    if (run_failed(r))
        return r->err.code;
    qsort(s, (size_t)n, sizeof *s, by_size);
    ret->samples = n;
    ret->seconds = quantile(s, n, 0.5);
    ret->spread = (quantile(s, n, 0.75) - quantile(s, n, 0.25)) / 2 / ret->seconds;
    return 0;
}
