#include "tests/checkop/checkop.h"

/* T, H, W, Ci, Co, kernel (t, then y and x alike), stride (y and x), padding,
 * groups, act, 1 replicate | 2 view of a wider tensor | 4 bf16 | 8 no bias */
static const int64_t conv_cases[][CASE_NUMBERS] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 0, 1},
    {1, 8, 8, 3, 5, 1, 3, 1, 1, 1},
    {3, 7, 5, 16, 7, 3, 3, 1, 1, 1, ACT_SILU, 1},
    {2, 9, 11, 8, 16, 1, 3, 2, 1, 1, ACT_RELU, 2},
    {4, 6, 6, 5, 3, 3, 3, 1, 1, 1, ACT_NONE, 1 | 4 | 8},
    {3, 9, 7, 40, 3, 3, 3, 1, 1, 1, ACT_NONE, 1},
    {1, 5, 6, 130, 1, 1, 3, 2, 1, 1, ACT_RELU, 2 | 4},
    {5, 8, 8, 16, 16, 3, 3, 2, 1, 1, ACT_NONE, 1},
    {1, 12, 12, 24, 24, 1, 3, 1, 1, 24, ACT_SILU},
    {1, 13, 13, 32, 16, 1, 5, 1, 2, 4, ACT_QUICK_GELU, 2},
    {1, 1, 50, 12, 20, 1, -3, 1, 1, 1, ACT_GELU_ERF, 4},
    {1, 28, 28, 3, 33, 1, 14, 14, 0, 1, ACT_NONE, 8},
    {2, 9, 9, 17, 19, 1, 1, 1, 0, 1, ACT_GELU_TANH, 2},
    {1, 9, 9, 17, 19, 1, 1, 2, 0, 1, ACT_SIGMOID},
    {3, 20, 20, 32, 32, 3, 3, 1, 1, 1, ACT_NONE, 1},
    {2, 16, 16, 128, 128, 3, 3, 1, 1, 1, ACT_NONE, 1},
    {5, 16, 16, 128, 128, 3, 3, 1, 1, 1, ACT_NONE, 1},
    {9, 32, 32, 128, 128, 3, 3, 1, 1, 1, ACT_NONE, 1},
    {17, 64, 64, 64, 64, 3, 3, 1, 1, 1, ACT_NONE, 1},
    {17, 128, 128, 32, 32, 3, 3, 1, 1, 1, ACT_NONE, 1},
    {17, 128, 128, 32, 3, 3, 3, 1, 1, 1, ACT_NONE, 1},
    {17, 128, 128, 64, 32, 1, 1, 1, 0, 1},
    {1, 320, 320, 3, 32, 1, 6, 2, 2, 1, ACT_SILU},
    {1, 80, 80, 64, 64, 1, 3, 1, 1, 64, ACT_SILU},
    {1, 80, 80, 48, 48, 1, 3, 1, 1, 1, ACT_SILU},
    {1, 1, 3000, 80, 384, 1, -3, 1, 1, 1, ACT_GELU_ERF},
};

static struct tensor conv(struct side *s, const int64_t *d)
{
    bool flat = d[6] < 0; /* one row, one-dimensional kernel */
    int k = (int)(flat ? -d[6] : d[6]), wide = d[11] & 2 ? 3 : 0, pad = (int)d[8], stride = (int)d[7];
    int kt = (int)d[5], stride_t = d[1] == 8 && kt == 3 && stride == 2 ? 2 : 1;
    struct conv c = {.stride = {stride_t, flat ? 1 : stride, stride},
                     .replicate = d[11] & 1,
                     .groups = (int)d[9],
                     .act = side_act(s, d[10])};
    struct tensor x = side_input(s, 1, 4, SHAPE(d[0], d[1], d[2], d[3] + wide));
    struct tensor w = side_weight(s, d[11] & 4 ? DTYPE_BF16 : DTYPE_F32, 0.1, 5,
                                  SHAPE(d[4], d[3] / d[9], kt, flat ? 1 : k, k));
    struct tensor b = d[11] & 8 ? TENSOR_NONE : side_weight(s, DTYPE_F32, 0.1, 1, SHAPE(d[4]));
    c.pad_before[0] = kt > 1 ? 2 : 0; /* causal */
    c.pad_before[1] = c.pad_after[1] = flat ? 0 : pad;
    c.pad_before[2] = c.pad_after[2] = pad;
    if (stride == 2 && kt == 3)
        c.pad_before[2] = c.pad_before[1] = 0; /* the VAE's way down */
    return op_conv(&s->run, tensor_slice(x, 3, wide, d[3]), w, b, &c);
}

const struct check check_conv[] = {
    {"conv", conv, CHECK_BY(conv), CHECK_CASES(conv_cases), .n_bench = 10},
    {0},
};
