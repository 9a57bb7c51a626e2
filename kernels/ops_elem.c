/* ops_elem.c -- checks of the element-wise ops, the sampler, the VAE and sound. */
#include "kernels/ops_check.h"

#include <stdio.h>

void op_act(struct run *r, struct tensor x, enum act act)
{
    op_begin(r, "op_act");
    if (!op_check_f32(r, "x", x) || !op_check_act(r, act))
        return;
    op_count(r, 8.0 * (double)tensor_count(x), 2, x, x);
    OP_CALL(r, act, x, act);
}

void op_act_mul(struct run *r, struct tensor a, struct tensor b, enum act act)
{
    op_begin(r, "op_act_mul");
    if (!op_check_f32(r, "a", a) || !op_check_f32(r, "b", b) || !op_check_same(r, "a", a, "b", b) ||
        !op_check_act(r, act))
        return;
    op_count(r, 9.0 * (double)tensor_count(a), 3, a, a, b);
    OP_CALL(r, act_mul, a, b, act);
}

void op_add(struct run *r, struct tensor x, struct tensor y)
{
    op_begin(r, "op_add");
    if (!op_check_f32(r, "x", x) || !op_check_f32(r, "y", y))
        return;
    bool fits = y.n_dims <= x.n_dims;
    for (int i = 1; fits && i <= y.n_dims; i++)
        fits = x.shape[x.n_dims - i] == y.shape[y.n_dims - i];
    if (!fits) {
        op_misfit(r, "y", y, "x", x, "its shape must be that of x's trailing dimensions");
        return;
    }
    op_count(r, (double)tensor_count(x), 3, x, x, y);
    OP_CALL(r, add, x, y);
}

void op_add_gated(struct run *r, struct tensor x, struct tensor y, struct tensor gate)
{
    op_begin(r, "op_add_gated");
    if (!op_check_f32(r, "x", x) || !op_check_f32(r, "y", y) || !op_check_same(r, "x", x, "y", y) ||
        !op_check_f32_vector(r, "gate", gate, tensor_dim(x, -1)))
        return;
    op_count(r, 2.0 * (double)tensor_count(x), 4, x, x, y, gate);
    OP_CALL(r, add_gated, x, y, gate);
}

void op_add_masked(struct run *r, struct tensor x, struct tensor y, struct tensor mask)
{
    op_begin(r, "op_add_masked");
    if (!op_check_f32(r, "x", x) || !op_check_f32(r, "y", y) || !op_check_dims(r, "x", x, 3) ||
        !op_check_same(r, "x", x, "y", y) || !op_check_f32_vector(r, "mask", mask, x.shape[1]))
        return;
    op_count(r, 2.0 * (double)tensor_count(x), 4, x, x, y, mask);
    OP_CALL(r, add_masked, x, y, mask);
}

void op_scale(struct run *r, struct tensor x, float mul, float add)
{
    op_begin(r, "op_scale");
    if (!op_check_f32(r, "x", x))
        return;
    op_count(r, 2.0 * (double)tensor_count(x), 2, x, x);
    OP_CALL(r, scale, x, mul, add);
}

void op_fill(struct run *r, struct tensor x, float value)
{
    op_begin(r, "op_fill");
    if (!op_check_f32(r, "x", x))
        return;
    op_count(r, 0, 1, x);
    OP_CALL(r, fill, x, value);
}

void op_round(struct run *r, struct tensor x, enum dtype dtype)
{
    op_begin(r, "op_round");
    if (!op_check_f32(r, "x", x))
        return;
    if (dtype != DTYPE_BF16 && dtype != DTYPE_F16) {
        run_fail(r, ERR_SHAPE, "the grid of %s was asked for: bf16 or f16 is wanted", dtype_name(dtype));
        return;
    }
    op_count(r, (double)tensor_count(x), 2, x, x);
    OP_CALL(r, round, x, dtype);
}

struct tensor op_timestep(struct run *r, const float *t, int n, int dim)
{
    op_begin(r, "op_timestep");
    if (n < 1 || dim < 2 || dim % 2) {
        run_fail(r, ERR_SHAPE, "%d times of width %d: 1 or more, and an even width, are wanted", n, dim);
        return TENSOR_NONE;
    }
    struct tensor y = run_new(r, DTYPE_F32, 2, SHAPE(n, dim));
    op_count(r, 2.0 * (double)tensor_count(y), 1, y);
    OP_CALL(r, timestep, y, t, n, dim);
    return y;
}

