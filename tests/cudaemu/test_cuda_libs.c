/* test_cuda_libs.c -- what kernels/cuda/lib_*.c hands to the libraries, against emulations of their contracts (libs/) and
 * cpu_ref: layouts, strides, pieces, heads, boxes with padding, epilogues, the way back to the own kernels. Inputs lie on
 * the grids of bf16 and e4m3 (whose scales are powers of two) and sums stay exact, so that what is left is one rounding of
 * the result to 16 bits, and of the weights of keys to e4m3.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/run.h"

#define MAX (1 << 20)

struct side {
    struct device *device;
    struct run run;
    float *out;
};

static int passed, failed;
static uint32_t random_now;

static struct tensor input(struct side *s, uint32_t seed, int n_dims, const int64_t *shape)
{
    static float host[MAX];
    struct tensor t = tensor_of(NULL, DTYPE_F32, n_dims, shape);
    random_now = seed;
    for (int64_t i = 0; i < tensor_count(t); i++) {
        random_now = random_now * 1664525u + 1013904223u;
        host[i] = (float)((int)(random_now >> 24) % 9 - 4) / 4;
    }
    return run_write(&s->run, host, DTYPE_F32, n_dims, shape);
}

/* Keys whose second half mirrors the first around `middle`: that is their mean. */
static struct tensor mirrored(struct side *s, uint32_t seed, const int64_t shape[4], float middle)
{
    static float host[MAX];
    int64_t half = shape[1] / 2 * shape[2] * shape[3];
    random_now = seed;
    for (int64_t i = 0; i < half; i++) {
        random_now = random_now * 1664525u + 1013904223u;
        float v = (float)((int)(random_now >> 24) % 9 - 4) / 4;
        host[i] = middle + v;
        host[half + i] = middle - v;
    }
    return run_write(&s->run, host, DTYPE_F32, 4, shape);
}

typedef struct tensor case_fn(struct side *s, const int *d);

/* T, H, W, Ci, Co, kernel t, kernel, stride t, stride, replicate (1) and f16 weights (2) */
static struct tensor conv(struct side *s, const int *d)
{
    struct conv c = {.stride = {d[7], d[8], d[8]},
                     .pad_before = {2, 1, 0},
                     .pad_after = {0, 1, 1},
                     .replicate = d[9] & 1,
                     .act = ACT_RELU};
    struct tensor x = input(s, 1, 4, SHAPE(d[0], d[1], d[2], d[3] + 3)),
                  w = input(s, 2, 5, SHAPE(d[4], d[3], d[5], d[6], d[6]));
    if (d[9] & 2)
        w = op_copy(&s->run, w, DTYPE_F16);
    return op_conv(&s->run, tensor_slice(x, 3, 2, d[3]), w, input(s, 3, 1, SHAPE(d[4])), &c);
}

/* batch, queries, keys, heads, key heads, width, block of block-causal, middle of mirrored keys (one batch) */
static struct tensor attention(struct side *s, const int *d)
{
    struct attn a = {.kind = d[6] ? ATTN_BLOCK_CAUSAL : ATTN_FULL, .scale = d[7] ? 0.5f : 0.125f, .block = d[6]};
    struct tensor q = input(s, 1, 4, SHAPE(d[0], d[1], d[3] + 2, d[5]));
    struct tensor k =
        d[7] ? mirrored(s, 2, SHAPE(1, d[2], d[4], d[5]), (float)d[7]) : input(s, 2, 4, SHAPE(d[0], d[2], d[4], d[5]));
    struct tensor v = input(s, 3, 4, SHAPE(d[0], d[2], d[4], d[5]));
    return op_attention(&s->run, tensor_slice(q, 2, 1, d[3]), k, v, a);
}

/* rows, k, n, gate, first element of the bias */
static struct tensor linear(struct side *s, const int *d)
{
    struct tensor x = tensor_slice(input(s, 1, 2, SHAPE(d[0], d[1] + 5)), 1, 5, d[1]), w = input(s, 2, 2, SHAPE(d[2], d[1]));
    struct tensor y = tensor_slice(input(s, 4, 2, SHAPE(d[0], d[2] + 7)), 1, 3, d[2]);
    struct tensor b = tensor_slice(input(s, 3, 1, SHAPE(d[2] + d[4])), 0, d[4], d[2]);
    if (d[3] == 0)
        op_linear_into(&s->run, y, x, w, b, ACT_SILU);
    else
        op_linear_add(&s->run, y, x, w, b, d[3] == 1 ? input(s, 5, 1, SHAPE(d[2])) : TENSOR_NONE);
    return y;
}

