/* The ops that multiply, the norms and the positions. */
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/bench/bench_case.h"

#define EPS 1e-6f
#define SHAPE_TEXT(...) str_format(c->shape, sizeof c->shape, __VA_ARGS__)
#define N(i) (long long)c->e[i]

/* e: rows, in, out. flag: an activation. */
static void make_linear(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[1]));
    bench_case_weights(r, c, 2, SHAPE(c->e[2], c->e[1]));
    SHAPE_TEXT("%lld x %lld -> %lld%s", N(0), N(1), N(2),
               c->flag == ACT_GELU_TANH || c->flag == ACT_GELU_ERF ? ", gelu" : "");
}

static void call_linear(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_linear(r, c->x, c->w, c->b, (enum act)c->flag);
}

const struct bench_kind bench_case_linear = {"linear", make_linear, call_linear, {16, 64, 64}, .is_heavy = true};

/* e: rows, in, out. */
static void make_linear_add(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[2]));
    c->y = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[1]));
    c->z = bench_case_draw(r, 1, SHAPE(c->e[2]));
    bench_case_weights(r, c, 2, SHAPE(c->e[2], c->e[1]));
    SHAPE_TEXT("%lld x %lld -> %lld, gate, +=", N(0), N(1), N(2));
}

static void call_linear_add(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_linear_add(r, c->x, c->y, c->w, c->b, c->z);
}

const struct bench_kind bench_case_linear_add = {
    "linear_add", make_linear_add, call_linear_add, {16, 64, 64}, .is_heavy = true};

/* e: queries, keys (0: as many), heads, key heads (0: as many), width, batch. flag: enum attn_kind. */
static void make_attention(struct run *r, struct bench_case *c)
{
    static const char *const kinds[] = {"", ", causal", ", frame-causal", ", mask"};
    const int64_t q = c->e[0], k = c->e[1] ? c->e[1] : q, heads = c->e[2], k_heads = c->e[3] ? c->e[3] : heads, D = c->e[4],
                  B = c->e[5];
    c->x = bench_case_draw(r, 4, SHAPE(B, q, heads, D));
    c->y = bench_case_draw(r, 4, SHAPE(B, k, k_heads, D));
    c->z = bench_case_draw(r, 4, SHAPE(B, k, k_heads, D));
    c->attn = (struct attn){.kind = (enum attn_kind)c->flag, .scale = 1 / sqrtf((float)D), .block = q >= 17 ? q / 17 : 1};
    if (c->attn.kind == ATTN_BLOCK_CAUSAL && q % c->attn.block)
        c->attn.block = q;
    if (c->attn.kind == ATTN_MASK) {
        uint8_t *ones = r->table ? mem_alloc((size_t)(q * k)) : NULL;
        if (ones)
            memset(ones, 1, (size_t)(q * k));
        c->attn.mask = ones ? run_write(r, ones, DTYPE_U8, 2, SHAPE(q, k)) : run_new(r, DTYPE_U8, 2, SHAPE(q, k));
        mem_free(ones);
    }
    if (k == q && B == 1)
        SHAPE_TEXT("%lld, %lld heads of %lld%s", N(0), (long long)heads, (long long)D, kinds[c->flag]);
    else
        SHAPE_TEXT("%lld x %lld to %lld, %lld heads of %lld", (long long)B, N(0), (long long)k, (long long)heads,
                   (long long)D);
}

static void call_attention(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_attention(r, c->x, c->y, c->z, c->attn);
}

const struct bench_kind bench_case_attention = {
    "attention", make_attention, call_attention, {17, 16, 8, 0, 0, 1}, .is_heavy = true};

/* e: height, width, frames, channels in, channels out. flag 3: 3 x 3 x 3, causal, edges replicated; 2: 3 x 3; 1: 3 along the
 * width. */
static void make_conv(struct run *r, struct bench_case *c)
{
    const int64_t n = c->flag;
    c->x = bench_case_draw(r, 4, SHAPE(c->e[2], c->e[0], c->e[1], c->e[3]));
    bench_case_weights(r, c, 5, SHAPE(c->e[4], c->e[3], n > 2 ? 3 : 1, n > 1 ? 3 : 1, 3));
    c->conv = (struct conv){.replicate = n == 3, .pad_before = {n > 2 ? 2 : 0, n > 1, 1}, .pad_after = {0, n > 1, 1}};
    SHAPE_TEXT("%lld x %lld x %lld, %lld -> %lld, %s", N(2), N(0), N(1), N(3), N(4),
               n == 3   ? "3x3x3"
               : n == 2 ? "3x3"
                        : "3");
}

