/* test_cuda_libs.c -- what kernels/cuda/lib_*.c hands to the libraries, against emulations of their contracts (libs/) and
 * cpu_ref: layouts, strides, pieces, heads, boxes with padding, epilogues, the way back to the own kernels. Inputs lie on
 * the bf16 grid and sums stay exact, so that what is left is one rounding of the result to bf16.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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

typedef struct tensor case_fn(struct side *s, const int *d);

/* T, H, W, Ci, Co, kernel t, kernel, stride t, stride, replicate */
static struct tensor conv(struct side *s, const int *d)
{
    struct conv c = {.stride = {d[7], d[8], d[8]},
                     .pad_before = {2, 1, 0},
                     .pad_after = {0, 1, 1},
                     .replicate = d[9] != 0,
                     .act = ACT_RELU};
    struct tensor x = input(s, 1, 4, SHAPE(d[0], d[1], d[2], d[3] + 3)),
                  w = input(s, 2, 5, SHAPE(d[4], d[3], d[5], d[6], d[6]));
    return op_conv(&s->run, tensor_slice(x, 3, 2, d[3]), w, input(s, 3, 1, SHAPE(d[4])), &c);
}

/* batch, queries, keys, heads, key heads, width, block of block-causal */
static struct tensor attention(struct side *s, const int *d)
{
    struct attn a = {.kind = d[6] ? ATTN_BLOCK_CAUSAL : ATTN_FULL, .scale = 0.125f, .block = d[6]};
    struct tensor q = input(s, 1, 4, SHAPE(d[0], d[1], d[3] + 2, d[5]));
    struct tensor k = input(s, 2, 4, SHAPE(d[0], d[2], d[4], d[5])), v = input(s, 3, 4, SHAPE(d[0], d[2], d[4], d[5]));
    return op_attention(&s->run, tensor_slice(q, 2, 1, d[3]), k, v, a);
}

/* rows, k, n, gate */
static struct tensor linear(struct side *s, const int *d)
{
    struct tensor x = tensor_slice(input(s, 1, 2, SHAPE(d[0], d[1] + 5)), 1, 5, d[1]), w = input(s, 2, 2, SHAPE(d[2], d[1]));
    struct tensor y = tensor_slice(input(s, 4, 2, SHAPE(d[0], d[2] + 7)), 1, 3, d[2]), b = input(s, 3, 1, SHAPE(d[2]));
    if (d[3] == 0)
        op_linear_into(&s->run, y, x, w, b, ACT_SILU);
    else
        op_linear_add(&s->run, y, x, w, b, d[3] == 1 ? input(s, 5, 1, SHAPE(d[2])) : TENSOR_NONE);
    return y;
}

static const struct {
    const char *name;
    case_fn *fn;
    double bound; /* of |y| + 1: a convolution is rounded before its bias, which is at most 1 */
    int d[10];
} cases[] = {
    {"conv", conv, 0x1p-8, {3, 7, 6, 8, 16, 3, 3, 1, 1, 1}},
    {"conv", conv, 0x1p-8, {5, 9, 8, 16, 8, 3, 3, 2, 2, 0}},
    {"conv, only the stride differs", conv, 0x1p-8, {5, 9, 8, 16, 8, 3, 3, 1, 1, 0}},
    {"conv, only the stride differs", conv, 0x1p-8, {5, 9, 8, 16, 8, 3, 3, 2, 1, 0}},
    {"conv", conv, 0x1p-8, {1, 12, 11, 8, 8, 1, 5, 1, 1, 0}},
    {"conv, in boxes of rows", conv, 0x1p-8, {1, 40, 60, 32, 8, 1, 3, 1, 1, 1}},
    {"conv of 7 channels", conv, 1e-6, {2, 7, 6, 7, 16, 3, 3, 1, 1, 1}},
    {"attention", attention, 0x1p-8, {1, 33, 65, 2, 2, 64}},
    {"attention, grouped, in parts", attention, 0x1p-8, {2, 40, 50, 12, 6, 128}},
    {"attention, one block", attention, 0x1p-8, {1, 40, 40, 2, 2, 64, 40}},
    {"attention, two blocks", attention, 1e-5, {1, 40, 40, 2, 2, 64, 20}},
    {"attention, wide", attention, 1e-5, {1, 20, 30, 1, 1, 256}},
    {"linear", linear, 1e-5, {50, 40, 70, 0}},
    {"linear, gated, in pieces", linear, 1e-5, {300, 64, 200, 1}},
    {"linear, added, in pieces of weights", linear, 1e-5, {150, 128, 700, 2}},
    {"linear without an algorithm", linear, 1e-5, {50, 97, 30, 1}},
    {"linear without an algorithm", linear, 1e-5, {50, 97, 30, 2}},
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
    for (int again = 0; again < 2; again++) { /* the second time with what was kept */
        int64_t n = compute(a, i), m = compute(b, i);
        double worst = n > 0 && n == m ? 0 : INFINITY;
        for (int64_t k = 0; k < n && n == m; k++) {
            double off = fabs((double)a->out[k] - (double)b->out[k]) / (cases[i].bound * (fabs((double)b->out[k]) + 1));
            worst = off >= 0 && off <= worst ? worst : isnan(off) ? INFINITY : off;
        }
        worst <= 1 ? passed++ : failed++;
        if (!(worst <= 1))
            printf("FAIL %s, case %d, time %d: %.3g of the bound; %s%s\n", cases[i].name, i, again, worst, a->run.err.text,
                   b->run.err.text);
    }
}

static bool side_open(struct side *s, const char *kind)
{
    struct err err = {0};
    struct device_options o = {.n_threads = 1, .precision = DEVICE_BF16};
    s->out = mem_alloc(MAX * sizeof *s->out);
    bool fine =
        s->out && device_open(&s->device, kind, &o, &err) == 0 && run_init(&s->run, s->device, (size_t)64 << 20, &err) == 0;
    if (!fine)
        printf("FAIL opening %s: %s\n", kind, err.text);
    return fine;
}

int main(void)
{
    struct side gpu = {0}, ref = {0};
    setenv("CUDAEMU_MEMORY", "1073741824", 1);
    if (side_open(&gpu, "cuda") && side_open(&ref, "cpu_ref")) {
        for (int i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++)
            check(&gpu, &ref, i);
        run_done(&gpu.run);
        device_close(gpu.device);
        run_done(&ref.run);
        device_close(ref.device);
    } else {
        failed++;
    }
    mem_free(gpu.out);
    mem_free(ref.out);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
