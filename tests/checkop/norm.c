#include "tests/checkop/checkop.h"

/* rows, channels, weight 1 | bias 2 | bf16 4, padding of rows */
static const int64_t row_cases[][CASE_NUMBERS] = {
    {1, 1, 3},     {3, 7, 3},          {5, 129, 1, 3}, {2, 64, 0},     {64, 96, 7},
    {70, 1024, 2}, {640, 512, 0, 512}, {2816, 512, 3}, {930, 4096, 3},
};

static struct tensor row_input(struct side *s, const int64_t *d)
{
    return tensor_slice(side_input(s, 1, 2, SHAPE(d[0], d[1] + d[3])), 1, d[3], d[1]);
}

static struct tensor parameter(struct side *s, const int64_t *d, int bit)
{
    enum dtype dtype = d[2] & 4 ? DTYPE_BF16 : DTYPE_F32;
    return d[2] & bit ? side_weight(s, dtype, 0.5, 1, SHAPE(d[1])) : TENSOR_NONE;
}

static struct tensor layer_norm(struct side *s, const int64_t *d)
{
    struct tensor x = row_input(s, d), w = parameter(s, d, 1), b = parameter(s, d, 2);
    return op_layer_norm(&s->run, x, w, b, 1e-6f);
}

static struct tensor layer_norm_mod(struct side *s, const int64_t *d)
{
    struct tensor x = row_input(s, d), shift = side_input(s, 1, 1, SHAPE(d[1])),
                  scale = side_input(s, 0.3, 1, SHAPE(d[1]));
    return op_layer_norm_mod(&s->run, x, shift, scale, 1e-6f);
}

static struct tensor rms_norm(struct side *s, const int64_t *d)
{
    struct tensor x = row_input(s, d),
                  w = side_weight(s, d[2] & 4 ? DTYPE_BF16 : DTYPE_F32, 1, 1, SHAPE(d[1]));
    return op_rms_norm(&s->run, x, w, 1e-5f);
}

static float as_mean(const struct side *s, int64_t i, float v)
{
    (void)i;
    return s->absolute ? -v : v; /* |x| + |mean| is what is wanted then */
}

static float as_variance(const struct side *s, int64_t i, float v)
{
    (void)s;
    (void)i;
    return v * v + 0.5f;
}

static struct tensor batch_norm(struct side *s, const int64_t *d)
{
    static const enum act acts[] = {ACT_NONE, ACT_SILU, ACT_RELU};
    struct tensor x = row_input(s, d), p[4];
    for (int i = 0; i < 2; i++)
        p[i] = side_weight(s, DTYPE_F32, 0.4, 1, SHAPE(d[1]));
    p[2] = side_weight_by(s, 0.4, 1, SHAPE(d[1]), as_mean);
    p[3] = side_weight_by(s, 0.4, 1, SHAPE(d[1]), as_variance);
    return op_batch_norm(&s->run, x, p[0], p[1], p[2], p[3], 1e-3f, side_act(s, acts[d[0] % 3]));
}

/* T, H, W, C, groups, act, padding of C */
static const int64_t group_cases[][CASE_NUMBERS] = {
    {1, 1, 2, 1, 1},
    {1, 3, 5, 6, 3, ACT_SILU},
    {2, 9, 11, 32, 8},
    {1, 31, 37, 24, 4, ACT_SILU, 8},
    {3, 16, 16, 128, 32, ACT_SILU},
    {2, 40, 33, 64, 64, ACT_RELU},
    {1, 3, 5, 600, 2},
    {2, 5, 7, 384, 32, ACT_SILU},
    {1, 73, 73, 256, 32},
    {17, 64, 64, 64, 32, ACT_SILU},
    {17, 128, 128, 32, 32, ACT_SILU},
};

static struct tensor group_norm(struct side *s, const int64_t *d)
{
    struct tensor x = tensor_slice(side_input(s, 1, 4, SHAPE(d[0], d[1], d[2], d[3] + d[6])), 3, d[6], d[3]);
    struct tensor w = side_weight(s, DTYPE_F32, 0.5, 1, SHAPE(d[3])),
                  b = side_weight(s, DTYPE_F32, 0.5, 1, SHAPE(d[3]));
    return op_group_norm(&s->run, x, w, b, (int)d[4], 1e-6f, side_act(s, d[5]));
}

static struct tensor group_stats(struct side *s, const int64_t *d)
{
    struct tensor x = tensor_slice(side_input(s, 1, 4, SHAPE(d[0], d[1], d[2], d[3] + d[6])), 3, d[6], d[3]);
    return tensor_slice(op_group_stats(&s->run, x, (int)d[4]), 1, 1, 2); /* without the count */
}

