/* ops_move.c -- checks of the ops that move elements. */
#include "kernels/ops_check.h"

struct tensor op_copy(struct run *r, struct tensor x, enum dtype dtype)
{
    op_begin(r, "op_copy");
    if (!op_check_some(r, "x", x))
        return TENSOR_NONE;
    struct tensor y = run_new(r, dtype, x.n_dims, x.shape);
    op_count(r, 0, 2, x, y);
    OP_CALL(r, copy, y, x);
    return y;
}

void op_copy_into(struct run *r, struct tensor dst, struct tensor x)
{
    op_begin(r, "op_copy_into");
    if (!op_check_some(r, "dst", dst) || !op_check_some(r, "x", x) || !op_check_same(r, "dst", dst, "x", x))
        return;
    op_count(r, 0, 2, x, dst);
    OP_CALL(r, copy, dst, x);
}

/* Alike but for dim; f32. Adds up their sizes along dim. */
static bool check_list(struct run *r, const struct tensor *list, int n, int dim, int64_t *ret)
{
    if (n < 1) {
        run_fail(r, ERR_SHAPE, "the list is empty");
        return false;
    }
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        if (!op_check_f32_any(r, "an element of the list", list[i]) || !op_check_dim(r, list[i], dim))
            return false;
        struct tensor a = list[0];
        a.shape[dim] = list[i].shape[dim];
        if (!tensor_same_shape(a, list[i]))
            return op_misfit(r, "an element", list[i], "the first", list[0],
                             "only the joined dimension may differ");
        sum += list[i].shape[dim];
    }
    *ret = sum;
    return true;
}

struct tensor op_concat(struct run *r, const struct tensor *list, int n, int dim)
{
    op_begin(r, "op_concat");
    int64_t sum = 0, at = 0;
    if (!check_list(r, list, n, dim, &sum))
        return TENSOR_NONE;
    struct tensor y = list[0];
    y.shape[dim] = sum;
    y = run_new(r, DTYPE_F32, y.n_dims, y.shape);
    for (int i = 0; i < n && !tensor_is_none(y); i++) {
        struct tensor part = tensor_slice(y, dim, at, list[i].shape[dim]);
        at += list[i].shape[dim];
        op_begin(r, "op_concat");
        op_count(r, 0, 2, list[i], part);
        OP_CALL(r, copy, part, list[i]);
    }
    return y;
}

struct tensor op_gather(struct run *r, struct tensor x, int dim, struct tensor idx)
{
    op_begin(r, "op_gather");
    if (!op_check_some(r, "x", x) || !op_check_dim(r, x, dim) || !op_check_indices(r, "idx", idx, -1))
        return TENSOR_NONE;
    if (x.dtype != DTYPE_F32 && x.dtype != DTYPE_F64 && x.dtype != DTYPE_BF16 && x.dtype != DTYPE_F16) {
        op_misfit(r, "x", x, "idx", idx, "floats are wanted");
        return TENSOR_NONE;
    }
    int64_t shape[TENSOR_MAX_DIMS];
    for (int i = 0; i < x.n_dims; i++)
        shape[i] = i == dim ? idx.shape[0] : x.shape[i];
    struct tensor y = run_new(r, DTYPE_F32, x.n_dims, shape);
    op_count(r, 0, 3, y, y, idx);
    OP_CALL(r, gather, y, x, dim, idx);
    return y;
}

void op_scatter_add(struct run *r, struct tensor dst, int dim, struct tensor idx, struct tensor src)
{
    op_begin(r, "op_scatter_add");
    if (!op_check_f32(r, "dst", dst) || !op_check_f32(r, "src", src) || !op_check_dim(r, dst, dim) ||
        !op_check_dim(r, src, dim) || !op_check_indices(r, "idx", idx, src.shape[dim]))
        return;
    struct tensor want = dst;
    want.shape[dim] = src.shape[dim];
    if (!tensor_same_shape(want, src)) {
        op_misfit(r, "src", src, "dst", dst, "only the indexed dimension may differ");
        return;
    }
    op_count(r, (double)tensor_count(src), 4, src, src, src, idx);
    OP_CALL(r, scatter_add, dst, dim, idx, src);
}

struct tensor op_patchify(struct run *r, struct tensor x)
{
    op_begin(r, "op_patchify");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 4))
        return TENSOR_NONE;
    if (x.shape[2] % 2 || x.shape[3] % 2) {
        op_refuse(r, "x", x, "an even height and width are wanted");
        return TENSOR_NONE;
    }
    int64_t tokens = x.shape[1] * (x.shape[2] / 2) * (x.shape[3] / 2);
    struct tensor y = run_new(r, DTYPE_F32, 2, SHAPE(tokens, x.shape[0] * 4));
    op_count(r, 0, 2, x, y);
    OP_CALL(r, patchify, y, x);
    return y;
}

struct tensor op_unpatchify(struct run *r, struct tensor x, int64_t T, int64_t h, int64_t w)
{
    op_begin(r, "op_unpatchify");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 2))
        return TENSOR_NONE;
    if (T < 0 || h < 0 || w < 0 || h % 2 || w % 2 || x.shape[1] % 4 || x.shape[0] != T * (h / 2) * (w / 2)) {
        op_refuse(r, "x", x,
                  "a row for every 2 x 2 latents of every frame, and 4 numbers a channel, are wanted");
        return TENSOR_NONE;
    }
    struct tensor y = run_new(r, DTYPE_F32, 4, SHAPE(x.shape[1] / 4, T, h, w));
    op_count(r, 0, 2, x, y);
    OP_CALL(r, unpatchify, y, x);
    return y;
}
