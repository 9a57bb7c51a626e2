/* rope.c -- rotary positions. Angles are the reference's, number for number; each is made once. */
#include <math.h>

#include "kernels/cpu/isa_rows.h"

/* theta^(-2k/d), each step rounded to f32 as in ref_rope.c. */
static float frequency(float theta, int64_t k, int64_t d)
{
    float e = (float)(2 * k) / (float)d;
    return 1.0f / (float)pow((double)theta, (double)e);
}

/* cos and sin of axis `axis` for its n positions: [n][half]. */
static void axis_table(float *c, float *s, int64_t n, int64_t first, int d, float theta)
{
    for (int64_t i = 0; i < n; i++) {
        for (int k = 0; k < d / 2; k++) {
            float angle = (float)(i + first) * frequency(theta, k, d);
            *c++ = (float)cos((double)angle);
            *s++ = (float)sin((double)angle);
        }
    }
}

int ISA_FN(rope_table)(struct run *r, struct tensor cos_, struct tensor sin_, int64_t n_frames, int64_t h,
                       int64_t w, const int *dims, float theta, int64_t t_first)
{
    int64_t size[3] = {n_frames, h, w}, first[3] = {t_first, 0, 0}, total = 0, half = cos_.shape[1];
    float *table[3];
    for (int a = 0; a < 3; a++)
        total += size[a] * dims[a];
    float *p = cpu_slot(r, CPU_STATS, (size_t)total * sizeof *p);
    if (!p)
        return r->err.code;
    for (int a = 0; a < 3; a++) {
        int64_t n = size[a] * dims[a] / 2; /* cosines, then as many sines */
        table[a] = p;
        axis_table(p, p + n, size[a], first[a], dims[a], theta);
        p += 2 * n;
    }
    for (int64_t i = 0; i < n_frames * h * w; i++) {
        int64_t at[3] = {i / (h * w), i / w % h, i % w};
        float *c = (float *)cos_.data + i * half, *s = (float *)sin_.data + i * half;
        for (int a = 0; a < 3; a++) {
            int64_t n = dims[a] / 2;
            memcpy(c, table[a] + at[a] * n, (size_t)n * sizeof *c);
            memcpy(s, table[a] + (size[a] + at[a]) * n, (size_t)n * sizeof *s);
            c += n;
            s += n;
        }
    }
    return 0;
}

static void rms(float *p, const float *w, int64_t n, float eps)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; k++)
        sum += p[k] * p[k];
    float inv = 1 / sqrtf(sum / (float)n + eps);
#pragma omp simd
    for (int64_t k = 0; k < n; k++)
        p[k] = p[k] * inv * w[k];
}

int ISA_FN(norm_rope)(struct run *r, struct tensor x, struct tensor w, float eps, struct tensor cos_,
                      struct tensor sin_)
{
    cpu_begin(r);
    int64_t heads = x.shape[1], d = x.shape[2], n_turned = tensor_is_none(cos_) ? 0 : cos_.shape[0];
    const float *mul = tensor_is_none(w) ? NULL : cpu_vector(r, CPU_GATE, w, d, 1);
    if (run_failed(r))
        return r->err.code;
#pragma omp parallel for if (tensor_count(x) >= ROWS_MANY)
    for (int64_t i = 0; i < x.shape[0]; i++) {
        const float *c = i < n_turned ? ref_row(cos_, i) : NULL, *s = i < n_turned ? ref_row(sin_, i) : NULL;
        for (int64_t h = 0; h < heads; h++) {
            float *p = (float *)x.data + i * x.stride[0] + h * x.stride[1];
            if (mul)
                rms(p, mul, d, eps);
            if (!c)
                continue;
#pragma omp simd
            for (int64_t k = 0; k < d / 2; k++) {
                float a = p[2 * k], b = p[2 * k + 1];
                p[2 * k] = a * c[k] - b * s[k];
                p[2 * k + 1] = b * c[k] + a * s[k];
            }
        }
    }
    return 0;
}

int ISA_FN(rope_halves)(struct run *r, struct tensor x, struct tensor pos, float theta)
{
    cpu_begin(r);
    int64_t heads = x.shape[1], half = x.shape[2] / 2, n = x.shape[0];
    float *tables = cpu_slot(r, CPU_STATS, (size_t)(half + n * 2 * half) * sizeof *tables), *f = tables;
    if (!tables)
        return r->err.code;
    for (int64_t k = 0; k < half; k++)
        f[k] = frequency(theta, k, 2 * half);
#pragma omp parallel for if (n * half >= 1024)
    for (int64_t i = 0; i < n; i++) {
        float *c = tables + half + i * 2 * half, *s = c + half, at = (float)((const int32_t *)pos.data)[i];
        for (int64_t k = 0; k < half; k++) {
            double angle = (double)(at * f[k]);
            c[k] = (float)cos(angle);
            s[k] = (float)sin(angle);
        }
        for (int64_t h = 0; h < heads; h++) {
            float *p = (float *)x.data + i * x.stride[0] + h * x.stride[1], *q = p + half;
#pragma omp simd
            for (int64_t k = 0; k < half; k++) {
                float a = p[k], b = q[k];
                p[k] = a * c[k] - b * s[k];
                q[k] = b * c[k] + a * s[k];
            }
        }
    }
    return 0;
}
