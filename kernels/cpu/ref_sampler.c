/* ref_sampler.c -- steps of the sampler and of the VAE's tiles. */
#include <math.h>

#include "kernels/cpu/ref.h"

int cpu_ref_euler(struct run *r, struct tensor x, struct tensor v0, struct tensor v1, float g, float dt)
{
    (void)r;
    int64_t n = tensor_dim(x, -1);
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        float *p = ref_row(x, i);
        const float *a = ref_row(v0, i), *b = tensor_is_none(v1) ? NULL : ref_row(v1, i);
        for (int64_t k = 0; k < n; k++) {
            float v = b ? a[k] + g * (b[k] - a[k]) : a[k];
            p[k] += dt * v;
        }
    }
    return 0;
}

int cpu_ref_gauss(struct run *r, struct tensor y, struct tensor mean, struct tensor logvar,
                  struct tensor noise, float scale)
{
    (void)r;
    for (int64_t i = 0; i < tensor_count(y); i++) {
        double m = (double)((const float *)mean.data)[ref_element(mean, i)];
        double l = (double)((const float *)logvar.data)[ref_element(logvar, i)];
        double n = (double)((const float *)noise.data)[ref_element(noise, i)];
        l = l < -30 ? -30 : l > 20 ? 20 : l;
        ((float *)y.data)[i] = (float)((double)scale * (m + exp(l / 2) * n));
    }
    return 0;
}

int cpu_ref_blend(struct run *r, struct tensor b, struct tensor a, int dim, int64_t n)
{
    (void)r;
    for (int64_t k = 0; k < n; k++) {
        struct tensor to = tensor_slice(b, dim, k, 1), from = tensor_slice(a, dim, a.shape[dim] - n + k, 1);
        float share = (float)((double)k / (double)n), rest = (float)(1 - (double)k / (double)n);
        for (int64_t i = 0; i < tensor_rows(to); i++) {
            float *p = ref_row(to, i);
            const float *q = ref_row(from, i);
            for (int64_t c = 0; c < tensor_dim(to, -1); c++)
                p[c] = q[c] * rest + p[c] * share;
        }
    }
    return 0;
}
