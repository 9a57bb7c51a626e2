/* ref.h -- the reference table's own helpers: rows of strided tensors, exact widening, sums in double.
 *
 * The reference is the specification in code: plain loops, f32 in memory, double inside a sum, one rounding
 * to f32 at its end. It is never made faster at the price of a longer read. An element-wise op walks rows:
 *
 *     int64_t n = tensor_dim(x, -1);
 *     for (int64_t i = 0; i < tensor_rows(x); i++) {
 *         float *p = ref_row(x, i);              row i, last dimension contiguous
 *         for (int64_t k = 0; k < n; k++) ...
 *     }
 */
#ifndef KERNELS_CPU_REF_H
#define KERNELS_CPU_REF_H

#include "kernels/table.h"

#define X(member, ...) int cpu_ref_##member(struct run *r, __VA_ARGS__);
OP_TABLE(X)
#undef X

/* Elements from t's start to row i, where rows are all dimensions but the last, in row-major order. */
static inline int64_t ref_offset(struct tensor t, int64_t row)
{
    int64_t at = 0;
    for (int d = t.n_dims - 2; d >= 0; d--) {
        at += row % t.shape[d] * t.stride[d];
        row /= t.shape[d];
    }
    return at;
}

static inline float *ref_row(struct tensor t, int64_t row)
{
    return (float *)t.data + ref_offset(t, row);
}

/* Address of element index[0..n_dims). */
static inline float *ref_at4(struct tensor t, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return (float *)t.data + a * t.stride[0] + b * t.stride[1] + c * t.stride[2] + d * t.stride[3];
}

/* Splits t into [before, dim, after]: before and after are counts, and the offsets of their elements follow.
 */
struct ref_split {
    struct tensor before,
        after; /* t without dim and what lies on its other side; n_dims 0 where nothing is left */
    int64_t n_before, n_after;
};

static inline struct ref_split ref_split(struct tensor t, int dim)
{
    struct ref_split s = {.before = t, .after = t, .n_before = 1, .n_after = 1};
    s.before.n_dims = dim;
    s.after.n_dims = t.n_dims - dim - 1;
    for (int i = 0; i < s.after.n_dims; i++) {
        s.after.shape[i] = t.shape[dim + 1 + i];
        s.after.stride[i] = t.stride[dim + 1 + i];
        s.n_after *= s.after.shape[i];
    }
    for (int i = 0; i < dim; i++)
        s.n_before *= t.shape[i];
    return s;
}

/* Elements from t's start to element i in row-major order; 0 for a tensor of no dimensions. */
static inline int64_t ref_element(struct tensor t, int64_t i)
{
    int64_t at = 0;
    for (int d = t.n_dims - 1; d >= 0; d--) {
        at += i % t.shape[d] * t.stride[d];
        i /= t.shape[d];
    }
    return at;
}

/* Sum of a[i] b[i]. Eight partial sums: the order is fixed, and short of nothing in double. */
static inline double ref_dot(const float *a, const float *b, int64_t n)
{
    double s[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (int k = 0; k < 8; k++)
            s[k] += (double)a[i + k] * (double)b[i + k];
    }
    double sum = 0;
    for (; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum + ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

/* f(x) in double. */
double cpu_ref_activation(enum act act, double x);

/* count elements of a contiguous weight, from element `first` on, widened (fp8: times its scale) into dst. */
void cpu_ref_widen(float *dst, struct tensor w, int64_t first, int64_t count);
/* The whole of a weight widened, from mem_alloc (mem_free), NULL when there is no memory or w is none. */
float *cpu_ref_widened(struct tensor w);

#endif
