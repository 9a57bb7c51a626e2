/* test_cuda_pool.c -- weights that are not all there, on the emulated CUDA device: pool, memory limit, NVML's word. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/pool.h"
#include "kernels/run.h"
#include "tests/cudaemu/check.h"

#define MIB ((size_t)1 << 20)
#define CONTEXT (512 * MIB)  /* what the module takes the driver to need */
#define LIBRARIES (256 * MIB)
#define WORK (192 * MIB)

/* ---- the pool ---- */

#define LAYERS 6
#define N 48

/* y = W x + b, layer after layer. Small weights, as the layers of a network; W's rows past N are only copied. */
struct layer {
    float *w, *b;
    int64_t rows; /* of w in memory: some are larger than a staging slot */
    struct tensor up_w, up_b;
    int block;
};

static bool layers_new(struct layer *l)
{
    bool fine = true;
    uint32_t u = 7;
    for (int i = 0; i < LAYERS && fine; i++) {
        l[i].rows = i == 2 ? 40 * 1000 * 1000 / (4 * N) : N + i;
        l[i].w = mem_alloc((size_t)l[i].rows * N * sizeof(float));
        l[i].b = mem_alloc(N * sizeof(float));
        fine = l[i].w && l[i].b;
        for (int64_t k = 0; k < l[i].rows * N && fine; k++)
            l[i].w[k] = (float)((u = u * 1664525u + 1013904223u) >> 8) / (float)(1 << 24) - 0.5f;
        for (int64_t k = 0; k < N && fine; k++)
            l[i].b[k] = (float)(i * N + k);
    }
    return fine;
}

static void layers_free(struct layer *l)
{
    for (int i = 0; i < LAYERS; i++) {
        mem_free(l[i].w);
        mem_free(l[i].b);
    }
}

static int forward(struct run *r, struct pool *p, struct layer *l, int step, float *got)
{
    float x[3 * N];
    for (int i = 0; i < 3 * N; i++)
        x[i] = (float)(i % 11 + step) / 8;
    run_reset(r);
    struct tensor t = run_write(r, x, DTYPE_F32, 2, SHAPE(3, N));
    for (int i = 0; i < LAYERS; i++) {
        pool_take(r, p, l[i].block);
        struct tensor w = tensor_slice(l[i].up_w, 0, l[i].rows - N, N);
        t = op_linear(r, t, w, l[i].up_b, ACT_SILU);
        pool_next(r, p, l[i].block, l[(i + 1) % LAYERS].block);
    }
    return run_read(r, t, got);
}

/* Layers through two places, of which the large one's is over both, against the same layers uploaded. */
static void test_pool(struct device *d, struct run *r, bool is_pinned)
{
    struct err err = {0};
    struct pool *p = NULL;
    struct layer l[LAYERS] = {{0}};
    float got[4][3 * N], want[4][3 * N];
    bool fine = layers_new(l);
    for (int i = 0; i < LAYERS && fine; i++) {
        fine = device_upload(d, tensor_of(l[i].w, DTYPE_F32, 2, SHAPE(l[i].rows, N)), &l[i].up_w, &err) == 0 &&
               device_upload(d, tensor_of(l[i].b, DTYPE_F32, 1, SHAPE(N)), &l[i].up_b, &err) == 0;
    }
    for (int step = 0; step < 4 && fine; step++)
        fine = forward(r, NULL, l, step, want[step]) == 0;
    check(fine, "layers with all weights there", r->err.text[0] ? r->err.text : err.text);
    device_forget(d, NULL, SIZE_MAX);
    size_t before = d->taken_bytes;
    fine = fine && pool_new(&p, d, 48 * MIB, is_pinned, &err) == 0;
    for (int i = 0; i < LAYERS && fine; i++) {
        l[i].block = pool_block(p, "layer", i % 2 * 16384);
        fine = pool_place(p, l[i].block, tensor_of(l[i].w, DTYPE_F32, 2, SHAPE(l[i].rows, N)), &l[i].up_w, &err) == 0 &&
               pool_place(p, l[i].block, tensor_of(l[i].b, DTYPE_F32, 1, SHAPE(N)), &l[i].up_b, &err) == 0;
    }
    check(fine && d->taken_bytes == before + 48 * MIB, "a pool of them", err.text);
    for (int step = 0; step < 4 && fine; step++)
        fine = forward(r, p, l, step, got[step]) == 0;
    check(fine && memcmp(got, want, sizeof got) == 0, "give the same bits", r->err.text);
    struct pool_stats s = pool_stats(p);
    /* 2 is over 0 and over 1, so it cannot come up behind 1, nor 3 behind 2 */
    check(fine && s.n_taken == 4 * LAYERS && s.n_missing > 0 && s.n_missing <= 2 * 4 + 1, "most came up in time", "");
    pool_free(p);
    check(d->taken_bytes == before, "and go", "");
    layers_free(l);
}

