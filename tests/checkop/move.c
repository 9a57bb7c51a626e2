#include "tests/checkop/checkop.h"

/* four sizes, permutation as digits, from and to dtype, padding of the last */
static const int64_t copy_cases[][CASE_NUMBERS] = {
    {1, 1, 1, 1, 123},
    {2, 3, 5, 7, 123},
    {2, 3, 5, 7, 3210},
    {4, 1, 33, 17, 1032},
    {3, 18, 20, 35, 231, 0, 0, 5},
    {2, 7, 40, 64, 213},
    {5, 6, 7, 64, 123, 0, 2, 3},
    {5, 6, 7, 64, 123, 2, 0},
    {3, 4, 300, 3, 123, 3, 0, 1},
    {3, 4, 30, 3, 123, 0, 3},
    {3, 5, 7, 64, 123, 0, 2, 4}, /* by fours, strided, and almost */
    {3, 5, 7, 12, 213, 3, 0, 8},
    {3, 5, 7, 12, 213, 0, 3, 4},
    {3, 5, 7, 8, 213, 0, 0, 4},
    {3, 5, 7, 8, 213, 0, 0, 2},
    {3, 5, 7, 8, 213, 2, 0, 3},
    {16, 5, 18, 18, 1230},
    {5, 18, 18, 16, 3012},
    {17, 128, 128, 32, 123},
    {17, 128, 128, 3, 3012},
    {3, 17, 128, 128, 1230},
    {1, 2816, 8, 64, 213, 0, 0, 512},
};

static struct tensor copy(struct side *s, const int64_t *d)
{
    int perm[4] = {(int)(d[4] / 1000), (int)(d[4] / 100 % 10), (int)(d[4] / 10 % 10), (int)(d[4] % 10)};
    struct tensor x = side_input(s, 1, 4, SHAPE(d[0], d[1], d[2], d[3] + d[7]));
    if (d[5] != DTYPE_F32)
        x = side_weight(s, (enum dtype)d[5], 1, 4, SHAPE(d[0], d[1], d[2], d[3] + d[7]));
    return op_copy(&s->run, tensor_permute(tensor_slice(x, 3, d[7], d[3]), perm), (enum dtype)d[6]);
}

/* rows, columns, picked, dim, dtype */
static const int64_t gather_cases[][CASE_NUMBERS] = {
    {1, 1, 1, 0},       {10, 33, 20, 0, DTYPE_BF16}, {10, 33, 20, 1}, {7, 500, 3, 0, DTYPE_F16},
    {1000, 64, 700, 0}, {32000, 512, 930, 0, 2},
};

static struct tensor gather(struct side *s, const int64_t *d)
{
    struct tensor x = side_weight(s, (enum dtype)d[4], 1, 2, SHAPE(d[0], d[1]));
    return op_gather(&s->run, x, (int)d[3], side_indices(s, d[2], d[3] ? d[1] : d[0]));
}

static struct tensor scatter_add(struct side *s, const int64_t *d)
{
    struct tensor x = side_inout(s, 1, 2, SHAPE(d[0], d[1])), idx = side_indices(s, d[2], d[3] ? d[1] : d[0]);
    op_scatter_add(&s->run, x, (int)d[3], idx,
                   side_input(s, 1, 2, SHAPE(d[3] ? d[0] : d[2], d[3] ? d[2] : d[1])));
    return x;
}

/* C, T, h, w */
static const int64_t patch_cases[][CASE_NUMBERS] = {
    {1, 1, 2, 2}, {3, 2, 4, 6}, {16, 9, 12, 10}, {16, 34, 16, 16}};

static struct tensor patchify(struct side *s, const int64_t *d)
{
    return op_patchify(&s->run, side_input(s, 1, 4, d));
}

static struct tensor unpatchify(struct side *s, const int64_t *d)
{
    return op_unpatchify(&s->run, side_input(s, 1, 2, SHAPE(d[1] * d[2] * d[3] / 4, d[0] * 4)), d[1], d[2],
                         d[3]);
}

/* T, H, W, C, then: factors, first once; window, stride, padding, ceil */
static const int64_t up_cases[][CASE_NUMBERS] = {
    {1, 1, 1, 1, 2, 2, 2}, {3, 5, 4, 7, 2, 2, 2, 1}, {2, 4, 6, 32, 1, 2, 2}, {9, 64, 64, 64, 2, 2, 2, 1}};
static const int64_t pool_cases[][CASE_NUMBERS] = {
    {1, 5, 5, 3, 5, 1, 2}, {2, 13, 9, 17, 2, 2, 0, 1}, {1, 20, 20, 64, 5, 1, 2}, {1, 20, 20, 256, 5, 1, 2}};

static struct tensor upsample(struct side *s, const int64_t *d)
{
    return op_upsample(&s->run, side_input(s, 1, 4, d), (int)d[4], (int)d[5], (int)d[6], d[7] != 0);
}

static struct tensor max_pool(struct side *s, const int64_t *d)
{
    return op_max_pool(&s->run, side_input(s, 1, 4, d), (int)d[4], (int)d[5], (int)d[6], d[7] != 0);
}

const struct check check_move[] = {
    {"copy", copy, CHECK_BY(copy), CHECK_CASES(copy_cases), .n_bench = 4},
    {"gather", gather, CHECK_BY(gather), CHECK_CASES(gather_cases), .n_bench = 1},
    {"scatter_add", scatter_add, CHECK_BY(scatter_add), CHECK_CASES(gather_cases), .n_bench = 1},
    {"patchify", patchify, CHECK_BY(patchify), CHECK_CASES(patch_cases), .n_bench = 1},
    {"unpatchify", unpatchify, CHECK_BY(unpatchify), CHECK_CASES(patch_cases), .n_bench = 1},
    {"upsample", upsample, CHECK_BY(upsample), CHECK_CASES(up_cases), .n_bench = 1},
    {"max_pool", max_pool, CHECK_BY(max_pool), CHECK_CASES(pool_cases), .n_bench = 1},
    {0},
};
