/* ref_rope.c -- rotary positions. Angles are made in f32, as the networks were trained with. */
#include <math.h>

#include "common/mem.h"
#include "kernels/cpu/ref.h"

/* theta^(-2k/d) in the steps the original takes: each rounded to f32. */
static float frequency(float theta, int64_t k, int64_t d)
{
    float e = (float)(2 * k) / (float)d;
    return 1.0f / (float)pow((double)theta, (double)e);
}

int cpu_ref_rope_table(struct run *r, struct tensor cos_, struct tensor sin_, int64_t n_frames, int64_t h,
                       int64_t w, const int *dims, float theta, int64_t t_first)
{
    (void)r;
    for (int64_t i = 0; i < n_frames * h * w; i++) {
        float pos[3] = {(float)(i / (h * w) + t_first), (float)(i / w % h), (float)(i % w)};
        float *c = ref_row(cos_, i), *s = ref_row(sin_, i);
        for (int axis = 0; axis < 3; axis++) {
            for (int k = 0; k < dims[axis] / 2; k++) {
                float angle = pos[axis] * frequency(theta, k, dims[axis]);
                *c++ = (float)cos((double)angle);
                *s++ = (float)sin((double)angle);
            }
        }
    }
    return 0;
}

/* In place: x / sqrt(mean x^2 + eps) * w. */
static void rms(float *x, const float *w, int64_t n, float eps)
{
    double inv = 1 / sqrt(ref_dot(x, x, n) / (double)n + (double)eps);
    for (int64_t k = 0; k < n; k++)
        x[k] = (float)((double)x[k] * inv * (double)w[k]);
}

int cpu_ref_norm_rope(struct run *r, struct tensor x, struct tensor w, float eps, struct tensor cos_,
                      struct tensor sin_)
{
    int64_t d = x.shape[2], n_turned = tensor_is_none(cos_) ? 0 : cos_.shape[0];
    float *mul = cpu_ref_widened(w);
    if (!mul && !tensor_is_none(w))
        return run_fail(r, ERR_NOMEM, "no memory for %lld weights", (long long)d);
    for (int64_t i = 0; i < x.shape[0] * x.shape[1]; i++) {
        float *p = ref_row(x, i);
        if (mul)
            rms(p, mul, d, eps);
        int64_t s = i / x.shape[1];
        if (s >= n_turned)
            continue;
        const float *c = ref_row(cos_, s), *sn = ref_row(sin_, s);
        for (int64_t k = 0; k < d / 2; k++) {
            double a = (double)p[2 * k], b = (double)p[2 * k + 1];
            p[2 * k] = (float)(a * (double)c[k] - b * (double)sn[k]);
            p[2 * k + 1] = (float)(b * (double)c[k] + a * (double)sn[k]);
        }
    }
    mem_free(mul);
    return 0;
}

int cpu_ref_rope_halves(struct run *r, struct tensor x, struct tensor pos, float theta)
{
    (void)r;
    int64_t d = x.shape[2];
    for (int64_t i = 0; i < x.shape[0] * x.shape[1]; i++) {
        float *p = ref_row(x, i), at = (float)((const int32_t *)pos.data)[i / x.shape[1]];
        for (int64_t k = 0; k < d / 2; k++) {
            float angle = at * frequency(theta, k, d);
            double a = (double)p[k], b = (double)p[k + d / 2], c = cos((double)angle), s = sin((double)angle);
            p[k] = (float)(a * c - b * s);
            p[k + d / 2] = (float)(b * c + a * s);
        }
    }
    return 0;
}
