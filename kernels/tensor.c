#include "kernels/tensor.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

static void set_strides(struct tensor *t)
{
    int64_t n = 1;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        t->stride[i] = n;
        n *= t->shape[i];
    }
}

struct tensor tensor_of(void *data, enum dtype dtype, int n_dims, const int64_t *shape)
{
    assert(n_dims >= 1 && n_dims <= TENSOR_MAX_DIMS);
    struct tensor t = {.data = data, .dtype = dtype, .n_dims = n_dims};
    for (int i = 0; i < n_dims; i++) {
        assert(shape[i] >= 0);
        t.shape[i] = shape[i];
    }
    set_strides(&t);
    return t;
}

bool tensor_is_none(struct tensor t)
{
    return t.n_dims == 0;
}

bool tensor_is_contiguous(struct tensor t)
{
    int64_t n = 1;
    for (int i = t.n_dims - 1; i >= 0; i--) {
        if (t.shape[i] == 0)
            return true;
        if (t.shape[i] != 1 && t.stride[i] != n)
            return false;
        n *= t.shape[i];
    }
    return true;
}

bool tensor_same_shape(struct tensor a, struct tensor b)
{
    if (a.n_dims != b.n_dims)
        return false;
    for (int i = 0; i < a.n_dims; i++) {
        if (a.shape[i] != b.shape[i])
            return false;
    }
    return true;
}

int64_t tensor_count(struct tensor t)
{
    int64_t n = t.n_dims > 0;
    for (int i = 0; i < t.n_dims; i++)
        n *= t.shape[i];
    return n;
}

size_t tensor_bytes(struct tensor t)
{
    return (size_t)tensor_count(t) * dtype_bytes(t.dtype);
}

int64_t tensor_dim(struct tensor t, int i)
{
    if (i < 0)
        i += t.n_dims;
    return i >= 0 && i < t.n_dims ? t.shape[i] : 1;
}

int64_t tensor_rows(struct tensor t)
{
    int64_t n = t.n_dims > 0;
    for (int i = 0; i < t.n_dims - 1; i++)
        n *= t.shape[i];
    return n;
}

/* A moved start; planning tensors have none to move. */
static void *advance(struct tensor t, int64_t elements)
{
    return t.data ? (char *)t.data + elements * (int64_t)dtype_bytes(t.dtype) : NULL;
}

/* Fills in the one -1 and checks that the elements are the same. */
static void resolve(struct tensor *y, int n_dims, const int64_t *shape, int64_t count)
{
    int64_t known = 1;
    int open = -1;
    for (int i = 0; i < n_dims; i++) {
        y->shape[i] = shape[i];
        if (shape[i] < 0) {
            assert(open < 0);
            open = i;
        } else {
            known *= shape[i];
        }
    }
    if (open >= 0) {
        assert(known > 0 && count % known == 0);
        y->shape[open] = count / known;
        known *= y->shape[open];
    }
    assert(known == count);
    (void)known;
}

/* Dimensions of length 1 have no say in how the others lie. */
static struct tensor squeezed(struct tensor t)
{
    struct tensor s = t;
    s.n_dims = 0;
    for (int i = 0; i < t.n_dims; i++) {
        if (t.shape[i] != 1) {
            s.shape[s.n_dims] = t.shape[i];
            s.stride[s.n_dims++] = t.stride[i];
        }
    }
    return s;
}

struct tensor tensor_view(struct tensor t, int n_dims, const int64_t *shape)
{
    if (tensor_is_none(t))
        return t;
    assert(n_dims >= 1 && n_dims <= TENSOR_MAX_DIMS);
    struct tensor y = {.data = t.data, .scale = t.scale, .dtype = t.dtype, .n_dims = n_dims};
    resolve(&y, n_dims, shape, tensor_count(t));
    set_strides(&y);
    if (tensor_is_contiguous(t))
        return y;

    /* Walk both shapes in groups that hold the same number of elements; a group of old dimensions must lie in
     * one stretch, and then the new ones share it. */
    struct tensor s = squeezed(t);
    int ni = 0;
    for (int oi = 0; oi < s.n_dims;) {
        int oj = oi + 1, nj = ni + 1;
        int64_t on = s.shape[oi], nn = y.shape[ni];
        while (on != nn) {
            if (nn < on)
                nn *= y.shape[nj++];
            else
                on *= s.shape[oj++];
        }
        for (int k = oi; k < oj - 1; k++)
            assert(s.stride[k] == s.stride[k + 1] * s.shape[k + 1]);
        int64_t stride = s.stride[oj - 1];
        for (int k = nj - 1; k >= ni; k--) {
            y.stride[k] = stride;
            stride *= y.shape[k];
        }
        oi = oj;
        ni = nj;
    }
    return y;
}

struct tensor tensor_slice(struct tensor t, int dim, int64_t start, int64_t n)
{
    if (tensor_is_none(t))
        return t;
    assert(dim >= 0 && dim < t.n_dims && start >= 0 && n >= 0 && start + n <= t.shape[dim]);
    t.data = advance(t, start * t.stride[dim]);
    t.shape[dim] = n;
    return t;
}

struct tensor tensor_at(struct tensor t, int dim, int64_t i)
{
    if (tensor_is_none(t))
        return t;
    t = tensor_slice(t, dim, i, 1);
    if (t.n_dims == 1)
        return t;
    for (int k = dim; k < t.n_dims - 1; k++) {
        t.shape[k] = t.shape[k + 1];
        t.stride[k] = t.stride[k + 1];
    }
    t.n_dims--;
    t.shape[t.n_dims] = t.stride[t.n_dims] = 0;
    return t;
}

struct tensor tensor_every(struct tensor t, int dim, int64_t start, int64_t step)
{
    if (tensor_is_none(t))
        return t;
    assert(dim >= 0 && dim < t.n_dims && start >= 0 && step >= 1 && start <= t.shape[dim]);
    t.data = advance(t, start * t.stride[dim]);
    t.shape[dim] = (t.shape[dim] - start + step - 1) / step;
    t.stride[dim] *= step;
    return t;
}

struct tensor tensor_permute(struct tensor t, const int *perm)
{
    struct tensor y = t;
    unsigned seen = 0;
    for (int i = 0; i < t.n_dims; i++) {
        assert(perm[i] >= 0 && perm[i] < t.n_dims && !(seen >> perm[i] & 1));
        seen |= 1u << perm[i];
        y.shape[i] = t.shape[perm[i]];
        y.stride[i] = t.stride[perm[i]];
    }
    return y;
}

const char *tensor_format(struct tensor t, char *dst, size_t size)
{
    if (size == 0)
        return dst;
    if (tensor_is_none(t)) {
        snprintf(dst, size, "none");
        return dst;
    }
    snprintf(dst, size, "%s [", dtype_name(t.dtype));
    for (char *p = dst; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    for (int i = 0; i < t.n_dims; i++) {
        size_t at = strlen(dst);
        snprintf(dst + at, size - at, "%s%lld%s", i ? ", " : "", (long long)t.shape[i],
                 i + 1 == t.n_dims ? "]" : "");
    }
    return dst;
}