/* Of e4m3: weights p of keys are off by 2^-4 p and, where they are small, by 2^-18; values are 1 at most, keys 200. */
#define E4M3_BOUND (0x1p-4 + 200 * 0x1p-18 + 0x1p-8)

static const struct {
    const char *name;
    case_fn *fn;
    double bound, e4m3_bound; /* of |y| + 1: a convolution is rounded before its bias, which is at most 1. 0: not on sm_90 */
    int d[10];
} cases[] = {
    {"conv", conv, 0x1p-8, 0, {3, 7, 6, 8, 16, 3, 3, 1, 1, 1}},
    {"conv", conv, 0x1p-8, 0, {5, 9, 8, 16, 8, 3, 3, 2, 2, 0}},
    {"conv, only the type differs", conv, 0x1p-11, 0, {5, 9, 8, 16, 8, 3, 3, 2, 2, 2}},
    {"conv of f16", conv, 0x1p-11, 0x1p-11, {3, 7, 6, 8, 16, 3, 3, 1, 1, 3}},
    {"conv, only the stride differs", conv, 0x1p-8, 0, {5, 9, 8, 16, 8, 3, 3, 1, 1, 0}},
    {"conv, only the stride differs", conv, 0x1p-8, 0, {5, 9, 8, 16, 8, 3, 3, 2, 1, 0}},
    {"conv", conv, 0x1p-8, 0x1p-8, {1, 12, 11, 8, 8, 1, 5, 1, 1, 0}},
    {"conv, in boxes of rows", conv, 0x1p-8, 0, {1, 40, 60, 32, 8, 1, 3, 1, 1, 1}},
    {"conv of 7 channels", conv, 1e-6, 0, {2, 7, 6, 7, 16, 3, 3, 1, 1, 1}},
    {"attention", attention, 0x1p-8, E4M3_BOUND, {1, 33, 65, 2, 2, 64}},
    {"attention, grouped, in parts", attention, 0x1p-8, 0x1p-8, {2, 40, 50, 12, 6, 128}},
    {"attention, in parts", attention, 0x1p-8, E4M3_BOUND, {2, 40, 50, 12, 12, 128}},
    {"attention, keys with a mean", attention, 0x1p-8, E4M3_BOUND, {1, 40, 200, 3, 3, 64, 0, 10}},
    {"attention without an engine in e4m3", attention, 0x1p-8, 0x1p-8, {1, 33, 65, 2, 2, 48}},
    {"attention, one block", attention, 0x1p-8, E4M3_BOUND, {1, 40, 40, 2, 2, 64, 40}},
    {"attention, two blocks", attention, 0x1p-8, E4M3_BOUND, {1, 40, 40, 2, 2, 64, 20}},
    {"attention, blocks, the last one short", attention, 0x1p-8, E4M3_BOUND, {2, 50, 50, 2, 2, 64, 12}},
    {"attention, blocks, wide", attention, 1e-5, 1e-5, {1, 20, 20, 1, 1, 256, 10}},
    {"attention, wide", attention, 1e-5, 1e-5, {1, 20, 30, 1, 1, 256}},
    {"linear", linear, 1e-5, 1e-5, {50, 40, 70, 0}},
    {"linear", linear, 1e-5, 1e-5, {50, 48, 80, 0}},
    {"linear, only the place of the bias differs", linear, 1e-5, 1e-5, {50, 48, 80, 0, 4}},
    {"linear, gated, in pieces", linear, 1e-5, 0, {300, 64, 200, 1}},
    {"linear, gated, in pieces", linear, 1e-5, 1e-5, {300, 64, 208, 1}},
    {"linear, added, in pieces of weights", linear, 1e-5, 0, {150, 128, 700, 2}},
    {"linear, added, in pieces of weights", linear, 1e-5, 1e-5, {150, 128, 704, 2}},
    {"linear without an algorithm", linear, 1e-5, 0, {50, 97, 30, 1}},
    {"linear without an algorithm", linear, 1e-5, 0, {50, 97, 30, 2}},
    {"linear without an epilogue", linear, 1e-5, 1e-5, {50, 176, 32, 2}},
    {"linear without e4m3", linear, 1e-5, 1e-5, {50, 224, 32, 1}},
    {"linear, e4m3 refused at last", linear, 1e-5, 1e-5, {50, 272, 32, 2}},
    {"linear without scales of rows", linear, 1e-5, 1e-5, {50, 240, 32, 0}},
};

