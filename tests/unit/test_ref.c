/* The reference table against vectors from an independent implementation (make_ref_vectors.py) and, where an
 * op only moves elements, against small cases worked out by hand. Bound: a few roundings of f32 at the size
 * of the result. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "kernels/cpu/ref_random.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "ref_vectors.h"

static struct device *device;
static struct run run;

static int set_up(void **state)
{
    (void)state;
    struct err err = {0};
    return device_open(&device, "cpu_ref", NULL, &err) < 0 || run_init(&run, device, 0, &err) < 0;
}

static int tear_down(void **state)
{
    (void)state;
    run_done(&run);
    device_close(device);
    return 0;
}

static struct tensor in(const float *v, int n_dims, const int64_t *shape)
{
    return run_write(&run, v, DTYPE_F32, n_dims, shape);
}

#define IN(v, ...) in(v, (int)(sizeof SHAPE(__VA_ARGS__) / sizeof(int64_t)), SHAPE(__VA_ARGS__))
/* The same numbers as columns of a wider tensor. */
#define WIDE(v, ...) wide(v, (int)(sizeof SHAPE(__VA_ARGS__) / sizeof(int64_t)), SHAPE(__VA_ARGS__))

static struct tensor wide(const float *v, int n_dims, const int64_t *shape)
{
    int64_t more[TENSOR_MAX_DIMS];
    for (int i = 0; i < n_dims; i++)
        more[i] = shape[i] + (i == n_dims - 1 ? 3 : 1);
    struct tensor t = run_new(&run, DTYPE_F32, n_dims, more);
    op_fill(&run, t, NAN);
    for (int i = 0; i < n_dims; i++)
        t = tensor_slice(t, i, 1, shape[i]);
    op_copy_into(&run, t, in(v, n_dims, shape));
    return t;
}

static void near_bound(struct tensor t, const float *want, size_t n, double bound)
{
    if (run_failed(&run))
        fail_msg("%s", run.err.text);
    assert_int_equal(tensor_count(t), n);
    float *got = mem_alloc(n * sizeof *got);
    assert_int_equal(run_read(&run, t, got), 0);
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - (double)want[i]) <= bound * (1 + fabs((double)want[i]))))
            fail_msg("element %zu: %.9g, %.9g wanted", i, (double)got[i], (double)want[i]);
    }
    mem_free(got);
}

#define NEAR(t, want) near_bound(t, want, sizeof(want) / sizeof(float), 3e-7)
#define SAME(t, ...)                                                                                         \
    near_bound(t, (const float[]){__VA_ARGS__}, sizeof((const float[]){__VA_ARGS__}) / sizeof(float), 0)

static void test_linear(void **state)
{
    (void)state;
    static const float *const want[] = {lin_none,     lin_relu,  lin_silu,   lin_gelu_tanh,
                                        lin_gelu_erf, lin_quick, lin_sigmoid};
    struct tensor x = WIDE(lin_x, 5, 7), w = IN(lin_w, 3, 7), b = IN(lin_b, 3);
    for (int i = 0; i < ACT_COUNT; i++)
        near_bound(op_linear(&run, x, w, b, (enum act)i), want[i], 15, 3e-7);
    NEAR(op_linear(&run, x, op_copy(&run, w, DTYPE_BF16), b, ACT_NONE), lin_bf16);
    NEAR(op_linear(&run, x, op_copy(&run, w, DTYPE_F16), b, ACT_NONE), lin_f16);
    struct tensor acc = WIDE(lin_acc, 5, 3);
    op_linear_add(&run, acc, x, w, b, IN(lin_gate, 3));
    NEAR(acc, lin_add);
    struct tensor zero = WIDE(lin_acc, 5, 3);
    op_fill(&run, zero, 0);
    op_linear_add(&run, zero, x, w, b, TENSOR_NONE);
    NEAR(zero, lin_none);
    op_linear_into(&run, acc, x, w, b, ACT_SILU);
    NEAR(acc, lin_silu);
}

