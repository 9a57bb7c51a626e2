/* view.cu -- tensors as kernels see them: neighbouring dimensions without a gap are made one, so that most have one left. */
#include "kernels/cuda/cuda.h"

/* Dimensions [0, n) of t, merged, into shape and stride; returns how many are left. */
static int merge(const struct tensor *t, int n, int64_t *shape, int64_t *stride)
{
    int left = 0;
    for (int d = 0; d < n; d++) {
        if (t->shape[d] == 1)
            continue;
        if (left > 0 && stride[left - 1] == t->shape[d] * t->stride[d]) {
            shape[left - 1] *= t->shape[d];
            stride[left - 1] = t->stride[d];
            continue;
        }
        shape[left] = t->shape[d];
        stride[left++] = t->stride[d];
    }
    return left;
}

struct cuda_view cuda_view_of(struct tensor t)
{
    struct cuda_view v = {};
    v.data = (char *)t.data;
    v.dtype = t.dtype;
    v.scale = t.dtype == DTYPE_F8E4M3 && t.scale ? t.scale[0] : 1;
    v.n_dims = merge(&t, t.n_dims, v.shape, v.stride);
    if (v.n_dims == 0) { /* one element */
        v.n_dims = 1;
        v.shape[0] = v.stride[0] = 1;
    }
    return v;
}

struct cuda_rows cuda_rows_of(struct tensor t)
{
    struct cuda_rows v = {};
    if (t.n_dims == 0)
        return v;
    v.data = (char *)t.data;
    v.dtype = t.dtype;
    v.n = t.shape[t.n_dims - 1];
    v.step = t.stride[t.n_dims - 1];
    v.n_rows = tensor_rows(t);
    v.n_dims = merge(&t, t.n_dims - 1, v.shape, v.stride);
    return v;
}

struct cuda_split cuda_split_of(struct tensor t, int dim)
{
    struct cuda_split v = {};
    struct tensor after = t;
    v.data = (char *)t.data;
    v.dtype = t.dtype;
    v.n = t.shape[dim];
    v.stride = t.stride[dim];
    v.n_before = v.n_after = 1;
    for (int d = 0; d < dim; d++)
        v.n_before *= t.shape[d];
    for (int d = dim + 1; d < t.n_dims; d++) {
        after.shape[d - dim - 1] = t.shape[d];
        after.stride[d - dim - 1] = t.stride[d];
        v.n_after *= t.shape[d];
    }
    v.n_dims_before = merge(&t, dim, v.before_shape, v.before_stride);
    v.n_dims_after = merge(&after, t.n_dims - dim - 1, v.after_shape, v.after_stride);
    return v;
}

struct cuda_view4 cuda_view4_of(struct tensor t)
{
    struct cuda_view4 v = {};
    v.data = (float *)t.data;
    for (int d = 0; d < 4; d++) {
        v.shape[d] = t.shape[d];
        v.stride[d] = t.stride[d];
    }
    return v;
}

int cuda_view4_fours(const struct cuda_view4 *v)
{
    int64_t odd = v->stride[0] | v->stride[1] | v->stride[2] | v->shape[3];
    return ((uintptr_t)v->data & 15) == 0 && (odd & 3) == 0 && v->stride[3] == 1;
}