static int64_t compute(struct side *s, int i)
{
    run_reset(&s->run);
    struct tensor y = cases[i].fn(s, cases[i].d);
    int64_t n = tensor_count(y);
    return n <= MAX && run_read(&s->run, y, s->out) == 0 ? n : -1;
}

static void check(struct side *a, struct side *b, int i)
{
    bool e4m3 = a->device->precision == DEVICE_FP8;
    double bound = e4m3 ? cases[i].e4m3_bound : cases[i].bound;
    for (int again = 0; again < 2; again++) { /* the second time with what was kept */
        int64_t n = compute(a, i), m = compute(b, i);
        double worst = n > 0 && n == m ? 0 : INFINITY;
        for (int64_t k = 0; k < n && n == m; k++) {
            double off = fabs((double)a->out[k] - (double)b->out[k]) / (bound * (fabs((double)b->out[k]) + 1));
            worst = off >= 0 && off <= worst ? worst : isnan(off) ? INFINITY : off;
        }
        worst <= 1 ? passed++ : failed++;
        if (!(worst <= 1))
            printf("FAIL %s%s, case %d, time %d: %.3g of the bound; %s%s\n", cases[i].name, e4m3 ? " in fp8" : "", i, again,
                   worst, a->run.err.text, b->run.err.text);
    }
}

static bool side_open(struct side *s, const char *kind, enum device_precision precision)
{
    struct err err = {0};
    struct device_options o = {.n_threads = 1, .precision = precision};
    s->out = mem_alloc(MAX * sizeof *s->out);
    bool fine =
        s->out && device_open(&s->device, kind, &o, &err) == 0 && run_init(&s->run, s->device, (size_t)64 << 20, &err) == 0;
    if (!fine)
        printf("FAIL opening %s: %s\n", kind, err.text);
    failed += !fine;
    return fine;
}

static void side_close(struct side *s)
{
    if (s->device) {
        run_done(&s->run);
        device_close(s->device);
    }
    mem_free(s->out);
}

/* y = x w of 20 rows of 1.0625, which is 17/16: what each precision makes of that tells which one it was. */
static float seventeen(struct side *s, enum dtype dtype, float x)
{
    static const int64_t n_x[2] = {20, 16}, n_w[2] = {16, 16};
    static char bytes[16 * 16 * 2];
    static float rows[20 * 16];
    const float one = 1;
    float y[20 * 16] = {0};
    struct tensor w = tensor_of(bytes, dtype, 2, n_w);
    struct err err = {0};
    for (int i = 0; i < 16 * 16; i++)
        dtype_write_f32(bytes + (size_t)i * dtype_bytes(dtype), dtype, &one, 1);
    for (int i = 0; i < 20 * 16; i++)
        rows[i] = x;
    run_reset(&s->run);
    if (device_upload(s->device, w, &w, &err) < 0)
        return NAN;
    struct tensor r = op_linear(&s->run, run_write(&s->run, rows, DTYPE_F32, 2, n_x), w, TENSOR_NONE, ACT_NONE);
    int rc = run_read(&s->run, r, y);
    device_forget(s->device, bytes, sizeof bytes);
    return rc < 0 ? NAN : y[0];
}

static void tell(bool fine, const char *what)
{
    fine ? passed++ : failed++;
    if (!fine)
        printf("FAIL %s\n", what);
}

/* A convolution of f16 whose sums do not fit it. */
static float too_large(struct side *s)
{
    static const float x[8] = {60000, 60000, 60000, 60000, 60000, 60000, 60000, 1e6f};
    static const float w[64] = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
    const struct conv c = {0};
    float y[8] = {0};
    run_reset(&s->run);
    struct tensor kernels = op_copy(&s->run, run_write(&s->run, w, DTYPE_F32, 5, SHAPE(8, 8, 1, 1, 1)), DTYPE_F16);
    struct tensor r = op_conv(&s->run, run_write(&s->run, x, DTYPE_F32, 4, SHAPE(1, 1, 1, 8)), kernels, TENSOR_NONE, &c);
    return run_read(&s->run, r, y) < 0 || y[0] != -y[1] || y[2] != 0 ? NAN : y[0];
}