static void test_linear_fp8(void **state)
{
    (void)state;
    float scale = 0.5f;
    struct tensor w = run_write(&run, (uint8_t[]){0x38, 0xc0, 0x30, 0x7e}, DTYPE_F8E4M3, 2, SHAPE(2, 2));
    w.scale = &scale;
    SAME(op_linear(&run, IN(((float[]){3, 4}), 1, 2), w, TENSOR_NONE, ACT_NONE), 1.5f - 4, 0.75f + 4 * 224);
    SAME(op_linear(&run, IN(((float[]){3, 4}), 2), w, IN(((float[]){1, 2}), 2), ACT_NONE), 1.5f - 3,
         2.75f + 4 * 224);
}

static void test_norms(void **state)
{
    (void)state;
    struct tensor x = WIDE(lin_x, 5, 7), w = IN(norm_w, 7), b = IN(norm_b, 7);
    NEAR(op_layer_norm(&run, x, w, b, 1e-5f), norm_layer);
    NEAR(op_layer_norm_mod(&run, x, IN(norm_shift, 7), w, 1e-6f), norm_mod);
    NEAR(op_rms_norm(&run, x, w, 1e-6f), norm_rms);
    struct tensor g = WIDE(grp_x, 2, 3, 2, 6), gw = IN(grp_w, 6), gb = IN(grp_b, 6);
    NEAR(op_group_norm(&run, g, gw, gb, 3, 1e-6f, ACT_SILU), grp_y);
    struct tensor stats = run_new(&run, DTYPE_F32, 3, SHAPE(2, 3, 3)), y = run_new(&run, DTYPE_F32, 4, SHAPE(2, 3, 2, 8));
    for (int i = 0; i < 2; i++)
        op_copy_into(&run, tensor_at(stats, 0, i), op_group_stats(&run, tensor_slice(g, 0, i, 1), 3));
    y = tensor_slice(y, 3, 1, 6);
    op_group_apply(&run, y, g, op_group_stats(&run, g, 3), gw, gb, 1e-6f, ACT_SILU);
    NEAR(y, grp_y);
    op_group_apply(&run, g, g, stats, gw, gb, 1e-6f, ACT_SILU);
    NEAR(g, grp_y);
    const float eight[8] = {1, 3, 8, 8, 5, 7, 8, 8}; /* 1, 3, 5, 7 and 8, 8, 8, 8 */
    SAME(op_group_stats(&run, IN(eight, 1, 1, 2, 4), 2), 2, 4, 5, 2, 8, 0);
    g = WIDE(grp_x, 2, 3, 2, 6);
    NEAR(op_batch_norm(&run, g, gw, gb, IN(grp_mean, 6), IN(grp_var, 6), 1e-3f, ACT_RELU), bat_y);
}

static void test_attention(void **state)
{
    (void)state;
    static const uint8_t seen[24] = {1, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0};
    struct tensor q = WIDE(att_q, 2, 4, 4, 6), k = WIDE(att_k, 2, 6, 2, 6), v = WIDE(att_v, 2, 6, 2, 6);
    struct tensor mask = run_write(&run, seen, DTYPE_U8, 2, SHAPE(4, 6));
    NEAR(op_attention(&run, q, k, v, (struct attn){.kind = ATTN_FULL, .scale = 0.4f}), att_full);
    NEAR(op_attention(&run, q, k, v, (struct attn){.kind = ATTN_CAUSAL, .scale = 0.4f}), att_causal);
    NEAR(op_attention(&run, q, k, v, (struct attn){.kind = ATTN_MASK, .scale = 0.4f, .mask = mask}),
         att_mask);
    NEAR(op_attention(&run, k, k, v, (struct attn){.kind = ATTN_BLOCK_CAUSAL, .scale = 0.4f, .block = 4}),
         att_block);
}

