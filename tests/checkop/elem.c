#include "tests/checkop/checkop.h"

/* rows, columns, what (an activation), padding of rows */
static const int64_t cases[][CASE_NUMBERS] = {
    {1, 1, ACT_SILU},           {3, 5, ACT_GELU_TANH},        {7, 129, ACT_GELU_ERF, 3},
    {64, 1031, ACT_RELU},       {40, 96, ACT_QUICK_GELU, 16}, {130, 640, ACT_SIGMOID},
    {1, 9001, ACT_NONE},        {33, 512, ACT_SILU, 512},     {100, 200, ACT_GELU_TANH},
    {90, 90, ACT_GELU_ERF},     {2816, 2048, ACT_GELU_TANH},  {2816, 512, ACT_SILU, 512},
    {1500, 1536, ACT_GELU_ERF},
};
#define CASES CHECK_CASES(cases), .n_bench = 3

static struct tensor columns(struct tensor t, const int64_t *d)
{
    return tensor_slice(t, 1, d[3], d[1]);
}

static struct tensor inout(struct side *s, const int64_t *d)
{
    return columns(side_inout(s, 2, 2, SHAPE(d[0], d[1] + d[3])), d);
}

static struct tensor input(struct side *s, const int64_t *d)
{
    return columns(side_input(s, 2, 2, SHAPE(d[0], d[1] + d[3])), d);
}

static struct tensor act(struct side *s, const int64_t *d)
{
    struct tensor x = inout(s, d);
    op_act(&s->run, x, side_act(s, d[2]));
    return x;
}

static struct tensor act_mul(struct side *s, const int64_t *d)
{
    struct tensor x = inout(s, d), y = input(s, d);
    op_act_mul(&s->run, x, y, side_act(s, d[2]));
    return x;
}

static struct tensor add(struct side *s, const int64_t *d)
{
    struct tensor x = inout(s, d);
    op_add(&s->run, x, d[2] % 2 ? input(s, d) : side_input(s, 1, 1, SHAPE(d[1])));
    return x;
}

/* The same rows to each of three. */
static struct tensor add_trailing(struct side *s, const int64_t *d)
{
    struct tensor x = side_inout(s, 2, 3, SHAPE(3, d[0], d[1])), y = input(s, d);
    op_add(&s->run, x, y);
    return x;
}

static struct tensor add_gated(struct side *s, const int64_t *d)
{
    struct tensor x = inout(s, d), y = input(s, d);
    op_add_gated(&s->run, x, y, side_input(s, 1, 1, SHAPE(d[1])));
    return x;
}

static struct tensor add_masked(struct side *s, const int64_t *d)
{
    struct tensor x = tensor_view(side_inout(s, 1, 2, SHAPE(d[0], d[1])), 3, SHAPE(1, d[0], d[1]));
    struct tensor y = tensor_view(side_input(s, 1, 2, SHAPE(d[0], d[1])), 3, SHAPE(1, d[0], d[1]));
    op_add_masked(&s->run, x, y, side_input(s, 1, 1, SHAPE(d[0])));
    return x;
}

static struct tensor scale(struct side *s, const int64_t *d)
{
    struct tensor x = inout(s, d);
    op_scale(&s->run, x, 0.75f, s->absolute ? 0.3f : -0.3f);
    return x;
}

static struct tensor fill(struct side *s, const int64_t *d)
{
    struct tensor x = inout(s, d);
    op_fill(&s->run, x, 1.5f);
    return x;
}

static struct tensor euler(struct side *s, const int64_t *d)
{
    struct tensor x = inout(s, d), a = input(s, d), b = d[2] % 2 ? input(s, d) : TENSOR_NONE;
    float sign = s->absolute ? 1 : -1; /* of the difference: v1 - v0 is a sum of magnitudes */
    if (s->absolute && !tensor_is_none(b)) {
        op_euler(&s->run, x, b, TENSOR_NONE, 0, 5 * 0.04f);
        op_euler(&s->run, x, a, TENSOR_NONE, 0, 6 * 0.04f);
        return x;
    }
    op_euler(&s->run, x, a, b, 5, sign * 0.04f);
    return x;
}

static float two_of_three(const struct side *s, int64_t i, float v)
{
    (void)s;
    (void)v;
    return i % 3 != 1;
}

static struct tensor mean_rows(struct side *s, const int64_t *d)
{
    struct tensor x = input(s, d), mask = side_weight_by(s, 1, 1, SHAPE(d[0]), two_of_three);
    return op_mean_rows(&s->run, x, mask);
}

static struct tensor randn(struct side *s, const int64_t *d)
{
    return op_randn(&s->run, 77, 3, 2, d);
}

static struct tensor gauss(struct side *s, const int64_t *d)
{
    struct tensor mean = side_input(s, 1, 1, SHAPE(d[1])),
                  logvar = side_weight(s, DTYPE_F32, 3, 1, SHAPE(d[1]));
    struct tensor noise = input(s, d);
    mean.n_dims = logvar.n_dims = 2; /* broadcast over the rows */
    mean.shape[1] = logvar.shape[1] = d[1];
    mean.shape[0] = logvar.shape[0] = d[0];
    mean.stride[1] = logvar.stride[1] = 1;
    mean.stride[0] = logvar.stride[0] = 0;
    return op_gauss(&s->run, mean, logvar, noise, 0.47f);
}