struct tensor op_mean_rows(struct run *r, struct tensor x, struct tensor mask)
{
    op_begin(r, "op_mean_rows");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 2) ||
        !op_check_f32_vector(r, "mask", mask, x.shape[0]))
        return TENSOR_NONE;
    struct tensor y = run_new(r, DTYPE_F32, 1, SHAPE(x.shape[1]));
    op_count(r, 2.0 * (double)tensor_count(x), 3, x, mask, y);
    OP_CALL(r, mean_rows, y, x, mask);
    return y;
}

struct tensor op_randn(struct run *r, uint64_t seed, uint32_t stream, int n_dims, const int64_t *shape)
{
    op_begin(r, "op_randn");
    struct tensor y = run_new(r, DTYPE_F32, n_dims, shape);
    op_count(r, 32.0 * (double)tensor_count(y), 1, y);
    OP_CALL(r, randn, y, seed, stream);
    return y;
}

void op_euler(struct run *r, struct tensor x, struct tensor v0, struct tensor v1, float g, float dt)
{
    op_begin(r, "op_euler");
    if (!op_check_f32(r, "x", x) || !op_check_f32(r, "v0", v0) || !op_check_same(r, "x", x, "v0", v0))
        return;
    if (!tensor_is_none(v1) && (!op_check_f32(r, "v1", v1) || !op_check_same(r, "x", x, "v1", v1)))
        return;
    op_count(r, 5.0 * (double)tensor_count(x), 4, x, x, v0, v1);
    OP_CALL(r, euler, x, v0, v1, g, dt);
}

struct tensor op_gauss(struct run *r, struct tensor mean, struct tensor logvar, struct tensor noise,
                       float scale)
{
    op_begin(r, "op_gauss");
    if (!op_check_f32_any(r, "mean", mean) || !op_check_f32_any(r, "logvar", logvar) ||
        !op_check_f32_any(r, "noise", noise) || !op_check_same(r, "mean", mean, "noise", noise) ||
        !op_check_same(r, "logvar", logvar, "noise", noise))
        return TENSOR_NONE;
    struct tensor y = run_new(r, DTYPE_F32, noise.n_dims, noise.shape);
    op_count(r, 10.0 * (double)tensor_count(y), 4, mean, logvar, noise, y);
    OP_CALL(r, gauss, y, mean, logvar, noise, scale);
    return y;
}

void op_blend(struct run *r, struct tensor b, struct tensor a, int dim, int64_t n)
{
    op_begin(r, "op_blend");
    if (!op_check_f32(r, "b", b) || !op_check_f32(r, "a", a) || !op_check_dim(r, b, dim))
        return;
    bool fits = a.n_dims == b.n_dims && n >= 0 && n <= a.shape[dim] && n <= b.shape[dim];
    for (int i = 0; fits && i < b.n_dims; i++)
        fits = i == dim || a.shape[i] == b.shape[i];
    if (!fits) {
        char why[96];
        snprintf(why, sizeof why, "alike but for dimension %d, with %lld or more there, are wanted", dim,
                 (long long)n);
        op_misfit(r, "a", a, "b", b, why);
        return;
    }
    struct tensor part = tensor_slice(b, dim, 0, n);
    op_count(r, 3.0 * (double)tensor_count(part), 3, part, part, part);
    OP_CALL(r, blend, b, a, dim, n);
}

struct tensor op_log_mel(struct run *r, struct tensor wave, struct tensor filters)
{
    op_begin(r, "op_log_mel");
    if (!op_check_f32(r, "wave", wave) || !op_check_dims(r, "wave", wave, 1) ||
        !op_check_f32(r, "filters", filters) || !op_check_dims(r, "filters", filters, 2))
        return TENSOR_NONE;
    if (wave.shape[0] % 160 || wave.shape[0] <= 200 || filters.shape[1] != 201) {
        op_misfit(r, "wave", wave, "filters", filters,
                  "a multiple of 160 beyond 200 samples, and 201 bins, are wanted");
        return TENSOR_NONE;
    }
    int64_t n = wave.shape[0] / 160;
    struct tensor y = run_new(r, DTYPE_F32, 2, SHAPE(n, filters.shape[0]));
    op_count(r, (double)n * 201 * (4.0 * 400 + 2.0 * (double)filters.shape[0]), 3, wave, filters, y);
    OP_CALL(r, log_mel, y, wave, filters);
    return y;
}
