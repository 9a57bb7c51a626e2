/* ops_linear.c -- checks of the linear layers and the norms. */
#include "kernels/ops_check.h"

/* x [..., K], w [N, K], b [N]. */
static bool check_linear(struct run *r, const char *what, struct tensor x, struct tensor w, struct tensor b)
{
    if (!op_check_f32(r, what, x) || !op_check_weight(r, "w", w, true) || !op_check_dims(r, "w", w, 2))
        return false;
    if (tensor_dim(x, -1) != w.shape[1])
        return op_misfit(r, what, x, "w", w, "the last dimensions must be equal");
    return op_check_vector(r, "b", b, w.shape[0], true);
}

static double linear_flops(struct tensor x, struct tensor w)
{
    return 2.0 * (double)tensor_rows(x) * (double)tensor_count(w);
}

struct tensor op_linear(struct run *r, struct tensor x, struct tensor w, struct tensor b, enum act act)
{
    op_begin(r, "op_linear");
    if (!check_linear(r, "x", x, w, b) || !op_check_act(r, act))
        return TENSOR_NONE;
    int64_t shape[TENSOR_MAX_DIMS];
    for (int i = 0; i < x.n_dims; i++)
        shape[i] = i + 1 < x.n_dims ? x.shape[i] : w.shape[0];
    struct tensor y = run_new(r, DTYPE_F32, x.n_dims, shape);
    op_count(r, linear_flops(x, w), 4, x, w, b, y);
    OP_CALL(r, linear, y, x, w, b, act);
    return y;
}

void op_linear_into(struct run *r, struct tensor dst, struct tensor x, struct tensor w, struct tensor b,
                    enum act act)
{
    op_begin(r, "op_linear_into");
    if (!check_linear(r, "x", x, w, b) || !op_check_act(r, act) || !op_check_f32(r, "dst", dst))
        return;
    if (tensor_rows(dst) != tensor_rows(x) || tensor_dim(dst, -1) != w.shape[0]) {
        op_misfit(r, "dst", dst, "x", x, "the rows must be equal and dst as wide as w has rows");
        return;
    }
    op_count(r, linear_flops(x, w), 4, x, w, b, dst);
    OP_CALL(r, linear, dst, x, w, b, act);
}

void op_linear_add(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b,
                   struct tensor gate)
{
    op_begin(r, "op_linear_add");
    if (!check_linear(r, "h", h, w, b) || !op_check_f32(r, "x", x))
        return;
    if (!op_check_vector(r, "gate", gate, w.shape[0], true))
        return;
    if (tensor_rows(x) != tensor_rows(h) || tensor_dim(x, -1) != w.shape[0]) {
        op_misfit(r, "x", x, "h", h, "the rows must be equal and x as wide as w has rows");
        return;
    }
    op_count(r, linear_flops(h, w) + 2.0 * (double)tensor_count(x), 6, x, x, h, w, b, gate);
    OP_CALL(r, linear_add, x, h, w, b, gate);
}

static struct tensor like(struct run *r, struct tensor x)
{
    return run_new(r, DTYPE_F32, x.n_dims, x.shape);
}

struct tensor op_layer_norm(struct run *r, struct tensor x, struct tensor w, struct tensor b, float eps)
{
    op_begin(r, "op_layer_norm");
    int64_t c = tensor_dim(x, -1);
    if (!op_check_f32(r, "x", x) || !op_check_vector(r, "w", w, c, true) ||
        !op_check_vector(r, "b", b, c, true))
        return TENSOR_NONE;
    struct tensor y = like(r, x);
    op_count(r, 8.0 * (double)tensor_count(x), 4, x, w, b, y);
    OP_CALL(r, layer_norm, y, x, w, b, eps);
    return y;
}

struct tensor op_layer_norm_mod(struct run *r, struct tensor x, struct tensor shift, struct tensor scale,
                                float eps)
{
    op_begin(r, "op_layer_norm_mod");
    int64_t c = tensor_dim(x, -1);
    if (!op_check_f32(r, "x", x) || !op_check_f32_vector(r, "shift", shift, c) ||
        !op_check_f32_vector(r, "scale", scale, c))
        return TENSOR_NONE;
    struct tensor y = like(r, x);
    op_count(r, 8.0 * (double)tensor_count(x), 4, x, shift, scale, y);
    OP_CALL(r, layer_norm_mod, y, x, shift, scale, eps);
    return y;
}