/* The frames of the second half, by the statistics of two pieces. */
static struct tensor group_apply(struct side *s, const int64_t *d)
{
    struct run *r = &s->run;
    int64_t front = (d[0] + 2) / 3, half = d[0] / 2;
    struct tensor x = tensor_slice(side_inout(s, 1, 4, SHAPE(d[0], d[1], d[2], d[3] + d[6])), 3, d[6], d[3]);
    struct tensor w = side_weight(s, DTYPE_F32, 0.5, 1, SHAPE(d[3])), b = side_weight(s, DTYPE_F32, 0.5, 1, SHAPE(d[3]));
    struct tensor stats = run_new(r, DTYPE_F32, 3, SHAPE(d[0] > front ? 2 : 1, d[4], 3));
    op_copy_into(r, tensor_at(stats, 0, 0), op_group_stats(r, tensor_slice(x, 0, 0, front), (int)d[4]));
    if (d[0] > front)
        op_copy_into(r, tensor_at(stats, 0, 1), op_group_stats(r, tensor_slice(x, 0, front, d[0] - front), (int)d[4]));
    struct tensor part = tensor_slice(x, 0, half, d[0] - half);
    op_group_apply(r, part, part, stats, w, b, 1e-6f, side_act(s, d[5]));
    return part;
}

/* tokens, heads, head width, rows turned, weight, packed qkv */
static const int64_t rope_cases[][CASE_NUMBERS] = {
    {1, 1, 2, 1, 1},     {5, 3, 6, 3, 0},  {33, 2, 32, 33, 1, 1},     {40, 4, 64, 20, 1, 1},
    {17, 3, 128, 17, 1}, {9, 2, 40, 0, 1}, {2816, 8, 64, 2624, 1, 1},
};

static struct tensor norm_rope(struct side *s, const int64_t *d)
{
    struct tensor x = side_inout(s, 1, 3, SHAPE(d[0], d[1] * (d[5] ? 3 : 1), d[2]));
    struct tensor w = d[4] ? side_weight(s, DTYPE_F32, 1, 1, SHAPE(d[2])) : TENSOR_NONE, cos = TENSOR_NONE,
                  sin = TENSOR_NONE;
    x = tensor_slice(x, 1, 0, d[1]);
    if (d[3] > 0) {
        cos = side_input(s, 0.5, 2, SHAPE(d[3], d[2] / 2));
        sin = side_input(s, 0.5, 2, SHAPE(d[3], d[2] / 2));
    }
    op_norm_rope(&s->run, x, w, 1e-6f, cos, sin);
    return x;
}

static struct tensor rope_halves(struct side *s, const int64_t *d)
{
    struct tensor x = side_inout(s, 1, 3, SHAPE(d[0], d[1] * (d[5] ? 3 : 1), d[2]));
    x = tensor_slice(x, 1, 0, d[1]);
    op_rope_halves(&s->run, x, side_indices(s, d[0], 4096), 500000);
    return x;
}

/* frames, h, w, three widths, first frame */
static const int64_t table_cases[][CASE_NUMBERS] = {
    {1, 1, 1, 2, 2, 2}, {3, 5, 7, 4, 14, 14, 2}, {2, 3, 4, 0, 6, 8}, {41, 8, 8, 8, 28, 28}};

static struct tensor rope_table(struct side *s, const int64_t *d)
{
    int dims[3] = {(int)d[3], (int)d[4], (int)d[5]};
    struct tensor cos, sin;
    op_rope_table(&s->run, d[0], d[1], d[2], dims, 256, d[6], &cos, &sin);
    struct tensor both[] = {cos, sin};
    return op_concat(&s->run, both, 2, 1);
}

const struct check check_norm[] = {
    {"layer_norm", layer_norm, CHECK_BY(layer_norm), CHECK_CASES(row_cases), .n_bench = 2},
    {"layer_norm_mod", layer_norm_mod, CHECK_BY(layer_norm_mod), CHECK_CASES(row_cases), .n_bench = 2},
    {"rms_norm", rms_norm, CHECK_BY(rms_norm), CHECK_CASES(row_cases), .n_bench = 2},
    {"batch_norm", batch_norm, CHECK_BY(batch_norm), CHECK_CASES(row_cases), .n_bench = 2},
    {"group_norm", group_norm, CHECK_BY(group_norm), CHECK_CASES(group_cases), .n_bench = 2},
    {"group_stats", group_stats, CHECK_BY(group_stats), CHECK_CASES(group_cases), .n_bench = 2},
    {"group_apply", group_apply, CHECK_BY(group_apply), CHECK_CASES(group_cases), .n_bench = 2},
    {"norm_rope", norm_rope, CHECK_BY(norm_rope), CHECK_CASES(rope_cases), .n_bench = 1},
    {"rope_halves", rope_halves, CHECK_BY(rope_halves), CHECK_CASES(rope_cases), .n_bench = 1},
    {"rope_table", rope_table, CHECK_BY(rope_table), CHECK_CASES(table_cases), .n_bench = 1},
    {0},
};