static void test_rope(void **state)
{
    (void)state;
    struct tensor c, s, x = WIDE(rope_x, 14, 2, 8);
    op_rope_table(&run, 2, 2, 3, (int[]){2, 4, 2}, 256, -1, &c, &s);
    NEAR(c, rope_cos);
    NEAR(s, rope_sin);
    op_norm_rope(&run, x, IN(rope_w, 8), 1e-6f, c, s);
    NEAR(x, rope_y);
    int32_t pos[14];
    for (int i = 0; i < 14; i++)
        pos[i] = 3 * i;
    x = WIDE(rope_x, 14, 2, 8);
    op_rope_halves(&run, x, run_write(&run, pos, DTYPE_I32, 1, SHAPE(14)), 10000);
    near_bound(x, halves_y, 14 * 16, 39 * 0x1p-23); /* angles up to 39, rounded to f32 */
}

static void test_conv(void **state)
{
    (void)state;
    struct tensor x = WIDE(conv_x, 3, 5, 4, 4);
    struct conv causal = {{2, 2, 2}, {2, 1, 1}, {0, 1, 1}, true, 0, ACT_SILU};
    struct conv zero = {{1, 2, 1}, {0, 1, 1}, {0, 1, 0}, false, 2, ACT_SILU};
    struct conv depth = {{0, 1, 2}, {0, 1, 1}, {0, 1, 1}, false, 4, ACT_SILU}, one = {.act = ACT_SILU};
    NEAR(op_conv(&run, x, IN(conv_causal_w, 3, 4, 3, 3, 3), IN(conv_causal_b, 3), &causal), conv_causal_y);
    struct conv behind = causal; /* the second of two frames, without padding */
    struct tensor whole = op_conv(&run, x, IN(conv_causal_w, 3, 4, 3, 3, 3), IN(conv_causal_b, 3), &causal);
    behind.pad_before[0] = 0;
    op_fill(&run, tensor_slice(whole, 0, 1, 1), 0);
    op_conv_into(&run, tensor_slice(whole, 0, 1, 1), x, IN(conv_causal_w, 3, 4, 3, 3, 3), IN(conv_causal_b, 3), &behind);
    NEAR(whole, conv_causal_y);
    NEAR(op_conv(&run, x, IN(conv_zero_w, 2, 2, 1, 3, 2), IN(conv_zero_b, 2), &zero), conv_zero_y);
    NEAR(op_conv(&run, x, IN(conv_depth_w, 4, 1, 1, 3, 3), IN(conv_depth_b, 4), &depth), conv_depth_y);
    NEAR(op_conv(&run, x, IN(conv_one_w, 5, 4, 1, 1, 1), IN(conv_one_b, 5), &one), conv_one_y);
}

