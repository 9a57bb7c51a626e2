/* ref_linear.c -- linear layers: one dot product an element. */
#include "common/mem.h"
#include "kernels/cpu/ref.h"

void cpu_ref_widen(float *dst, struct tensor w, int64_t first, int64_t count)
{
    const char *src = (const char *)w.data + first * (int64_t)dtype_bytes(w.dtype);
    dtype_read_f32(dst, src, w.dtype, count, w.dtype == DTYPE_F8E4M3 && w.scale ? w.scale[0] : 1);
}

float *cpu_ref_widened(struct tensor w)
{
    if (tensor_is_none(w))
        return NULL;
    float *p = mem_alloc((size_t)tensor_count(w) * sizeof *p);
    if (p)
        cpu_ref_widen(p, w, 0, tensor_count(w));
    return p;
}

/* Hands every element of x w^T + b to put, one row of w after the other so that it is widened once. */
typedef void put_fn(float *dst, float value, float extra);

static int product(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                   struct tensor extra, put_fn *put)
{
    int64_t n_out = w.shape[0], n_in = w.shape[1], n_rows = tensor_rows(x);
    float *row = mem_alloc((size_t)n_in * sizeof *row);
    if (!row)
        return run_fail(r, ERR_NOMEM, "no memory for a row of %lld weights", (long long)n_in);
    for (int64_t n = 0; n < n_out; n++) {
        float bias = 0, more = 1;
        cpu_ref_widen(row, w, n * n_in, n_in);
        if (!tensor_is_none(b))
            cpu_ref_widen(&bias, b, n, 1);
        if (!tensor_is_none(extra))
            cpu_ref_widen(&more, extra, n, 1);
        for (int64_t i = 0; i < n_rows; i++)
            put(ref_row(y, i) + n, (float)(ref_dot(ref_row(x, i), row, n_in) + (double)bias), more);
    }
    mem_free(row);
    return 0;
}

static void put_value(float *dst, float value, float extra)
{
    (void)extra;
    *dst = value;
}

static void put_gated(float *dst, float value, float gate)
{
    *dst += gate * value;
}

int cpu_ref_linear(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                   enum act act)
{
    int rc = product(r, y, x, w, b, TENSOR_NONE, put_value);
    return rc < 0 || act == ACT_NONE ? rc : cpu_ref_act(r, y, act);
}

int cpu_ref_linear_add(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b,
                       struct tensor gate)
{
    return product(r, x, h, w, b, gate, put_gated);
}
