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
    double mean, inv;
};

/* Of channels [first, first + n) over all rows. */
static struct stats group_stats(struct tensor x, int64_t first, int64_t n, float eps)
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
    return (struct stats){mean, 1 / sqrt(var / count + (double)eps)};
}

int cpu_ref_group_norm(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                       int groups, float eps, enum act act)
{
    int64_t c = x.shape[3], n = c / groups;
    float *mul = parameter(r, w, c, 1), *add = parameter(r, b, c, 0);
    for (int64_t first = 0; mul && add && first < c; first += n) {
        struct stats s = group_stats(x, first, n, eps);
        for (int64_t i = 0; i < tensor_rows(x); i++) {
            const float *p = ref_row(x, i);
            float *q = ref_row(y, i);
            for (int64_t k = first; k < first + n; k++)
                q[k] = (float)(((double)p[k] - s.mean) * s.inv * (double)mul[k] + (double)add[k]);
        }
    }
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
