/* tensor.h -- shape, strides, element type and a borrowed pointer. A small struct passed by value; nobody frees it.
 *
 * "None" (an optional argument left out) is the zeroed struct. While planning (see run.h) data is NULL and everything
 * else is real. Views never copy and never fail: a wrong view is a programming mistake and asserts; wrong *input*
 * shapes are refused by the ops. A view of none is none.
 */
#ifndef KERNELS_TENSOR_H
#define KERNELS_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

#define TENSOR_MAX_DIMS 6

struct tensor {
    void *data;         /* borrowed: arena, mapped file or device memory; NULL while planning */
    const float *scale; /* F8E4M3 weights only: value = scale[0] * element. Host memory, borrowed */
    enum dtype dtype;
    int n_dims;                      /* 1..6; 0 = none */
    int64_t shape[TENSOR_MAX_DIMS];  /* row-major order, slowest first */
    int64_t stride[TENSOR_MAX_DIMS]; /* in elements */
};

#define TENSOR_NONE ((struct tensor){0})
#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})

/* Contiguous tensor over data. */
struct tensor tensor_of(void *data, enum dtype dtype, int n_dims, const int64_t *shape);

bool tensor_is_none(struct tensor t);
bool tensor_is_contiguous(struct tensor t);
bool tensor_same_shape(struct tensor a, struct tensor b);
int64_t tensor_count(struct tensor t);     /* elements */
size_t tensor_bytes(struct tensor t);      /* elements * size, as if contiguous */
int64_t tensor_dim(struct tensor t, int i); /* i < 0 counts from the end; 1 when t has fewer dimensions */
/* Product of all dimensions but the last: the rows of a [..., C] tensor. */
int64_t tensor_rows(struct tensor t);

/* Other shape, same elements: merged and split dimensions must be contiguous among themselves. One shape[i] may be
 * -1. */
struct tensor tensor_view(struct tensor t, int n_dims, const int64_t *shape);
/* Elements [start, start + n) of dimension dim. */
struct tensor tensor_slice(struct tensor t, int dim, int64_t start, int64_t n);
/* Dimension dim taken at index i and dropped (a 1-d tensor becomes [1]). */
struct tensor tensor_at(struct tensor t, int dim, int64_t i);
/* Every step-th element of dimension dim from start on. */
struct tensor tensor_every(struct tensor t, int dim, int64_t start, int64_t step);
/* Dimensions reordered: result dimension i is t's perm[i]. */
struct tensor tensor_permute(struct tensor t, const int *perm);

/* "f32 [3, 64]" into dst; returns dst. */
const char *tensor_format(struct tensor t, char *dst, size_t size);

#endif
