#include "tests/checkop/checkop.h"

/* batch, queries, keys, heads, key heads, head width, kind, block, packed qkv in one tensor */
static const int64_t attention_cases[][CASE_NUMBERS] = {
    {1, 1, 1, 1, 1, 1},
    {1, 2, 3, 1, 1, 5},
    {2, 33, 16, 2, 2, 64},
    {9, 16, 16, 1, 1, 100},
    {1, 111, 255, 2, 1, 32},
    {1, 113, 257, 3, 3, 40, ATTN_MASK},
    {1, 225, 225, 4, 2, 64, ATTN_CAUSAL},
    {1, 100, 300, 2, 2, 48, ATTN_CAUSAL},
    {1, 260, 260, 1, 1, 32, ATTN_BLOCK_CAUSAL, 52},
    {1, 300, 300, 1, 1, 257, ATTN_BLOCK_CAUSAL, 100},
    {1, 97, 530, 2, 2, 128, 0, 0, 0},
    {1, 180, 180, 4, 4, 32, 0, 0, 1},
    {3, 64, 16, 1, 1, 1024},
    {1, 60, 70, 1, 1, 1000, ATTN_MASK},
    {1, 1150, 1150, 4, 4, 32, 0, 0, 1},
    {1, 2816, 2816, 8, 8, 64, 0, 0, 1},
    {34, 64, 16, 1, 1, 256},
    {1, 1500, 1500, 6, 6, 64},
    {1, 930, 930, 8, 2, 64, ATTN_CAUSAL},
    {1, 4096, 4096, 1, 1, 128, ATTN_BLOCK_CAUSAL, 256},
    {1, 2816, 2816, 4, 4, 128},
};

static struct tensor attention(struct side *s, const int64_t *d)
{
    struct attn a = {
        .kind = (enum attn_kind)d[6], .block = d[7], .scale = 1.0f / __builtin_sqrtf((float)d[5])};
    struct tensor q, k, v;
    bool absolute = s->absolute;
    s->absolute = false; /* only v: the weights are what they are */
    if (d[8]) {
        q = side_input(s, 1, 4, SHAPE(d[0], d[1], 2 * d[3], d[5]));
        k = tensor_slice(q, 2, d[3], d[3]);
        q = tensor_slice(q, 2, 0, d[3]);
    } else {
        q = side_input(s, 1, 4, SHAPE(d[0], d[1], d[3], d[5]));
        k = side_input(s, 1, 4, SHAPE(d[0], d[2], d[4], d[5]));
    }
    s->absolute = absolute;
    v = side_input(s, 1, 4, SHAPE(d[0], d[2], d[4], d[5]));
    if (a.kind == ATTN_MASK)
        a.mask = side_bytes(s, true, 2, SHAPE(d[1], d[2]));
    return op_attention(&s->run, q, k, v, a);
}

/* Mixed magnitudes give scores for which there is no useful bound. */
const struct check check_attention[] = {
    {"attention", attention, CHECK_BY(attention), CHECK_CASES(attention_cases), .n_bench = 7, .normal_only = true},
    {0},
};
