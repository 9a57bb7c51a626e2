/* elem.c -- element by element: vector loops over pieces of rows. */
#include "kernels/cpu/isa_rows.h"
#include "kernels/cpu/ref_random.h"

/* Both as one row each, when both lie in one stretch. */
static void flatten(struct tensor *a, struct tensor *b)
{
    if (tensor_is_contiguous(*a) && tensor_is_contiguous(*b)) {
        *a = rows_flat(*a);
        *b = rows_flat(*b);
    }
}

int ISA_FN(act)(struct run *r, struct tensor x, enum act act)
{
    cpu_begin(r);
    x = rows_flat(x);
    struct rows c = rows_of(x);
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        isa_act_row(rows_at(x, p), p.n, act);
    }
    return 0;
}

int ISA_FN(act_mul)(struct run *r, struct tensor a, struct tensor b, enum act act)
{
    cpu_begin(r);
    flatten(&a, &b);
    struct rows c = rows_of(a);
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        float *d = rows_at(a, p);
        const float *s = rows_at(b, p);
        isa_act_row(d, p.n, act);
#pragma omp simd
        for (int64_t k = 0; k < p.n; k++)
            d[k] *= s[k];
    }
    return 0;
}

int ISA_FN(add)(struct run *r, struct tensor x, struct tensor y)
{
    cpu_begin(r);
    if (tensor_count(x) == tensor_count(y))
        flatten(&x, &y);
    struct rows c = rows_of(x);
    int64_t rows = tensor_rows(y);
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        float *d = rows_at(x, p);
        p.row %= rows;
        const float *s = rows_at(y, p);
#pragma omp simd
        for (int64_t k = 0; k < p.n; k++)
            d[k] += s[k];
    }
    return 0;
}

int ISA_FN(add_gated)(struct run *r, struct tensor x, struct tensor y, struct tensor gate)
{
    cpu_begin(r);
    struct rows c = rows_of(x);
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        float *d = rows_at(x, p);
        const float *s = rows_at(y, p), *g = (const float *)gate.data + p.first;
#pragma omp simd
        for (int64_t k = 0; k < p.n; k++)
            d[k] += g[k] * s[k];
    }
    return 0;
}

int ISA_FN(add_masked)(struct run *r, struct tensor x, struct tensor y, struct tensor mask)
{
    cpu_begin(r);
    struct rows c = rows_of(x);
    int64_t n_mask = x.shape[1];
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        float *d = rows_at(x, p), m = ((const float *)mask.data)[p.row % n_mask];
        const float *s = rows_at(y, p);
#pragma omp simd
        for (int64_t k = 0; k < p.n; k++)
            d[k] += m * s[k];
    }
    return 0;
}

int ISA_FN(scale)(struct run *r, struct tensor x, float mul, float add)
{
    cpu_begin(r);
    x = rows_flat(x);
    struct rows c = rows_of(x);
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        float *d = rows_at(x, p);
#pragma omp simd
        for (int64_t k = 0; k < p.n; k++)
            d[k] = mul * d[k] + add;
    }
    return 0;
}

int ISA_FN(fill)(struct run *r, struct tensor x, float value)
{
    cpu_begin(r);
    x = rows_flat(x);
    struct rows c = rows_of(x);
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        float *d = rows_at(x, p);
#pragma omp simd
        for (int64_t k = 0; k < p.n; k++)
            d[k] = value;
    }
    return 0;
}

int ISA_FN(euler)(struct run *r, struct tensor x, struct tensor v0, struct tensor v1, float g, float dt)
{
    cpu_begin(r);
    struct rows c = rows_of(x);
    bool guided = !tensor_is_none(v1);
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        float *d = rows_at(x, p);
        const float *a = rows_at(v0, p), *b = guided ? rows_at(v1, p) : a;
        float by = guided ? g : 0;
#pragma omp simd
        for (int64_t k = 0; k < p.n; k++)
            d[k] += dt * (a[k] + by * (b[k] - a[k]));
    }
    return 0;
}

int ISA_FN(normalize)(struct run *r, struct tensor y, struct tensor x, float div, const float *mean,
                      const float *std)
{
    cpu_begin(r);
    int64_t n_rows = tensor_rows(x), n = tensor_dim(x, -1);
#pragma omp parallel for if (n_rows * n >= ROWS_MANY)
    for (int64_t i = 0; i < n_rows; i++) {
        const uint8_t *p = (const uint8_t *)x.data + ref_offset(x, i);
        float *q = (float *)y.data + i * n;
        for (int64_t c = 0; c < n; c++)
            q[c] = ((float)p[c] / div - mean[c]) / std[c];
    }
    return 0;
}

int ISA_FN(to_u8)(struct run *r, struct tensor y, struct tensor x)
{
    cpu_begin(r);
    flatten(&x, &y);
    struct rows c = rows_of(x);
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        const float *s = rows_at(x, p);
        uint8_t *d = (uint8_t *)y.data + ref_offset(y, p.row) + p.first;
#pragma omp simd
        for (int64_t k = 0; k < p.n; k++) {
            float v = s[k] * 0.5f + 0.5f; /* halving is exact: the same with one rounding or two */
            v = v > 0 ? v : 0;            /* NaN gives 0 */
            d[k] = (uint8_t)(int32_t)(255.0f * (v < 1 ? v : 1));
        }
    }
    return 0;
}

/* Rows of x, scaled, added up in double, one thread: small. */
int ISA_FN(mean_rows)(struct run *r, struct tensor y, struct tensor x, struct tensor mask)
{
    int64_t n = x.shape[1];
    const float *m = mask.data;
    float *q = y.data;
    double count = 0, *sum = cpu_slot(r, CPU_STATS, (size_t)n * sizeof *sum);
    if (!sum)
        return r->err.code;
    for (int64_t c = 0; c < n; c++)
        sum[c] = 0;
    for (int64_t i = 0; i < x.shape[0]; i++) {
        const float *p = ref_row(x, i);
        double by = (double)m[i];
        count += by;
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            sum[c] += by * (double)p[c];
    }
    for (int64_t c = 0; c < n; c++)
        q[c] = (float)(sum[c] / count);
    return 0;
}

/* Blocks of four numbers are independent. */
int ISA_FN(randn)(struct run *r, struct tensor y, uint64_t seed, uint32_t stream)
{
    cpu_begin(r);
    int64_t n = tensor_count(y);
    float *p = y.data;
#pragma omp parallel for if (n > 4096)
    for (int64_t i = 0; i < (n + 3) / 4; i++) {
        float four[4];
        cpu_ref_normal4(seed, stream, (uint64_t)i, four);
        memcpy(p + 4 * i, four, (size_t)(n - 4 * i < 4 ? n - 4 * i : 4) * sizeof *p);
    }
    return 0;
}