static void call_conv(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_conv(r, c->x, c->w, c->b, &c->conv);
}

const struct bench_kind bench_case_conv = {"conv", make_conv, call_conv, {8, 8, 3, 16, 16}, .is_heavy = true};

/* ---- norms. e: rows, channels ---- */

static void make_rows(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[1]));
    c->y = bench_case_draw(r, 1, SHAPE(c->e[1]));
    c->z = bench_case_draw(r, 1, SHAPE(c->e[1]));
    SHAPE_TEXT("%lld x %lld", N(0), N(1));
}

static void call_layer_norm(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_layer_norm(r, c->x, c->y, c->z, EPS);
}

static void call_layer_norm_mod(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_layer_norm_mod(r, c->x, c->y, c->z, EPS);
}

static void call_rms_norm(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_rms_norm(r, c->x, c->y, EPS);
}

const struct bench_kind bench_case_layer_norm = {"layer_norm", make_rows, call_layer_norm, {16, 64}};
const struct bench_kind bench_case_layer_norm_mod = {"layer_norm_mod", make_rows, call_layer_norm_mod, {16, 64}};
const struct bench_kind bench_case_rms_norm = {"rms_norm", make_rows, call_rms_norm, {16, 64}};

/* e: height, width, frames, channels. */
static void make_picture(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 4, SHAPE(c->e[2], c->e[0], c->e[1], c->e[3]));
    c->y = bench_case_draw(r, 1, SHAPE(c->e[3]));
    c->z = run_new(r, DTYPE_F32, 1, SHAPE(c->e[3]));
    op_fill(r, c->z, 1);
    SHAPE_TEXT("%lld x %lld x %lld x %lld", N(2), N(0), N(1), N(3));
}

static void call_group_norm(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_group_norm(r, c->x, c->y, c->z, 32, EPS, ACT_SILU);
}

/* The same with its statistics. */
static void make_halves(struct run *r, struct bench_case *c)
{
    make_picture(r, c);
    c->idx = op_group_stats(r, c->x, 32);
}

static void call_group_stats(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_group_stats(r, c->x, 32);
}

static void call_group_apply(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_group_apply(r, run_new(r, DTYPE_F32, 4, c->x.shape), c->x, c->idx, c->y, c->z, EPS, ACT_SILU);
}

static void call_batch_norm(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_batch_norm(r, c->x, c->y, c->z, c->y, c->z, EPS, ACT_RELU);
}

const struct bench_kind bench_case_group_norm = {"group_norm", make_picture, call_group_norm, {8, 8, 1, 32}};
const struct bench_kind bench_case_group_stats = {"group_stats", make_picture, call_group_stats, {8, 8, 1, 32}};
const struct bench_kind bench_case_group_apply = {"group_apply", make_halves, call_group_apply, {8, 8, 1, 32}};
const struct bench_kind bench_case_batch_norm = {"batch_norm", make_picture, call_batch_norm, {8, 8, 1, 8}};

/* ---- positions ---- */

/* e: height, width, frames, width of a head. */
static void make_rope_table(struct run *r, struct bench_case *c)
{
    (void)r;
    SHAPE_TEXT("%lld x %lld x %lld positions", N(2), N(0), N(1));
}

static void call_rope_table(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    const int D = (int)c->e[3], dims[3] = {D / 8, D * 7 / 16, D * 7 / 16};
    struct tensor cos, sin;
    op_rope_table(r, c->e[2], c->e[0], c->e[1], dims, 256, 0, &cos, &sin);
}

const struct bench_kind bench_case_rope_table = {"rope_table", make_rope_table, call_rope_table, {4, 4, 1}};

/* e: tokens, heads, width. */
static void make_heads(struct run *r, struct bench_case *c)
{
    c->x = bench_case_draw(r, 3, SHAPE(c->e[0], c->e[1], c->e[2]));
    c->y = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[2] / 2));
    c->z = bench_case_draw(r, 2, SHAPE(c->e[0], c->e[2] / 2));
    c->b = bench_case_draw(r, 1, SHAPE(c->e[2]));
    c->idx = bench_case_indices(r, c->e[0], 1, c->e[0]);
    SHAPE_TEXT("%lld, %lld heads of %lld", N(0), N(1), N(2));
}

static void call_norm_rope(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_norm_rope(r, c->x, c->b, EPS, c->y, c->z);
}

static void call_rope_halves(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    op_rope_halves(r, c->x, c->idx, 500000);
}

const struct bench_kind bench_case_norm_rope = {"norm_rope", make_heads, call_norm_rope, {16, 1}};
const struct bench_kind bench_case_rope_halves = {"rope_halves", make_heads, call_rope_halves, {16, 1}};