static void test_tickets(struct device *d)
{
    uint64_t first = 0, t = 0, copies = 0;
    int rc = d->hooks->mark(d, DEVICE_OPS, &first);
    for (int i = 0; i < 200 && rc == 0; i++)
        rc = d->hooks->mark(d, DEVICE_OPS, &t);
    check(rc == 0 && t == first + 200, "200 marks", "");
    check(d->hooks->wait(d, DEVICE_COPIES, DEVICE_OPS, first) == 0, "an old ticket", "");
    check(d->hooks->wait(d, DEVICE_COPIES, DEVICE_OPS, t) == 0, "the last", "");
    rc = d->hooks->mark(d, DEVICE_COPIES, &copies);
    check(rc == 0 && d->hooks->wait(d, DEVICE_OPS, DEVICE_COPIES, copies) == 0, "back", "");
    check(d->hooks->wait(d, DEVICE_COPIES, DEVICE_OPS, t + 1) == ERR_INTERNAL, "one that was not given", "");
    check(d->hooks->wait(d, DEVICE_COPIES, DEVICE_OPS, 0) == ERR_INTERNAL, "none", "");
}

/* ---- the limit ---- */

static struct device *open_with(size_t limit)
{
    struct device *d = NULL;
    struct err err = {0};
    struct device_options o = {.memory_limit = limit};
    check(device_open(&d, "cuda", &o, &err) == 0, "open", err.text);
    return d;
}

static void test_limit(void)
{
    struct err err = {0};
    struct device *d = NULL;
    struct device_options small = {.memory_limit = 900 * MIB};
    check(device_open(&d, "cuda", &small, &err) == ERR_NOMEM &&
              has(err.text, "132.0 MiB that are left of the 900.0 MiB that --max-memory-mib allows"),
          "a limit that the work buffer does not fit", err.text);
    err_clear(&err);
    d = open_with(1500 * MIB);
    if (!d)
        return;
    size_t room = device_free_bytes(d), n = room, more = 2 * MIB;
    void *all, *none;
    check(d->fixed_bytes == CONTEXT + LIBRARIES + WORK && room == 1500 * MIB - d->fixed_bytes, "what it leaves", "");
    check(d->taken_bytes == WORK && d->peak_bytes == WORK, "what is taken", "");
    check(d->hooks->arena_new(d, &n, &all, &err) == 0 && n == room && device_free_bytes(d) == 0, "all of it", err.text);
    check(d->hooks->arena_new(d, &more, &none, &err) == ERR_NOMEM && has(err.text, "2.0 MiB in one piece") &&
              has(err.text, "0 B that are left of the 1.5 GiB that --max-memory-mib allows"),
          "and no more", err.text);
    err_clear(&err);
    float v[4] = {0};
    struct tensor t;
    check(device_upload(d, tensor_of(v, DTYPE_F32, 1, SHAPE(4)), &t, &err) == ERR_NOMEM && has(err.text, "--max-memory-mib"),
          "nor a weight", err.text);
    d->hooks->arena_free(d, all, n);
    check(d->taken_bytes == WORK && device_free_bytes(d) == room && d->peak_bytes == WORK + room, "the peak stays", "");
    err_clear(&err);
    check(device_upload(d, tensor_of(v, DTYPE_F32, 1, SHAPE(4)), &t, &err) == 0, "a weight", err.text);
    check(device_free_bytes(d) == room - 2 * MIB && d->taken_bytes == WORK + 512, "takes a part of a page", "");
    device_forget(d, NULL, SIZE_MAX);
    struct run r;
    n = (room - room / 4) / (2 * MIB) * (2 * MIB);
    check(run_init(&r, d, 0, &err) == 0 && r.arena_max == n, "an arena of our size", err.text);
    run_done(&r);
    check(d->taken_bytes == WORK, "all is given back", "");
    device_close(d);
}

