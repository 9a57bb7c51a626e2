/* ref_norm.c -- norms: statistics in double, in two passes. */
#include <math.h>

#include "common/mem.h"
#include "kernels/cpu/ref.h"

/* An optional [C] parameter, widened, or `otherwise` for all. */
static float *parameter(struct run *r, struct tensor w, int64_t n, float otherwise)
{
    float *p = mem_alloc((size_t)n * sizeof *p);
    if (!p) {
        run_fail(r, ERR_NOMEM, "no memory for %lld parameters", (long long)n);
        return NULL;
    }
    if (!tensor_is_none(w))
        cpu_ref_widen(p, w, 0, n);
    for (int64_t i = 0; i < n && tensor_is_none(w); i++)
        p[i] = otherwise;
    return p;
}

/* y = (x - mean) / sqrt(var + eps) * (w + plus) + b for every row. */
static int normalised(struct run *r, struct tensor y, struct tensor x, struct tensor w, double plus,
                      struct tensor b, float eps)
{
    int64_t n = tensor_dim(x, -1);
    float *mul = parameter(r, w, n, 1), *add = parameter(r, b, n, 0);
    for (int64_t i = 0; mul && add && i < tensor_rows(x); i++) {
        const float *p = ref_row(x, i);
        float *q = ref_row(y, i);
        double mean = 0, var = 0;
        for (int64_t k = 0; k < n; k++)
            mean += (double)p[k];
        mean /= (double)n;
        for (int64_t k = 0; k < n; k++)
            var += ((double)p[k] - mean) * ((double)p[k] - mean);
        double inv = 1 / sqrt(var / (double)n + (double)eps);
        for (int64_t k = 0; k < n; k++)
            q[k] = (float)(((double)p[k] - mean) * inv * (plus + (double)mul[k]) + (double)add[k]);
    }
    mem_free(mul);
    mem_free(add);
    return r->err.code;
}

int cpu_ref_layer_norm(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                       float eps)
{
    return normalised(r, y, x, w, 0, b, eps);
}

int cpu_ref_layer_norm_mod(struct run *r, struct tensor y, struct tensor x, struct tensor shift,
                           struct tensor scale, float eps)
{
    return normalised(r, y, x, scale, 1, shift, eps);
}

int cpu_ref_rms_norm(struct run *r, struct tensor y, struct tensor x, struct tensor w, float eps)
{
    int64_t n = tensor_dim(x, -1);
    float *mul = parameter(r, w, n, 1);
    for (int64_t i = 0; mul && i < tensor_rows(x); i++) {
        const float *p = ref_row(x, i);
        float *q = ref_row(y, i);
        double inv = 1 / sqrt(ref_dot(p, p, n) / (double)n + (double)eps);
        for (int64_t k = 0; k < n; k++)
            q[k] = (float)((double)p[k] * inv * (double)mul[k]);
    }
    mem_free(mul);
    return r->err.code;
}

struct stats {
    double mean, var;
};

/* Of channels [first, first + n) over all rows; var is the variance. */
static struct stats group_stats(struct tensor x, int64_t first, int64_t n)
{
    int64_t n_rows = tensor_rows(x);
    double mean = 0, var = 0, count = (double)n_rows * (double)n;
    for (int64_t i = 0; i < n_rows; i++) {
        const float *p = ref_row(x, i) + first;
        for (int64_t k = 0; k < n; k++)
            mean += (double)p[k];
    }
    mean /= count;
    for (int64_t i = 0; i < n_rows; i++) {
        const float *p = ref_row(x, i) + first;
        for (int64_t k = 0; k < n; k++)
            var += ((double)p[k] - mean) * ((double)p[k] - mean);
    }
    return (struct stats){mean, var / count};
}

static void group_apply(struct tensor y, struct tensor x, int64_t first, int64_t n, struct stats s, float eps,
                        const float *mul, const float *add)
{
    double inv = 1 / sqrt(s.var + (double)eps);
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        const float *p = ref_row(x, i);
        float *q = ref_row(y, i);
        for (int64_t k = first; k < first + n; k++)
            q[k] = (float)(((double)p[k] - s.mean) * inv * (double)mul[k] + (double)add[k]);
    }
}

int cpu_ref_group_norm(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                       int groups, float eps, enum act act)
{
    int64_t c = x.shape[3], n = c / groups;
    float *mul = parameter(r, w, c, 1), *add = parameter(r, b, c, 0);
    for (int64_t first = 0; mul && add && first < c; first += n)
        group_apply(y, x, first, n, group_stats(x, first, n), eps, mul, add);
    mem_free(mul);
    mem_free(add);
    return run_failed(r) ? r->err.code : cpu_ref_act(r, y, act);
}

int cpu_ref_group_stats(struct run *r, struct tensor y, struct tensor x, int groups)
{
    (void)r;
    int64_t n = x.shape[3] / groups;
    for (int64_t g = 0; g < groups; g++) {
        struct stats s = group_stats(x, g * n, n);
        float *q = ref_row(y, g);
        q[0] = (float)tensor_rows(x);
        q[1] = (float)s.mean;
        q[2] = (float)s.var;
    }
    return 0;
}

/* Group g of n pieces, as of one tensor: the variance is that within them and that of their means. */
static struct stats joined(struct tensor stats, int64_t g)
{
    int64_t groups = tensor_dim(stats, -2), n = tensor_rows(stats) / groups;
    double count = 0, mean = 0, var = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *p = ref_row(stats, i * groups + g);
        count += (double)p[0];
        mean += (double)p[0] * (double)p[1];
    }
    mean /= count;
    for (int64_t i = 0; i < n; i++) {
        const float *p = ref_row(stats, i * groups + g);
        var += (double)p[0] * ((double)p[2] + ((double)p[1] - mean) * ((double)p[1] - mean));
    }
    return (struct stats){mean, var / count};
}

int cpu_ref_group_apply(struct run *r, struct tensor y, struct tensor x, struct tensor stats, struct tensor w,
                        struct tensor b, float eps, enum act act)
{
    int64_t c = x.shape[3], n = c / tensor_dim(stats, -2);
    float *mul = parameter(r, w, c, 1), *add = parameter(r, b, c, 0);
    for (int64_t first = 0; mul && add && first < c; first += n)
        group_apply(y, x, first, n, joined(stats, first / n), eps, mul, add);
    mem_free(mul);
    mem_free(add);
    return run_failed(r) ? r->err.code : cpu_ref_act(r, y, act);
}

int cpu_ref_batch_norm(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                       struct tensor mean, struct tensor var, float eps, enum act act)
{
    int64_t n = tensor_dim(x, -1);
    float *mul = parameter(r, w, n, 1), *add = parameter(r, b, n, 0);
    float *m = parameter(r, mean, n, 0), *v = parameter(r, var, n, 1);
    for (int64_t i = 0; mul && add && m && v && i < tensor_rows(x); i++) {
        const float *p = ref_row(x, i);
        float *q = ref_row(y, i);
        for (int64_t k = 0; k < n; k++) {
            double z = ((double)p[k] - (double)m[k]) / sqrt((double)v[k] + (double)eps);
            q[k] = (float)(z * (double)mul[k] + (double)add[k]);
        }
    }
    mem_free(mul);
    mem_free(add);
    mem_free(m);
    mem_free(v);
    return run_failed(r) ? r->err.code : cpu_ref_act(r, y, act);
}