/* Values of 1 + 2^-10 under equal weights, which bf16 makes 1: whether the library had every one of three blocks. */
static bool by_blocks(struct side *s)
{
    static float v[24 * 16], y[24 * 16];
    static const float zeros[24 * 16];
    const struct attn a = {.kind = ATTN_BLOCK_CAUSAL, .scale = 1, .block = 8};
    const int64_t shape[4] = {1, 24, 1, 16};
    for (int i = 0; i < 24 * 16; i++)
        v[i] = 1 + 0x1p-10f;
    run_reset(&s->run);
    struct tensor q = run_write(&s->run, zeros, DTYPE_F32, 4, shape), k = run_write(&s->run, zeros, DTYPE_F32, 4, shape);
    struct tensor r = op_attention(&s->run, q, k, run_write(&s->run, v, DTYPE_F32, 4, shape), a);
    bool fine = run_read(&s->run, r, y) == 0;
    for (int i = 0; i < 24 * 16; i++)
        fine = fine && y[i] == 1;
    return fine;
}

static void check_precision(struct side *s, enum device_precision p)
{
    const float fp8 = p == DEVICE_FP8 ? 16 : 17, big = 65504.0f * 16;
    tell(seventeen(s, DTYPE_BF16, 1.0625f) == fp8, "bf16 weights");
    tell(seventeen(s, DTYPE_F8E4M3, 1.0625f) == fp8, "e4m3 weights");
    tell(seventeen(s, DTYPE_F16, 1.0625f) == fp8, "f16 weights");
    tell(seventeen(s, DTYPE_BF16, 1 + 0x1p-10f) == 16, "bf16 has no 2^-10");
    tell(isnan(seventeen(s, DTYPE_BF16, NAN)) && isnan(seventeen(s, DTYPE_F16, NAN)), "NaN");
    if (p == DEVICE_BF16) {
        tell(seventeen(s, DTYPE_F16, 1 + 0x1p-10f) == 16 + 0x1p-6f, "f16 has 2^-10");
        tell(seventeen(s, DTYPE_F16, 1e6f) == big && seventeen(s, DTYPE_F16, -1e6f) == -big, "f16 is clamped");
        tell(too_large(s) == 65504, "f16 convolution is clamped");
        tell(by_blocks(s), "blocks of keys go through the library");
    }
}

static void check_refusals(void)
{
    struct device *d = NULL;
    struct err err = {0};
    struct device_options o = {.n_threads = 1, .precision = DEVICE_FP8};
    enum device_precision p;
    tell(device_open(&d, "cuda", &o, &err) == ERR_UNSUPPORTED && strstr(err.text, "this is 8.6: use bf16"), "fp8 on sm_86");
    err_clear(&err);
    tell(device_open(&d, "cpu", &o, &err) == ERR_UNSUPPORTED && strstr(err.text, "needs a GPU"), "fp8 on a CPU");
    err_clear(&err);
    tell(device_precision_parse("auto", "cuda", &p, &err) == 0 && p == DEVICE_BF16, "auto on cuda");
    tell(device_precision_parse("auto", "cpu", &p, &err) == 0 && p == DEVICE_F32, "auto on a CPU");
    tell(device_precision_parse("fp8", "cpu", &p, &err) == 0 && p == DEVICE_FP8, "fp8 by name");
    tell(device_precision_parse("f16", "cuda", &p, &err) == ERR_INVALID && strstr(err.text, "not f16"), "another word");
}

static void check_all(struct side *ref, const char *sm, enum device_precision precision)
{
    struct side gpu = {0};
    setenv("CUDAEMU_SM", sm, 1);
    if (side_open(&gpu, "cuda", precision)) {
        bool all = precision == DEVICE_BF16, attention_too = strcmp(sm, "89") != 0;
        for (int i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) {
            if (all || (cases[i].e4m3_bound > 0 && (attention_too || cases[i].fn == linear)))
                check(&gpu, ref, i);
        }
        check_precision(&gpu, precision);
    }
    side_close(&gpu);
}

int main(void)
{
    struct side ref = {0};
    setenv("CUDAEMU_MEMORY", "1073741824", 1);
    check_refusals();
    if (side_open(&ref, "cpu_ref", DEVICE_F32)) {
        check_all(&ref, "86", DEVICE_BF16);
        check_all(&ref, "89", DEVICE_FP8);
        check_all(&ref, "90", DEVICE_FP8);
    }
    side_close(&ref);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
