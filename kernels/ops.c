#include "kernels/ops_check.h"

#include <stdarg.h>
#include <stdio.h>

void op_begin(struct run *r, const char *op)
{
    r->op = op;
    if (r->cancel && atomic_load_explicit(r->cancel, memory_order_relaxed))
        run_fail(r, ERR_CANCEL, "the job was cancelled");
}

void op_count(struct run *r, double flops, int n, ...)
{
    if (run_failed(r))
        return;
    va_list ap;
    va_start(ap, n);
    for (int i = 0; i < n; i++)
        r->bytes += (double)tensor_bytes(va_arg(ap, struct tensor));
    va_end(ap);
    r->flops += flops;
    r->n_ops++;
}

void op_end(struct run *r, int rc)
{
    if (rc < 0)
        run_fail(r, rc, "%s (device %s)", err_text(rc), r->device ? r->device->kind : "none");
    r->op = NULL;
}

/* The sentence is only worth making once. */
bool op_refuse(struct run *r, const char *what, struct tensor t, const char *why)
{
    char text[128];
    if (!run_failed(r))
        run_fail(r, ERR_SHAPE, "%s is %s: %s", what, tensor_format(t, text, sizeof text), why);
    return false;
}

bool op_misfit(struct run *r, const char *what_a, struct tensor a, const char *what_b, struct tensor b,
               const char *why)
{
    char ta[128], tb[128];
    if (!run_failed(r))
        run_fail(r, ERR_SHAPE, "%s %s does not fit %s %s: %s", what_a, tensor_format(a, ta, sizeof ta),
                 what_b, tensor_format(b, tb, sizeof tb), why);
    return false;
}

static bool is_float(struct tensor t)
{
    return t.dtype == DTYPE_F32 || t.dtype == DTYPE_BF16 || t.dtype == DTYPE_F16;
}

bool op_check_some(struct run *r, const char *what, struct tensor t)
{
    if (t.n_dims < 1 || t.n_dims > TENSOR_MAX_DIMS)
        return op_refuse(r, what, TENSOR_NONE, "a tensor is needed");
    return true;
}

bool op_check_f32_any(struct run *r, const char *what, struct tensor t)
{
    if (!op_check_some(r, what, t))
        return false;
    return t.dtype == DTYPE_F32 || op_refuse(r, what, t, "f32 is wanted");
}

bool op_check_f32(struct run *r, const char *what, struct tensor t)
{
    if (!op_check_f32_any(r, what, t))
        return false;
    int last = t.n_dims - 1;
    return t.shape[last] <= 1 || t.stride[last] == 1 ||
           op_refuse(r, what, t, "its last dimension must be contiguous");
}

bool op_check_dims(struct run *r, const char *what, struct tensor t, int n_dims)
{
    char why[48];
    if (t.n_dims == n_dims)
        return true;
    snprintf(why, sizeof why, "%d dimensions are wanted", n_dims);
    return op_refuse(r, what, t, why);
}

bool op_check_weight(struct run *r, const char *what, struct tensor t, bool fp8)
{
    if (!op_check_some(r, what, t))
        return false;
    if (!is_float(t) && !(fp8 && t.dtype == DTYPE_F8E4M3))
        return op_refuse(r, what, t,
                         fp8 ? "f32, bf16, f16 or f8_e4m3 is wanted" : "f32, bf16 or f16 is wanted");
    return tensor_is_contiguous(t) || op_refuse(r, what, t, "a weight must be contiguous");
}

bool op_check_vector(struct run *r, const char *what, struct tensor t, int64_t n, bool optional)
{
    char why[64];
    if (optional && tensor_is_none(t))
        return true;
    if (!op_check_weight(r, what, t, false))
        return false;
    if (tensor_count(t) == n)
        return true;
    snprintf(why, sizeof why, "%lld elements are wanted", (long long)n);
    return op_refuse(r, what, t, why);
}

bool op_check_f32_vector(struct run *r, const char *what, struct tensor t, int64_t n)
{
    return op_check_f32_any(r, what, t) && op_check_vector(r, what, t, n, false);
}

bool op_check_indices(struct run *r, const char *what, struct tensor t, int64_t n)
{
    char why[64];
    if (!op_check_some(r, what, t))
        return false;
    if (t.dtype != DTYPE_I32 || t.n_dims != 1 || !tensor_is_contiguous(t))
        return op_refuse(r, what, t, "contiguous i32 [n] is wanted");
    if (n < 0 || t.shape[0] == n)
        return true;
    snprintf(why, sizeof why, "%lld elements are wanted", (long long)n);
    return op_refuse(r, what, t, why);
}

bool op_check_same(struct run *r, const char *what_a, struct tensor a, const char *what_b, struct tensor b)
{
    return tensor_same_shape(a, b) || op_misfit(r, what_a, a, what_b, b, "the shapes must be equal");
}

bool op_check_dim(struct run *r, struct tensor t, int dim)
{
    char why[48];
    if (dim >= 0 && dim < t.n_dims)
        return true;
    snprintf(why, sizeof why, "there is no dimension %d", dim);
    return op_refuse(r, "the tensor", t, why);
}

bool op_check_act(struct run *r, enum act act)
{
    if ((unsigned)act < ACT_COUNT)
        return true;
    run_fail(r, ERR_SHAPE, "activation %d is not known", (int)act);
    return false;
}
