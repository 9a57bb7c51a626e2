/* The ops on pictures and elements, those that move them, the sampler's and the sound's. */
#include "common/str.h"
#include "worker/bench/bench_case.h"

#define SHAPE_TEXT(...) str_format(c->shape, sizeof c->shape, __VA_ARGS__)
#define N(i) (long long)c->e[i]
#define CALL(name, ...)                                                                                                     \
    static void name(struct run *r, void *arg)                                                                              \
    {                                                                                                                       \
        const struct bench_case *c = arg;                                                                                   \
        __VA_ARGS__;                                                                                                        \
    }

/* ---- pictures. e: height, width, frames, channels ---- */

static void make_picture(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 4, SHAPE(c->e[2], c->e[0], c->e[1], c->e[3]));
    SHAPE_TEXT("%lld x %lld x %lld x %lld", N(2), N(0), N(1), N(3));
}

static void make_bytes(struct run *r, struct bench_case *c)
{
    c->x = op_to_u8(r, bench_case_draw(r, 4, SHAPE(c->e[2], c->e[0], c->e[1], c->e[3])));
    SHAPE_TEXT("%lld x %lld x %lld x %lld", N(2), N(0), N(1), N(3));
}

static void make_mask(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[1]));
    SHAPE_TEXT("%lld x %lld", N(0), N(1));
}

static const float bench_one[3] = {1, 1, 1};
CALL(call_max_pool, op_max_pool(r, c->x, 3, 2, 1, false))
CALL(call_upsample, op_upsample(r, c->x, 2, 2, 2, true))
CALL(call_normalize, op_normalize(r, c->x, 127.5f, bench_one, bench_one))
CALL(call_to_u8, op_to_u8(r, c->x))
CALL(call_to_yuv420, op_to_yuv420(r, c->x))
CALL(call_mask_down, op_mask_down(r, c->x))

const struct bench_kind bench_case_max_pool = {"max_pool", make_picture, call_max_pool, {8, 8, 1, 8}};
const struct bench_kind bench_case_upsample = {"upsample", make_picture, call_upsample, {4, 4, 2, 8}};
const struct bench_kind bench_case_normalize = {"normalize", make_bytes, call_normalize, {8, 8, 1}};
const struct bench_kind bench_case_to_u8 = {"to_u8", make_picture, call_to_u8, {8, 8, 1}};
const struct bench_kind bench_case_to_yuv420 = {"to_yuv420", make_picture, call_to_yuv420, {8, 8, 1}, .unit = 2};
const struct bench_kind bench_case_mask_down = {"mask_down", make_mask, call_mask_down, {8, 8}, .unit = 8};

/* ---- elements. e: rows, channels; add_masked: tokens of a frame, frames, channels ---- */

static void make_elements(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[1]));
    c->y = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[1]));
    c->z = bench_case_draw(r, 1, SHAPE(c->e[1]));
    c->b = bench_case_draw(r, 1, SHAPE(c->e[0]));
    SHAPE_TEXT("%lld x %lld", N(0), N(1));
}

static void make_alone(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[1]));
    SHAPE_TEXT("%lld x %lld", N(0), N(1));
}

static void make_masked(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 3, SHAPE(c->e[1], c->e[0], c->e[2]));
    c->y = bench_case_draw(r, 3, SHAPE(c->e[1], c->e[0], c->e[2]));
    c->z = bench_case_draw(r, 1, SHAPE(c->e[0]));
    SHAPE_TEXT("%lld x %lld x %lld", N(1), N(0), N(2));
}

static void make_times(struct run *r, struct bench_case *c)
{
    (void)r;
    SHAPE_TEXT("%lld times, %lld wide", N(0), N(1));
}

static const float bench_times[256];
CALL(call_act, op_act(r, c->x, ACT_GELU_TANH))
CALL(call_act_mul, op_act_mul(r, c->x, c->y, ACT_SILU))
CALL(call_add, op_add(r, c->x, c->y))
CALL(call_add_gated, op_add_gated(r, c->x, c->y, c->z))
CALL(call_add_masked, op_add_masked(r, c->x, c->y, c->z))
CALL(call_scale, op_scale(r, c->x, 1, 0))
CALL(call_fill, op_fill(r, c->x, 1))
CALL(call_round, op_round(r, c->x, DTYPE_BF16))
CALL(call_timestep, op_timestep(r, bench_times, (int)c->e[0], (int)c->e[1]))
CALL(call_mean_rows, op_mean_rows(r, c->x, c->b))

const struct bench_kind bench_case_act = {"act", make_alone, call_act, {16, 64}, .refreshes = true};
const struct bench_kind bench_case_act_mul = {"act_mul", make_elements, call_act_mul, {16, 64}, .refreshes = true};
const struct bench_kind bench_case_add = {"add", make_elements, call_add, {16, 64}};
const struct bench_kind bench_case_add_gated = {"add_gated", make_elements, call_add_gated, {16, 64}};
const struct bench_kind bench_case_add_masked = {"add_masked", make_masked, call_add_masked, {16, 1, 64}};
const struct bench_kind bench_case_scale = {"scale", make_alone, call_scale, {16, 64}};
const struct bench_kind bench_case_fill = {"fill", make_alone, call_fill, {16, 64}};
const struct bench_kind bench_case_round = {"round", make_alone, call_round, {16, 64}};
const struct bench_kind bench_case_timestep = {"timestep", make_times, call_timestep, {1, 16}};
const struct bench_kind bench_case_mean_rows = {"mean_rows", make_elements, call_mean_rows, {16, 64}};