static struct tensor blend(struct side *s, const int64_t *d)
{
    struct tensor b = inout(s, d), a = input(s, d);
    int dim = (int)(d[2] % 2);
    op_blend(&s->run, b, a, dim, (b.shape[dim] + 1) / 2);
    return b;
}

static struct tensor to_u8(struct side *s, const int64_t *d)
{
    return op_to_u8(&s->run, input(s, d));
}

/* frames, height, width, padding of rows */
static const int64_t yuv_cases[][CASE_NUMBERS] = {{1, 2, 2},        {2, 6, 10},      {0, 4, 4},
                                                  {3, 62, 34, 6},   {1, 96, 128, 2}, {16, 128, 128}};

static struct tensor to_yuv420(struct side *s, const int64_t *d)
{
    struct tensor x = side_input(s, 0.7, 4, SHAPE(d[0], d[1], d[2] + d[3], 3));
    return op_to_yuv420(&s->run, tensor_slice(x, 2, d[3], d[2]));
}

static struct tensor normalize(struct side *s, const int64_t *d)
{
    static const float mean[3] = {0.48f, 0.46f, 0.41f}, std[3] = {0.27f, 0.26f, 0.28f};
    return op_normalize(&s->run, side_bytes(s, false, 3, SHAPE(d[0], d[1], 3)), 255, mean, std);
}

/* samples, mels */
static const int64_t mel_cases[][CASE_NUMBERS] = {{320, 3}, {1600, 80}, {16000, 80}, {480000, 80}};

/* Bands of bins, positive. */
static float band(const struct side *s, int64_t i, float v)
{
    (void)s;
    int64_t bin = i % 201, mid = 2 + i / 201 * 2;
    return bin >= mid - 2 && bin <= mid + 5 ? (v < 0 ? -v : v) : 0;
}

static struct tensor log_mel(struct side *s, const int64_t *d)
{
    struct tensor wave = side_input(s, 0.1, 1, SHAPE(d[0])),
                  filters = side_weight_by(s, 0.01, 2, SHAPE(d[1], 201), band);
    return op_log_mel(&s->run, wave, filters);
}

static struct tensor to_bf16(struct side *s, const int64_t *d)
{
    struct tensor x = inout(s, d);
    op_round(&s->run, x, DTYPE_BF16);
    return x;
}

static struct tensor to_f16(struct side *s, const int64_t *d)
{
    struct tensor x = inout(s, d);
    op_round(&s->run, x, DTYPE_F16);
    return x;
}

/* times, width */
static const int64_t time_cases[][CASE_NUMBERS] = {{1, 2}, {3, 6}, {70, 256}};

static struct tensor timestep(struct side *s, const int64_t *d)
{
    float t[128];
    for (int64_t i = 0; i < d[0]; i++)
        t[i] = 1000 * (float)(d[0] - i) / (float)d[0];
    return op_timestep(&s->run, t, (int)d[0], (int)d[1]);
}

/* height, width, padding of rows */
static const int64_t mask_cases[][CASE_NUMBERS] = {{8, 8}, {24, 40, 8}, {64, 96}};

static struct tensor mask_down(struct side *s, const int64_t *d)
{
    return op_mask_down(&s->run,
                        tensor_slice(side_input(s, 1, 2, SHAPE(d[0], d[1] + d[2])), 1, d[2], d[1]));
}

const struct check check_elem[] = {
    {"act", act, CHECK_BY(act), CASES},
    {"act_mul", act_mul, CHECK_BY(act_mul), CASES},
    {"add", add, CHECK_BY(add), CASES},
    {"add", add_trailing, CHECK_BY(add), CASES},
    {"add_gated", add_gated, CHECK_BY(add_gated), CASES},
    {"add_masked", add_masked, CHECK_BY(add_masked), CASES},
    {"scale", scale, CHECK_BY(scale), CASES},
    {"fill", fill, CHECK_BY(fill), CASES},
    {"round", to_bf16, CHECK_BY(round), CASES},
    {"round", to_f16, CHECK_BY(round), CASES},
    {"timestep", timestep, CHECK_BY(timestep), CHECK_CASES(time_cases), .normal_only = true},
    {"mask_down", mask_down, CHECK_BY(mask_down), CHECK_CASES(mask_cases)},
    {"euler", euler, CHECK_BY(euler), CASES},
    {"mean_rows", mean_rows, CHECK_BY(mean_rows), CASES},
    {"randn", randn, CHECK_BY(randn), CASES},
    {"gauss", gauss, CHECK_BY(gauss), CASES},
    {"blend", blend, CHECK_BY(blend), CASES},
    {"to_u8", to_u8, CHECK_BY(to_u8), CASES},
    {"to_yuv420", to_yuv420, CHECK_BY(to_yuv420), CHECK_CASES(yuv_cases), .n_bench = 1},
    {"normalize", normalize, CHECK_BY(normalize), CASES, .normal_only = true},
    {"log_mel", log_mel, CHECK_BY(log_mel), CHECK_CASES(mel_cases), .n_bench = 1, .normal_only = true},
    {0},
};
