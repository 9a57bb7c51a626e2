/* ref_elem.c -- element by element. */
#include <math.h>

#include "common/mem.h"
#include "kernels/cpu/ref.h"

double cpu_ref_activation(enum act act, double x)
{
    switch (act) {
    case ACT_RELU:
        return x > 0 || x != x ? x : 0;
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU_TANH:
        return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_GELU_ERF:
        return x / 2 * (1 + erf(x / sqrt(2)));
    case ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    default:
        return x;
    }
}

int cpu_ref_act(struct run *r, struct tensor x, enum act act)
{
    (void)r;
    int64_t n = tensor_dim(x, -1);
    for (int64_t i = 0; act != ACT_NONE && i < tensor_rows(x); i++) {
        float *p = ref_row(x, i);
        for (int64_t k = 0; k < n; k++)
            p[k] = (float)cpu_ref_activation(act, (double)p[k]);
    }
    return 0;
}

int cpu_ref_act_mul(struct run *r, struct tensor a, struct tensor b, enum act act)
{
    (void)r;
    int64_t n = tensor_dim(a, -1);
    for (int64_t i = 0; i < tensor_rows(a); i++) {
        float *p = ref_row(a, i);
        const float *q = ref_row(b, i);
        for (int64_t k = 0; k < n; k++)
            p[k] = (float)(cpu_ref_activation(act, (double)p[k]) * (double)q[k]);
    }
    return 0;
}

int cpu_ref_add(struct run *r, struct tensor x, struct tensor y)
{
    (void)r;
    int64_t n = tensor_dim(x, -1);
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        float *p = ref_row(x, i);
        const float *q = ref_row(y, i % tensor_rows(y));
        for (int64_t k = 0; k < n; k++)
            p[k] += q[k];
    }
    return 0;
}

int cpu_ref_add_gated(struct run *r, struct tensor x, struct tensor y, struct tensor gate)
{
    (void)r;
    int64_t n = tensor_dim(x, -1);
    const float *g = gate.data;
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        float *p = ref_row(x, i);
        const float *q = ref_row(y, i);
        for (int64_t k = 0; k < n; k++)
            p[k] += g[k] * q[k];
    }
    return 0;
}

int cpu_ref_add_masked(struct run *r, struct tensor x, struct tensor y, struct tensor mask)
{
    (void)r;
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        float *p = ref_row(x, i), m = ((const float *)mask.data)[i % x.shape[1]];
        const float *q = ref_row(y, i);
        for (int64_t k = 0; k < x.shape[2]; k++)
            p[k] += m * q[k];
    }
    return 0;
}

int cpu_ref_scale(struct run *r, struct tensor x, float mul, float add)
{
    (void)r;
    int64_t n = tensor_dim(x, -1);
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        float *p = ref_row(x, i);
        for (int64_t k = 0; k < n; k++)
            p[k] = mul * p[k] + add;
    }
    return 0;
}

int cpu_ref_fill(struct run *r, struct tensor x, float value)
{
    (void)r;
    int64_t n = tensor_dim(x, -1);
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        float *p = ref_row(x, i);
        for (int64_t k = 0; k < n; k++)
            p[k] = value;
    }
    return 0;
}

int cpu_ref_round(struct run *r, struct tensor x, enum dtype dtype)
{
    (void)r;
    int64_t n = tensor_dim(x, -1);
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        float *p = ref_row(x, i);
        for (int64_t k = 0; k < n; k++)
            p[k] = dtype == DTYPE_BF16 ? dtype_bf16_to_f32(dtype_bf16_from_f32(p[k]))
                                       : dtype_f16_to_f32(dtype_f16_from_f32(p[k]));
    }
    return 0;
}

/* The frequencies are f32 at every step, as in the original: with t near 1000 their rounding shows. */
int cpu_ref_timestep(struct run *r, struct tensor y, const float *t, int n, int dim)
{
    (void)r;
    int half = dim / 2;
    for (int k = 0; k < half; k++) {
        float f = (float)exp((double)((float)-log(10000) * (float)k / (float)half));
        for (int i = 0; i < n; i++) {
            float *p = ref_row(y, i), angle = t[i] * f;
            p[k] = (float)cos((double)angle);
            p[half + k] = (float)sin((double)angle);
        }
    }
    return 0;
}

int cpu_ref_mean_rows(struct run *r, struct tensor y, struct tensor x, struct tensor mask)
{
    (void)r;
    const float *m = mask.data;
    double count = 0;
    for (int64_t i = 0; i < x.shape[0]; i++)
        count += (double)m[i];
    for (int64_t c = 0; c < x.shape[1]; c++) {
        double sum = 0;
        for (int64_t i = 0; i < x.shape[0]; i++)
            sum += (double)m[i] * (double)ref_row(x, i)[c];
        ((float *)y.data)[c] = (float)(sum / count);
    }
    return 0;
}
