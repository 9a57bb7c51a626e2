/* test_cuda_module.c -- the CUDA module behind kernels/device.h, emulated: opening, memory, weights, errors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/mem.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/run.h"
#include "tests/cudaemu/check.h"

static void test_open(void)
{
    struct device *d = NULL;
    struct err err = {0};
    struct device_options second = {.index = 1};
    check(device_open(&d, "cuda", &second, &err) == ERR_INVALID && has(err.text, "1 GPUs"), "a GPU that is not there", err.text);
    err_clear(&err);
    check(device_open(&d, "cuda", NULL, &err) == 0, "open", err.text);
    if (!d)
        return;
    check(!d->is_host && has(d->name, "emulated") && d->memory_bytes == (size_t)2 << 30, "what it is", d->name);
    size_t all = device_free_bytes(d);
    struct run r;
    check(run_init(&r, d, (size_t)3 << 30, &err) == ERR_NOMEM && has(err.text, "3.0 GiB"), "an arena too large", err.text);
    err_clear(&err);
    check(run_init(&r, d, 0, &err) == 0 && r.arena_max > all / 2 && r.arena_max < all, "an arena of our size", err.text);
    run_done(&r);
    check(device_free_bytes(d) == all, "what was free before is free again", "");
    device_close(d);
}

/* Up, through an op, and down: one byte, one piece, and more pieces than there are slots. */
static void test_ways(struct run *r)
{
    static const int64_t sizes[] = {1, 100, 16384, 16385, 5 << 20, (9 << 20) + 3};
    float *p = mem_alloc((size_t)sizes[5] * sizeof *p), *q = mem_alloc((size_t)sizes[5] * sizeof *q);
    bool fine = p && q;
    for (int k = 0; k < 6 && fine; k++) {
        int64_t n = sizes[k];
        for (int64_t i = 0; i < n; i++)
            p[i] = (float)(i % 8191) + (float)k;
        run_reset(r);
        struct tensor t = run_write(r, p, DTYPE_F32, 1, &n);
        op_scale(r, t, 2, 1);
        fine = run_read(r, t, q) == 0;
        for (int64_t i = 0; i < n && fine; i++)
            fine = q[i] == 2 * p[i] + 1;
    }
    check(fine, "tensors up, through an op and down", r->err.text);
    run_reset(r);
    for (int k = 0; k < 200 && fine; k++) { /* more small writes under way than there are slots */
        float v[2] = {(float)k, -(float)k};
        struct tensor t = run_write(r, v, DTYPE_F32, 1, SHAPE(2));
        fine = run_read(r, tensor_slice(t, 0, 1, 1), q) == 0 && q[0] == -(float)k;
    }
    check(fine, "many small writes", r->err.text);
    mem_free(p);
    mem_free(q);
}

static void test_weights(struct device *d, struct run *r)
{
    struct err err = {0};
    enum { N = 600, LEN = 33 };
    float(*w)[LEN] = mem_alloc(N * sizeof *w), got[LEN];
    struct tensor up[N];
    size_t before = device_free_bytes(d);
    bool fine = w != NULL;
    for (int i = 0; i < N && fine; i++) { /* in an order that is not that of the addresses */
        int at = i * 7 % N;
        for (int k = 0; k < LEN; k++)
            w[at][k] = (float)(at * LEN + k);
        fine = device_upload(d, tensor_of(w[at], DTYPE_F32, 1, SHAPE(LEN)), &up[at], &err) == 0;
    }
    struct tensor again;
    fine = fine && device_upload(d, tensor_of(w[5], DTYPE_F32, 1, SHAPE(LEN)), &again, &err) == 0 && again.data == up[5].data;
    fine = fine && device_upload(d, tensor_of(w[5], DTYPE_F32, 1, SHAPE(8)), &again, &err) == 0 && again.data != up[5].data;
    check(fine, "weights are copied up once a place and size", err.text);
    run_reset(r);
    for (int i = 0; i < N && fine; i++)
        fine = run_read(r, op_copy(r, up[i], DTYPE_F32), got) == 0 && memcmp(got, w[i], sizeof got) == 0;
    check(fine, "and are what they were", r->err.text);
    device_forget(d, w[100], sizeof *w * 50);
    fine = run_read(r, op_copy(r, up[99], DTYPE_F32), got) == 0 && memcmp(got, w[99], sizeof got) == 0;
    check(fine, "some are forgotten, others stay", r->err.text);
    device_forget(d, NULL, SIZE_MAX);
    check(device_free_bytes(d) == before, "all are forgotten", "");
    mem_free(w);
}

