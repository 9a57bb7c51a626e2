/* ops_attention.c -- checks of attention and positions. */
#include "kernels/ops_check.h"

#define HEAD_MAX 1024

static bool check_mask(struct run *r, struct tensor q, struct tensor k, struct tensor mask)
{
    int64_t sq = q.shape[1], sk = k.shape[1];
    bool fits = mask.dtype == DTYPE_U8 || mask.dtype == DTYPE_BOOL;
    fits = fits && mask.n_dims == 2 && mask.shape[0] == sq && mask.shape[1] == sk;
    fits = fits && (sk <= 1 || mask.stride[1] == 1);
    return fits || op_misfit(r, "mask", mask, "q", q, "u8 [queries, keys] is wanted");
}

static bool check_kind(struct run *r, struct tensor q, struct tensor k, const struct attn *a)
{
    int64_t sq = q.shape[1], sk = k.shape[1];
    switch (a->kind) {
    case ATTN_FULL:
        return sk > 0 || op_misfit(r, "q", q, "k", k, "there is no key to see");
    case ATTN_CAUSAL:
        return sk >= sq ||
               op_misfit(r, "q", q, "k", k, "causal attention needs as many keys as queries");
    case ATTN_BLOCK_CAUSAL:
        return (sk == sq && a->block > 0) ||
               op_misfit(r, "q", q, "k", k, "block-causal attention needs a block, and a key a query");
    case ATTN_MASK:
        return check_mask(r, q, k, a->mask);
    }
    run_fail(r, ERR_SHAPE, "attention kind %d is not known", (int)a->kind);
    return false;
}

static bool check_heads(struct run *r, struct tensor q, struct tensor k, struct tensor v)
{
    if (!op_check_f32(r, "q", q) || !op_check_f32(r, "k", k) || !op_check_f32(r, "v", v))
        return false;
    if (!op_check_dims(r, "q", q, 4) || !op_check_dims(r, "k", k, 4) || !op_check_same(r, "k", k, "v", v))
        return false;
    bool fits = q.shape[0] == k.shape[0] && q.shape[3] == k.shape[3];
    if (!fits || k.shape[2] < 1 || q.shape[2] % k.shape[2] != 0)
        return op_misfit(r, "q", q, "k", k,
                         "batch and head width must be equal, query heads a multiple of key heads");
    if (q.shape[3] < 1 || q.shape[3] > HEAD_MAX)
        return op_misfit(r, "q", q, "k", k, "heads may be 1 to 1024 wide");
    return true;
}

struct tensor op_attention(struct run *r, struct tensor q, struct tensor k, struct tensor v, struct attn a)
{
    op_begin(r, "op_attention");
    if (!check_heads(r, q, k, v) || !check_kind(r, q, k, &a))
        return TENSOR_NONE;
    struct tensor y = run_new(r, DTYPE_F32, 4, q.shape);
    double part = a.kind == ATTN_CAUSAL || a.kind == ATTN_BLOCK_CAUSAL ? 0.5 : 1;
    op_count(r, part * 4.0 * (double)tensor_count(q) * (double)k.shape[1], 5, q, k, v, a.mask, y);
    OP_CALL(r, attention, y, q, k, v, a);
    return y;
}

void op_rope_table(struct run *r, int64_t n_frames, int64_t h, int64_t w, const int dims[3], float theta,
                   int64_t t_first, struct tensor *ret_cos, struct tensor *ret_sin)
{
    op_begin(r, "op_rope_table");
    *ret_cos = *ret_sin = TENSOR_NONE;
    int half = 0;
    for (int i = 0; i < 3; i++) {
        if (dims[i] < 0 || dims[i] > HEAD_MAX || dims[i] % 2) {
            run_fail(r, ERR_SHAPE, "axis %d is %d wide: even numbers up to %d are wanted", i, dims[i],
                     HEAD_MAX);
            return;
        }
        half += dims[i] / 2;
    }
    if (n_frames < 0 || h < 0 || w < 0 || half == 0) {
        run_fail(r, ERR_SHAPE, "a table of %lld x %lld x %lld positions and %d pairs cannot be made",
                 (long long)n_frames, (long long)h, (long long)w, half);
        return;
    }
    *ret_cos = run_new(r, DTYPE_F32, 2, SHAPE(n_frames * h * w, half));
    *ret_sin = run_new(r, DTYPE_F32, 2, SHAPE(n_frames * h * w, half));
    op_count(r, 0, 2, *ret_cos, *ret_sin);
    OP_CALL(r, rope_table, *ret_cos, *ret_sin, n_frames, h, w, dims, theta, t_first);
}

void op_norm_rope(struct run *r, struct tensor x, struct tensor w, float eps, struct tensor cos,
                  struct tensor sin)
{
    op_begin(r, "op_norm_rope");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 3) ||
        !op_check_vector(r, "w", w, x.shape[2], true))
        return;
    if (!tensor_is_none(cos)) {
        if (!op_check_f32(r, "cos", cos) || !op_check_f32(r, "sin", sin) ||
            !op_check_dims(r, "cos", cos, 2) || !op_check_same(r, "cos", cos, "sin", sin))
            return;
        if (cos.shape[0] > x.shape[0] || 2 * cos.shape[1] != x.shape[2]) {
            op_misfit(r, "cos", cos, "x", x, "no more rows than x and half a head's width are wanted");
            return;
        }
    }
    op_count(r, 10.0 * (double)tensor_count(x), 5, x, x, w, cos, sin);
    OP_CALL(r, norm_rope, x, w, eps, cos, sin);
}

void op_rope_halves(struct run *r, struct tensor x, struct tensor pos, float theta)
{
    op_begin(r, "op_rope_halves");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 3) ||
        !op_check_indices(r, "pos", pos, x.shape[0]))
        return;
    if (x.shape[2] % 2) {
        op_misfit(r, "x", x, "pos", pos, "the head width must be even");
        return;
    }
    op_count(r, 6.0 * (double)tensor_count(x), 3, x, x, pos);
    OP_CALL(r, rope_halves, x, pos, theta);
}