static void test_pictures(void **state)
{
    (void)state;
    struct tensor x = WIDE(pool_x, 2, 6, 7, 3);
    NEAR(op_max_pool(&run, x, 3, 2, 1, false), pool_floor);
    NEAR(op_max_pool(&run, x, 3, 2, 0, true), pool_ceil);
    NEAR(op_max_pool(&run, x, 2, 2, 0, true), pool_ceil2);
    NEAR(op_max_pool(&run, x, 2, 2, 1, true), pool_ceil3);
    NEAR(op_mask_down(&run, WIDE(mask_x, 16, 16)), mask_y);
    struct tensor up = IN(((float[]){1, 2, 3}), 3, 1, 1, 1);
    SAME(op_upsample(&run, up, 2, 1, 2, true), 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    SAME(op_upsample(&run, up, 2, 1, 1, false), 1, 1, 2, 2, 3, 3);
    SAME(op_upsample(&run, IN(((float[]){1, 2}), 1, 2, 1, 1), 1, 2, 1, true), 1, 1, 2, 2);
    struct tensor u8 = run_write(&run, (uint8_t[]){0, 255, 128, 64}, DTYPE_U8, 2, SHAPE(2, 2));
    SAME(op_normalize(&run, u8, 128, (float[]){0.5f, 1}, (float[]){0.5f, 0.25f}), -1, 3.96875f, 1, -2);
    struct tensor bytes = op_to_u8(&run, IN(((float[]){-3, -1, 0, 0.999f, 1, 7, NAN, -0.99f}), 8));
    assert_int_equal(bytes.dtype, DTYPE_U8);
    SAME(op_copy(&run, bytes, DTYPE_F32), 0, 0, 127, 254, 255, 255, 0, 1);
}

/* The colour bars of the standard, NaN, and a colour edge inside a 2 x 2: each chroma sample is the mean of its own four. */
static void test_yuv(void **state)
{
    (void)state;
    enum { BARS = 8, W = 2 * BARS };
    static const float rgb[BARS][3] = {{1, 1, 1},   {1, 1, -1},  {-1, 1, 1},  {-1, 1, -1},
                                       {1, -1, 1}, {1, -1, -1}, {-1, -1, 1}, {-1, NAN, -7}};
    static const uint8_t want[3][BARS] = {{235, 219, 188, 173, 78, 63, 32, 16},
                                          {128, 16, 154, 42, 214, 102, 240, 128},
                                          {128, 138, 16, 26, 230, 240, 118, 128}};
    float x[4][W][3];
    uint8_t got[6][W];
    for (int i = 0; i < 4 * W; i++)
        memcpy(x[i / W][i % W], i / W < 2 ? rgb[i % W / 2] : rgb[i / W == 2 && i % W == 2 ? 5 : 7], sizeof x[0][0]);
    struct tensor y = op_to_yuv420(&run, run_write(&run, x, DTYPE_F32, 4, SHAPE(1, 4, W, 3)));
    assert_int_equal(run_read(&run, y, got), 0);
    for (int i = 0; i < W; i++) {
        assert_int_equal(got[0][i], want[0][i / 2]);
        assert_int_equal(got[1][i], want[0][i / 2]);
        assert_int_equal(got[2][i], i == 2 ? 63 : 16);
        assert_int_equal(got[3][i], 16);
    }
    for (int i = 0; i < BARS; i++) { /* U: rows 4 (two rows of 8), V: 5 */
        assert_int_equal(got[4][i], want[1][i]);
        assert_int_equal(got[5][i], want[2][i]);
        assert_int_equal(got[4][BARS + i], i == 1 ? 128 - 26 / 4 : 128); /* a quarter of red */
        assert_int_equal(got[5][BARS + i], i == 1 ? 128 + 112 / 4 : 128);
    }
}

/* Rounded once: never further than half a step, and a hundredth for the coefficients, from the formula in double. */
static void test_yuv_formula(void **state)
{
    (void)state;
    enum { N = 64 };
    struct tensor x = op_randn(&run, 5, 0, 4, SHAPE(1, N, N, 3));
    uint8_t y[N * N * 3 / 2];
    op_scale(&run, x, 0.6f, 0);
    assert_int_equal(run_read(&run, op_to_yuv420(&run, x), y), 0);
    for (int i = 0; i < N * N / 4; i++) {
        double sum[3] = {0};
        for (int k = 0; k < 4; k++) {
            int at = (i / (N / 2) * 2 + k / 2) * N + i % (N / 2) * 2 + k % 2;
            const float *p = (const float *)x.data + 3 * at;
            double c[3];
            for (int e = 0; e < 3; e++)
                sum[e] += (c[e] = fmin(fmax((double)p[e] / 2 + 0.5, 0), 1)) / 4;
            assert_true(fabs(16 + 219 * (0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]) - y[at]) < 0.51);
        }
        double luma = 0.2126 * sum[0] + 0.7152 * sum[1] + 0.0722 * sum[2];
        assert_true(fabs(128 + 224 * (sum[2] - luma) / 1.8556 - y[N * N + i]) < 0.51);
        assert_true(fabs(128 + 224 * (sum[0] - luma) / 1.5748 - y[N * N * 5 / 4 + i]) < 0.51);
    }
    op_to_yuv420(&run, tensor_slice(x, 1, 0, 63));
    assert_int_equal(run.err.code, ERR_SHAPE);
    assert_non_null(strstr(run.err.text, "even"));
}