static void test_indices(struct run *r)
{
    float x[6] = {1, 2, 3, 4, 5, 6}, got[6];
    int32_t idx[3] = {1, 3, -1};
    run_reset(r);
    struct tensor t = run_write(r, x, DTYPE_F32, 2, SHAPE(3, 2)), i = run_write(r, idx, DTYPE_I32, 1, SHAPE(3));
    int rc = run_read(r, op_gather(r, t, 0, i), got);
    check(rc == 0 && got[0] == 3 && got[1] == 4 && got[2] != got[2] && got[5] != got[5], "an index outside gives NaN", r->err.text);
    op_scatter_add(r, t, 0, i, t);
    rc = run_read(r, t, got);
    check(rc == 0 && got[2] == 4 && got[3] == 6 && got[4] == 5, "and is left out when adding", r->err.text);
}

/* Random bytes of every type to every type, from a view whose rows are columns; the reference made the same. */
static void test_copies(struct run *r)
{
    static const int64_t n = 48 * 40;
    struct device *d = NULL;
    struct run host;
    struct err err = {0};
    uint8_t *p = mem_alloc((size_t)n * 8), *got = mem_alloc((size_t)n * 8), *want = mem_alloc((size_t)n * 8);
    bool fine = p && got && want && device_open(&d, "cpu_ref", NULL, &err) == 0 && run_init(&host, d, 16 << 20, &err) == 0;
    check(fine, "the reference", err.text);
    uint32_t u = 12345;
    for (int from = 0; from < DTYPE_COUNT && fine; from++) {
        for (int to = 0; to < DTYPE_COUNT; to++) {
            for (int64_t i = 0; i < n * 8; i++)
                p[i] = (uint8_t)((u = u * 1664525u + 1013904223u) >> 24);
            struct run *both[] = {&host, r};
            for (int k = 0; k < 2; k++) {
                run_reset(both[k]);
                struct tensor t = run_write(both[k], p, (enum dtype)from, 2, SHAPE(48, 40));
                t = tensor_permute(tensor_slice(t, 1, 3, 37), (const int[]){1, 0});
                fine = run_read(both[k], op_copy(both[k], t, (enum dtype)to), k ? got : want) == 0 && fine;
            }
            size_t bytes = 48 * 37 * dtype_bytes((enum dtype)to), at = 0;
            while (at < bytes && got[at] == want[at])
                at++;
            char what[80];
            snprintf(what, sizeof what, "a copy from %s to %s", dtype_name((enum dtype)from), dtype_name((enum dtype)to));
            check(fine && at == bytes, what, r->err.text);
        }
    }
    if (fine) {
        run_done(&host);
        device_close(d);
    }
    mem_free(p);
    mem_free(got);
    mem_free(want);
}

/* The first launch is the probe of device_open; the next but one fails, and all after it. is_late: the launch itself
 * succeeds and whoever waits next hears of it. */
static void test_lost(bool is_late)
{
    struct device *d = NULL;
    struct err err = {0};
    struct run r;
    bool fine = device_open(&d, "cuda", NULL, &err) == 0 && run_init(&r, d, 1 << 20, &err) == 0;
    check(fine, "open", err.text);
    if (!fine)
        return;
    struct tensor t = run_new(&r, DTYPE_F32, 2, SHAPE(3, 5));
    op_fill(&r, t, 1);
    check(!run_failed(&r), "the launch before", r.err.text);
    run_push(&r, "dit");
    run_push(&r, "double %d", 3);
    op_scale(&r, t, 2, 0);
    float v, row[5];
    if (is_late)
        check(!run_failed(&r) && run_read(&r, tensor_slice(t, 0, 0, 1), row) == ERR_DEVICE &&
                  has(r.err.text, "dit/double 3: 20 bytes could not be copied"),
              "a lost device: whoever waits", r.err.text);
    else
        check(r.err.code == ERR_DEVICE && has(r.err.text, "op_scale (dit/double 3)") && has(r.err.text, "[3, 5]") &&
                  has(r.err.text, "illegal memory access"),
              "a lost device: op, label, shape, CUDA's text", r.err.text);
    run_reset(&r);
    struct tensor one = tensor_slice(t, 0, 0, 1);
    check(run_read(&r, tensor_slice(one, 1, 0, 1), &v) == ERR_DEVICE, "and it stays lost", r.err.text);
    run_done(&r);
    device_close(d);
}

int main(void)
{
    setenv("CUDAEMU_MEMORY", "2147483648", 1);
    setenv("CUDAEMU_HIDE", "1", 1);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        const char *order = getenv("CUDAEMU_STREAMS");
        setenv("CUDAEMU_FAIL", "3", 1);
        test_lost(order && order[0]);
        printf("%d passed, %d failed, 0 skipped\n", passed, failed);
        fflush(stdout);
        _exit(failed > 0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    test_open();
    struct device *d = NULL;
    struct err err = {0};
    struct run r;
    check(device_open(&d, "cuda", NULL, &err) == 0 && run_init(&r, d, (size_t)256 << 20, &err) == 0, "open", err.text);
    if (!failed) {
        test_ways(&r);
        test_weights(d, &r);
        test_indices(&r);
        test_copies(&r);
        run_done(&r);
        device_close(d);
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0 || status != 0;
}
