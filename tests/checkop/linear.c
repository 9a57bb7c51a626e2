#include "tests/checkop/checkop.h"

/* rows, k, n, act, weight type, bias type (0 f32, else none), padding of x and y rows */
static const int64_t linear_cases[][CASE_NUMBERS] = {
    {1, 1, 1},
    {1, 512, 96, ACT_SILU},
    {1, 517, 33, ACT_NONE, DTYPE_BF16, DTYPE_BF16},
    {3, 96, 40, ACT_NONE, DTYPE_F16, -1},
    {8, 100, 7, ACT_GELU_TANH, DTYPE_F8E4M3, 0},
    {7, 64, 64, ACT_NONE, DTYPE_BF16, -1},
    {9, 31, 65, ACT_GELU_ERF, DTYPE_F16, DTYPE_F16},
    {13, 64, 31, ACT_RELU, 0, 0, 3, 5},
    {14, 257, 32, ACT_QUICK_GELU, DTYPE_BF16, DTYPE_BF16},
    {15, 255, 33, ACT_SIGMOID, DTYPE_F8E4M3, 0},
    {112, 256, 256, ACT_GELU_TANH},
    {113, 300, 257, ACT_GELU_ERF, 0, 0, 16, 64},
    {127, 97, 101, ACT_SILU, DTYPE_F16, -1},
    {230, 512, 300, ACT_NONE, DTYPE_BF16, 0},
    {77, 48, 192, ACT_QUICK_GELU},
    {1150, 128, 512, ACT_GELU_TANH, DTYPE_BF16, 0},
    {640, 512, 512},
    {640, 512, 2048, ACT_GELU_TANH},
    {640, 2048, 512},
    {2800, 512, 512},
    {2800, 512, 1536},
    {2800, 512, 2048, ACT_GELU_TANH, 0, 0, 0, 512},
    {2800, 2560, 512},
    {1500, 384, 1536, ACT_GELU_ERF},
    {1, 512, 9216, ACT_NONE, DTYPE_BF16, 0},
    {1, 3072, 18432, ACT_NONE, DTYPE_BF16, 0},
    {8, 512, 9216},
    {20, 512, 3072},
};

static struct tensor linear(struct side *s, const int64_t *d)
{
    struct tensor b = TENSOR_NONE;
    struct tensor x = side_input(s, 1, 2, SHAPE(d[0], d[1] + d[6]));
    struct tensor w = side_weight(s, (enum dtype)d[4], 0.05, 2, SHAPE(d[2], d[1]));
    if (d[5] >= 0)
        b = side_weight(s, (enum dtype)d[5], 0.1, 1, SHAPE(d[2]));
    x = tensor_slice(x, 1, d[6], d[1]);
    if (d[7] == 0)
        return op_linear(&s->run, x, w, b, side_act(s, d[3]));
    struct tensor y = tensor_slice(side_inout(s, 1, 2, SHAPE(d[0], d[2] + d[7])), 1, d[7] / 2, d[2]);
    op_linear_into(&s->run, y, x, w, b, side_act(s, d[3]));
    return y;
}

/* For --precision: layers that the CUDA table multiplies in f16 or e4m3, among them some for which the emulated cuBLASLt has
 * no algorithm of the first choice (tests/cudaemu/libs/blas.c). */
static const int64_t narrow_cases[][CASE_NUMBERS] = {
    {17, 16, 16},
    {33, 512, 96, ACT_SILU, DTYPE_BF16, 0},
    {50, 256, 80, ACT_GELU_TANH, DTYPE_F8E4M3, DTYPE_BF16},
    {100, 128, 704, ACT_GELU_TANH, DTYPE_BF16, -1},
    {300, 64, 112, ACT_NONE, 0, 0, 16, 64},
    {40, 64, 48, ACT_NONE, DTYPE_BF16, 0, 3, 5},
    {60, 176, 64, ACT_GELU_TANH, DTYPE_BF16, 0},
    {60, 208, 64, ACT_GELU_TANH, DTYPE_F8E4M3, 0},
    {60, 224, 64, ACT_GELU_TANH, 0, 0},
    {60, 240, 64, ACT_RELU, DTYPE_F8E4M3, -1},
    {700, 3072, 3072, ACT_GELU_TANH, DTYPE_BF16, 0},
};

/* Large enough for e4m3 outside the emulation. */
static const int64_t large_cases[][CASE_NUMBERS] = {
    {40, 1024, 1040, ACT_GELU_TANH, DTYPE_BF16, 0},
    {70, 1040, 1024, ACT_NONE, DTYPE_F8E4M3, DTYPE_BF16},
};

static const int64_t f16_cases[][CASE_NUMBERS] = {
    {17, 19, 23, ACT_NONE, DTYPE_F16, -1},     {33, 512, 96, ACT_SILU, DTYPE_F16, DTYPE_F16},
    {50, 100, 84, ACT_GELU_TANH, DTYPE_F16, 0}, {300, 64, 112, ACT_NONE, DTYPE_F16, DTYPE_BF16, 16, 64},
    {60, 97, 30, ACT_QUICK_GELU, DTYPE_F16, 0}, {40, 208, 600, ACT_GELU_TANH, DTYPE_F16, 0},
};

/* rows, k, n, gate, bias, padding of x rows */
static const int64_t add_cases[][CASE_NUMBERS] = {
    {1, 3, 2, 1, 1},        {5, 64, 65, 0, 1, 7},       {50, 70, 33, 1, 0},
    {113, 260, 300, 1, 1},  {640, 512, 512, 1, 1, 128}, {2800, 2560, 512, 1, 1},
    {2800, 512, 512, 1, 1},
};

static const int64_t narrow_add_cases[][CASE_NUMBERS] = {
    {33, 64, 64, 0, 1, 16}, {50, 80, 48, 1, 0}, {113, 272, 304, 1, 1, 16}, {60, 176, 64, 0, 1}, {60, 224, 64, 1, 1},
};

static struct tensor linear_add(struct side *s, const int64_t *d)
{
    struct tensor x = tensor_slice(side_inout(s, 1, 2, SHAPE(d[0], d[2] + d[5])), 1, d[5], d[2]);
    struct tensor h = side_input(s, 1, 2, SHAPE(d[0], d[1]));
    struct tensor w = side_weight(s, DTYPE_F32, 0.05, 2, SHAPE(d[2], d[1]));
    struct tensor b = d[4] ? side_weight(s, DTYPE_F32, 0.1, 1, SHAPE(d[2])) : TENSOR_NONE;
    struct tensor gate = d[3] ? side_input(s, 0.5, 1, SHAPE(d[2])) : TENSOR_NONE;
    op_linear_add(&s->run, x, h, w, b, gate);
    return x;
}

const struct check check_linear[] = {
    {"linear", linear, CHECK_BY(linear), CHECK_CASES(linear_cases), .n_bench = 12},
    {"linear_add", linear_add, CHECK_BY(linear_add), CHECK_CASES(add_cases), .n_bench = 2},
    {"linear_narrow", linear, CHECK_BY(linear), CHECK_CASES(narrow_cases), .n_bench = 1},
    {"linear_narrow", linear_add, CHECK_BY(linear_add), CHECK_CASES(narrow_add_cases)},
    {"linear_narrow", linear, CHECK_BY(linear), CHECK_CASES(large_cases), .normal_only = true},
    {"linear_f16", linear, CHECK_BY(linear), CHECK_CASES(f16_cases), .keeps_f16 = true},
    {0},
};