static void test_work_buffer(void)
{
    static const struct {
        size_t limit, work;
    } rows[] = {{0, 1640 * MIB}, {8192 * MIB, 206 * MIB}, {20000 * MIB, 500 * MIB}, {100000 * MIB, 1640 * MIB}};
    for (int i = 0; i < 4; i++) { /* 64 GiB are emulated; whole pages are counted */
        struct device *d = open_with(rows[i].limit);
        check(d && d->taken_bytes == rows[i].work, "a fortieth of the limit", "");
        device_close(d);
    }
}

/* ---- NVML ---- */

static void test_nvml(void)
{
    bool is_own = true;
    struct device *d = open_with(0);
    check(device_used_bytes(d, &is_own) == d->taken_bytes + CONTEXT + LIBRARIES && !is_own, "no NVML: what is known", "");
    device_close(d);

    setenv("FAKE_NVML_GPU", "00000000:0a:00.0", 1);
    d = open_with(0);
    check(device_used_bytes(d, &is_own) == d->taken_bytes + CONTEXT + LIBRARIES && !is_own, "it does not know the GPU", "");
    device_close(d);

    setenv("FAKE_NVML_GPU", "00000000:00:00.0", 1);
    setenv("FAKE_NVML_OWN", "734003200", 1); /* 700 MiB */
    d = open_with(2000 * MIB);
    check(d->fixed_bytes == 700 * MIB + LIBRARIES + WORK, "the context is as large as NVML says", "");
    setenv("FAKE_NVML_OWN", "5000000000", 1);
    check(device_used_bytes(d, &is_own) == 5000000000u && is_own, "NVML's count of this process", "");
    unsetenv("FAKE_NVML_OWN");
    setenv("FAKE_NVML_USED", "3000000000", 1);
    check(device_used_bytes(d, &is_own) == 3000000000u && !is_own, "else the difference", "");
    device_close(d);

    d = open_with(2000 * MIB);
    setenv("FAKE_NVML_USED", "3900000000", 1);
    check(d->fixed_bytes == CONTEXT + LIBRARIES + WORK, "who is not listed has a context as any other", "");
    check(device_used_bytes(d, &is_own) == 900000000u && !is_own, "since it was opened", "");
    setenv("FAKE_NVML_USED", "1000", 1);
    check(device_used_bytes(d, &is_own) == d->taken_bytes && !is_own, "others gave some back: not less than was taken", "");
    setenv("FAKE_NVML_OWN", "77", 1);
    setenv("FAKE_NVML_OTHERS", "255", 1);
    check(device_used_bytes(d, &is_own) == 77 && is_own, "the last of a full list", "");
    setenv("FAKE_NVML_OTHERS", "256", 1);
    check(device_used_bytes(d, &is_own) == d->taken_bytes && !is_own, "a list that is too long", "");
    setenv("FAKE_NVML_OTHERS", "2", 1);
    setenv("FAKE_NVML_OWN", "18446744073709551615", 1);
    check(device_used_bytes(d, &is_own) == d->taken_bytes && !is_own, "a number that it does not have", "");
    device_close(d);
    unsetenv("FAKE_NVML_GPU");
    unsetenv("FAKE_NVML_OWN");
    unsetenv("FAKE_NVML_USED");
    struct err err = {0};
    d = NULL;
    check(device_open(&d, "cpu_ref", NULL, &err) == 0, "open", err.text);
    check(device_used_bytes(d, &is_own) == 0 && !is_own && d->fixed_bytes == 0, "the CPU has no such thing", "");
    device_close(d);
}

int main(void)
{
    setenv("CUDAEMU_HIDE", "1", 1);
    device_close(open_with(0));
    if (failed)
        return 1;
    test_limit();
    test_work_buffer();
    test_nvml();
    struct run r;
    struct err err = {0};
    struct device *d = open_with(1500 * MIB);
    if (d && run_init(&r, d, 64 * MIB, &err) == 0) {
        test_pool(d, &r, false);
        test_pool(d, &r, true);
        test_tickets(d);
        run_done(&r);
        device_close(d);
    }
    check(!err.code, "a run", err.text);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