/* ---- moving ---- */

/* e: tokens, heads, width. flag 0: as it lies; 1: tokens and heads change places; 2: to bf16. */
static void make_copy(struct run *r, struct bench_case *c)
{
    static const char *const how[] = {"", ", transposed", ", to bf16"};
    c->x = bench_case_draw(r, 3, SHAPE(c->e[0], c->e[1], c->e[2]));
    if (c->flag == 1)
        c->x = tensor_permute(c->x, (const int[]){1, 0, 2});
    SHAPE_TEXT("%lld x %lld x %lld%s", N(0), N(1), N(2), how[c->flag]);
}

/* e: rows taken, channels, rows there. */
static void make_indexed(struct run *r, struct bench_case *c)
{
    const int64_t rows = c->e[2] > c->e[0] ? c->e[2] : c->e[0];
    c->x = bench_case_draw(r, 2, SHAPE(rows, c->e[1]));
    c->y = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[1]));
    c->idx = bench_case_indices(r, c->e[0], 1, rows);
    SHAPE_TEXT("%lld of %lld rows of %lld", N(0), (long long)rows, N(1));
}

/* e: height, width, frames, channels of latents. */
static void make_latents(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 4, SHAPE(c->e[3], c->e[2], c->e[0], c->e[1]));
    c->y = bench_case_draw(r, 4, SHAPE(c->e[3], c->e[2], c->e[0], c->e[1]));
    c->z = bench_case_draw(r, 4, SHAPE(c->e[3], c->e[2], c->e[0], c->e[1]));
    c->w = bench_case_draw(r, 2, SHAPE(c->e[2] * (c->e[0] / 2) * (c->e[1] / 2), c->e[3] * 4));
    SHAPE_TEXT("%lld x %lld x %lld x %lld", N(3), N(2), N(0), N(1));
}

CALL(call_copy, op_copy(r, c->x, c->flag == 2 ? DTYPE_BF16 : DTYPE_F32))
CALL(call_gather, op_gather(r, c->x, 0, c->idx))
CALL(call_scatter_add, op_scatter_add(r, c->x, 0, c->idx, c->y))
CALL(call_patchify, op_patchify(r, c->x))
CALL(call_unpatchify, op_unpatchify(r, c->w, c->e[2], c->e[0], c->e[1]))
CALL(call_randn, op_randn(r, 1, 0, 4, SHAPE(c->e[3], c->e[2], c->e[0], c->e[1])))
CALL(call_euler, op_euler(r, c->x, c->y, c->z, 7.5f, -0.02f))
CALL(call_gauss, op_gauss(r, c->x, c->y, c->z, 0.5f))

const struct bench_kind bench_case_copy = {"copy", make_copy, call_copy, {16, 1, 0}};
const struct bench_kind bench_case_gather = {"gather", make_indexed, call_gather, {16, 64, 16}};
const struct bench_kind bench_case_scatter_add = {"scatter_add", make_indexed, call_scatter_add, {16, 64, 16}};
const struct bench_kind bench_case_patchify = {"patchify", make_latents, call_patchify, {4, 4, 1}, .unit = 2};
const struct bench_kind bench_case_unpatchify = {"unpatchify", make_latents, call_unpatchify, {4, 4, 1}, .unit = 2};
const struct bench_kind bench_case_randn = {"randn", make_latents, call_randn, {4, 4, 1}, .unit = 2};
const struct bench_kind bench_case_euler = {"euler", make_latents, call_euler, {4, 4, 1}, .unit = 2};
const struct bench_kind bench_case_gauss = {"gauss", make_latents, call_gauss, {4, 4, 1}, .unit = 2};

/* e: height, width, frames, channels of a tile; a quarter of its width is blended. */
static void make_blend(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 4, SHAPE(c->e[2], c->e[0], c->e[1], c->e[3]));
    c->y = bench_case_draw(r, 4, SHAPE(c->e[2], c->e[0], c->e[1], c->e[3]));
    SHAPE_TEXT("%lld x %lld x %lld x %lld, %lld columns", N(2), N(0), N(1), N(3), N(1) / 4);
}

/* e: samples, bins. */
static void make_wave(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 1, SHAPE(c->e[0]));
    c->y = bench_case_draw(r, 2, SHAPE(c->e[1], 201));
    SHAPE_TEXT("%lld samples, %lld bins", N(0), N(1));
}

CALL(call_blend, op_blend(r, c->x, c->y, 2, c->e[1] / 4))
CALL(call_log_mel, op_log_mel(r, c->x, c->y))

const struct bench_kind bench_case_blend = {"blend", make_blend, call_blend, {8, 8, 1}};
const struct bench_kind bench_case_log_mel = {"log_mel", make_wave, call_log_mel, {1600, 0}, .unit = 160};