static void test_elements(void **state)
{
    (void)state;
    float v[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    struct tensor x = WIDE(v, 2, 3, 2), y = IN(v, 3, 2);
    op_add(&run, x, y);
    SAME(x, 2, 4, 6, 8, 10, 12, 8, 10, 12, 14, 16, 18);
    op_add_masked(&run, x, IN(v, 2, 3, 2), IN(((float[]){0, 1, -2}), 3));
    SAME(x, 2, 4, 9, 12, 0, 0, 8, 10, 21, 24, -6, -6);
    op_scale(&run, x, 0.5f, 1);
    SAME(x, 2, 3, 5.5f, 7, 1, 1, 5, 6, 11.5f, 13, -2, -2);
    struct tensor z = WIDE(v, 3, 2);
    op_add_gated(&run, z, y, IN(((float[]){1, -1}), 2));
    SAME(z, 2, 0, 6, 0, 10, 0);
    op_act_mul(&run, z, y, ACT_RELU);
    SAME(z, 2, 0, 18, 0, 50, 0);
    struct tensor n = IN(((float[]){1.00390625f, 1.01171875f, 3.0009765625f}), 3);
    op_round(&run, n, DTYPE_BF16);
    SAME(n, 1, 1.015625f, 3);
    NEAR(op_timestep(&run, (float[]){0, 999.5f, 123.456f}, 3, 8), time_y);
    SAME(op_mean_rows(&run, WIDE(v, 3, 4), IN(((float[]){1, 0, 1}), 3)), 5, 6, 7, 8);
    NEAR(op_gauss(&run, IN(gauss_mean, 6), IN(gauss_logvar, 6), IN(gauss_noise, 6), 0.476986f), gauss_y);
    struct tensor e = IN(((float[]){1, 2}), 2);
    op_euler(&run, e, IN(((float[]){1, 4}), 2), IN(((float[]){3, 2}), 2), 3, -0.5f);
    SAME(e, 1 - 3.5f, 2 + 1);
    op_euler(&run, e, IN(((float[]){1, 4}), 2), TENSOR_NONE, 3, -0.5f);
    SAME(e, -3, 1);
}

static void test_moving(void **state)
{
    (void)state;
    float v[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    struct tensor x = IN(v, 2, 3, 2), idx = run_write(&run, (int32_t[]){2, 0, 2}, DTYPE_I32, 1, SHAPE(3));
    SAME(op_gather(&run, x, 1, idx), 4, 5, 0, 1, 4, 5, 10, 11, 6, 7, 10, 11);
    SAME(op_gather(&run, op_copy(&run, tensor_view(x, 2, SHAPE(6, 2)), DTYPE_BF16), 0, idx), 4, 5, 0, 1, 4,
         5);
    struct tensor sum = WIDE(v, 2, 3, 2);
    op_scatter_add(&run, sum, 1, idx, x);
    SAME(sum, 2, 4, 2, 3, 4 + 0 + 4, 5 + 1 + 5, 14, 16, 8, 9, 10 + 6 + 10, 11 + 7 + 11);
    struct tensor list[] = {x, tensor_slice(x, 1, 1, 1), x};
    SAME(op_concat(&run, list, 2, 1), 0, 1, 2, 3, 4, 5, 2, 3, 6, 7, 8, 9, 10, 11, 8, 9);
    SAME(op_copy(&run, tensor_permute(x, (int[]){2, 0, 1}), DTYPE_F32), 0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11);
    struct tensor big = run_write(&run, (int64_t[]){(1LL << 24) + 1, -5}, DTYPE_I64, 1, SHAPE(2)), i32;
    i32 = op_copy(&run, big, DTYPE_I32);
    assert_int_equal(((int32_t *)i32.data)[0], (1 << 24) + 1);
    assert_int_equal(((int32_t *)i32.data)[1], -5);

    struct tensor tokens = op_patchify(&run, IN(v, 1, 1, 2, 6));
    assert_int_equal(tokens.shape[0], 3);
    SAME(tokens, 0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11);
    SAME(op_unpatchify(&run, tokens, 1, 2, 6), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
    struct tensor two = op_patchify(&run, op_randn(&run, 1, 0, 4, SHAPE(3, 2, 4, 6)));
    struct tensor back = op_unpatchify(&run, two, 2, 4, 6);
    near_bound(back, op_randn(&run, 1, 0, 4, SHAPE(3, 2, 4, 6)).data, 144, 0);

    struct tensor a = IN(v, 3, 4), b = IN(((float[]){100, 100, 100, 100, 200, 200, 200, 200}), 2, 4);
    op_blend(&run, b, a, 0, 2);
    SAME(b, 4, 5, 6, 7, 104, 104.5f, 105, 105.5f);
    b = IN(((float[]){100, 200, 300, 100, 200, 300, 100, 200, 300}), 3, 3);
    op_blend(&run, b, a, 1, 2);
    SAME(b, 2, 101.5f, 300, 6, 103.5f, 300, 10, 105.5f, 300);
}

static void test_bad_index(void **state)
{
    (void)state;
    struct tensor x = IN(lin_x, 5, 7), idx = run_write(&run, (int32_t[]){4, 5}, DTYPE_I32, 1, SHAPE(2));
    op_gather(&run, x, 0, idx);
    assert_int_equal(run.err.code, ERR_SHAPE);
    assert_non_null(strstr(run.err.text, "index 5"));
    run_reset(&run);
    idx = run_write(&run, (int32_t[]){-1}, DTYPE_I32, 1, SHAPE(1));
    x = IN(lin_x, 5, 7);
    op_scatter_add(&run, x, 0, idx, IN(lin_x, 1, 7));
    assert_int_equal(run.err.code, ERR_SHAPE);
}

/* Known answers published with Random123. */
static void test_philox(void **state)
{
    (void)state;
    uint32_t got[4];
    cpu_ref_philox((uint32_t[4]){0}, (uint32_t[2]){0}, got);
    assert_memory_equal(got, ((uint32_t[]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}), sizeof got);
    cpu_ref_philox((uint32_t[4]){~0u, ~0u, ~0u, ~0u}, (uint32_t[2]){~0u, ~0u}, got);
    assert_memory_equal(got, ((uint32_t[]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}), sizeof got);
    cpu_ref_philox((uint32_t[4]){0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                   (uint32_t[2]){0xa4093822, 0x299f31d0}, got);
    assert_memory_equal(got, ((uint32_t[]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}), sizeof got);
}

static void test_randn(void **state)
{
    (void)state;
    enum { N = 200001 };
    struct tensor a = op_randn(&run, 42, 3, 1, SHAPE(N)), b = op_randn(&run, 42, 4, 1, SHAPE(N));
    const float *p = a.data, *q = b.data;
    double sum = 0, square = 0, fourth = 0, both = 0;
    for (int i = 0; i < N; i++) {
        double v = (double)p[i];
        sum += v;
        square += v * v;
        fourth += v * v * v * v;
        both += v * (double)q[i];
    }
    /* Five standard deviations of each estimate: 1, sqrt 2, sqrt 96 and 1 over sqrt N. */
    assert_true(fabs(sum / N) < 5 / sqrt(N));
    assert_true(fabs(square / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(fourth / N - 3) < 5 * sqrt(96.0 / N));
    assert_true(fabs(both / N) < 5 / sqrt(N));
    /* An element does not depend on the tensor it stands in. */
    near_bound(op_randn(&run, 42, 3, 2, SHAPE(3, 7)), p, 21, 0);
    /* The first block of seed 0, stream 0 comes from the known answer above. */
    double radius = sqrt(-2 * log((0x6627e8d5 + 0.5) / 4294967296.0)),
           angle = 2 * M_PI * (0xe169c58d + 0.5) / 4294967296.0;
    float first[2] = {(float)(radius * cos(angle)), (float)(radius * sin(angle))};
    near_bound(op_randn(&run, 0, 0, 1, SHAPE(2)), first, 2, 1e-7);
}

static void test_sound(void **state)
{
    (void)state;
    near_bound(op_log_mel(&run, IN(mel_wave, 480), IN(mel_filters, 2, 201)), mel_y, 6, 1e-6);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_linear), T(test_linear_fp8), T(test_norms),    T(test_attention), T(test_rope),
        T(test_conv),   T(test_pictures),   T(test_yuv),    T(test_yuv_formula), T(test_elements), T(test_moving),    T(test_bad_index),
        T(test_philox), T(test_randn),      T(test_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