struct tensor op_rms_norm(struct run *r, struct tensor x, struct tensor w, float eps)
{
    op_begin(r, "op_rms_norm");
    if (!op_check_f32(r, "x", x) || !op_check_vector(r, "w", w, tensor_dim(x, -1), false))
        return TENSOR_NONE;
    struct tensor y = like(r, x);
    op_count(r, 4.0 * (double)tensor_count(x), 3, x, w, y);
    OP_CALL(r, rms_norm, y, x, w, eps);
    return y;
}

struct tensor op_group_norm(struct run *r, struct tensor x, struct tensor w, struct tensor b, int groups,
                            float eps, enum act act)
{
    op_begin(r, "op_group_norm");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 4) || !op_check_act(r, act))
        return TENSOR_NONE;
    if (!op_check_vector(r, "w", w, x.shape[3], false) || !op_check_vector(r, "b", b, x.shape[3], false))
        return TENSOR_NONE;
    if (groups < 1 || x.shape[3] % groups != 0) {
        op_misfit(r, "x", x, "w", w, "the channels cannot be split into that many groups");
        return TENSOR_NONE;
    }
    struct tensor y = like(r, x);
    op_count(r, 8.0 * (double)tensor_count(x), 4, x, w, b, y);
    OP_CALL(r, group_norm, y, x, w, b, groups, eps, act);
    return y;
}

struct tensor op_group_stats(struct run *r, struct tensor x, int groups)
{
    op_begin(r, "op_group_stats");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 4))
        return TENSOR_NONE;
    if (groups < 1 || x.shape[3] % groups != 0) {
        op_refuse(r, "x", x, "the channels cannot be split into that many groups");
        return TENSOR_NONE;
    }
    struct tensor y = run_new(r, DTYPE_F32, 2, SHAPE(groups, 3));
    op_count(r, 3.0 * (double)tensor_count(x), 2, x, y);
    OP_CALL(r, group_stats, y, x, groups);
    return y;
}

static bool check_stats(struct run *r, struct tensor x, struct tensor stats)
{
    if (!op_check_f32(r, "stats", stats) || tensor_dim(stats, -1) != 3 || (stats.n_dims != 2 && stats.n_dims != 3) ||
        !tensor_is_contiguous(stats) || stats.shape[0] < 1)
        return op_refuse(r, "stats", stats, "they are not [groups, 3] or [pieces, groups, 3]");
    const int64_t groups = tensor_dim(stats, -2);
    if (groups < 1 || x.shape[3] % groups != 0)
        return op_misfit(r, "x", x, "stats", stats, "the channels cannot be split into that many groups");
    return true;
}

void op_group_apply(struct run *r, struct tensor dst, struct tensor x, struct tensor stats, struct tensor w,
                    struct tensor b, float eps, enum act act)
{
    op_begin(r, "op_group_apply");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 4) || !op_check_f32(r, "dst", dst) ||
        !op_check_same(r, "dst", dst, "x", x) || !op_check_act(r, act))
        return;
    if (!op_check_vector(r, "w", w, x.shape[3], false) || !op_check_vector(r, "b", b, x.shape[3], false) ||
        !check_stats(r, x, stats))
        return;
    op_count(r, 5.0 * (double)tensor_count(x), 5, x, stats, w, b, dst);
    OP_CALL(r, group_apply, dst, x, stats, w, b, eps, act);
}

struct tensor op_batch_norm(struct run *r, struct tensor x, struct tensor w, struct tensor b,
                            struct tensor mean, struct tensor var, float eps, enum act act)
{
    op_begin(r, "op_batch_norm");
    int64_t c = tensor_dim(x, -1);
    if (!op_check_f32(r, "x", x) || !op_check_act(r, act) || !op_check_vector(r, "w", w, c, false) ||
        !op_check_vector(r, "b", b, c, false) || !op_check_vector(r, "mean", mean, c, false) ||
        !op_check_vector(r, "var", var, c, false))
        return TENSOR_NONE;
    struct tensor y = like(r, x);
    op_count(r, 4.0 * (double)tensor_count(x), 6, x, w, b, mean, var, y);
    OP_CALL(r, batch_norm, y, x, w, b, mean, var, eps, act);
    return y;
}
