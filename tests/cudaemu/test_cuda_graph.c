/* test_cuda_graph.c -- kernels/run_repeat.h on the emulated device: what is launched from a recording equals what runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/run_repeat.h"
#include "tests/cudaemu/check.h"

enum { ROWS = 20, K = 24, N = 17, STEPS = 6, MOVED = 4 };

enum trouble { NOTHING, WRITES, READS, GROWS, LASTS };

/* A few steps of something like a network: what changes is copied to where it lay, the stretch follows, its result is kept. */
struct walk {
    struct run run;
    struct run_repeat repeat;
    struct tensor w, x, scratch;
    float y[STEPS][ROWS * N];
    double flops[STEPS], bytes[STEPS];
    int64_t n_ops[STEPS];
    size_t used[STEPS], peak[STEPS];
    int n_bodies[STEPS]; /* how often the stretch was enqueued */
    enum trouble trouble;
    bool moves; /* one step's input lies elsewhere */
};

static struct tensor stretch(struct walk *k, struct tensor x, int nth)
{
    struct run *r = &k->run;
    float one[1] = {1};
    struct tensor y = run_new(r, DTYPE_F32, 2, SHAPE(ROWS, N));
    size_t mark = run_mark(r);
    struct tensor a = op_copy(r, x, DTYPE_F32);
    op_scale(r, a, 0.5f, 0.25f);
    if (k->trouble == WRITES)
        run_write(r, one, DTYPE_F32, 1, SHAPE(1));
    if (k->trouble == READS)
        run_read(r, tensor_slice(tensor_slice(a, 0, 0, 1), 1, 0, 1), one);
    if (k->trouble == GROWS)
        run_new(r, DTYPE_F32, 1, SHAPE(100 * (1 + nth)));
    if (k->trouble == LASTS)
        r->flops += 2 * RUN_REPEAT_FLOPS;
    op_linear_into(r, y, a, k->w, TENSOR_NONE, ACT_SILU);
    run_rewind(r, k->trouble == GROWS ? run_mark(r) : mark);
    op_add(r, y, y);
    return y;
}

static void step(struct walk *k, int i, struct tensor *y)
{
    struct run *r = &k->run;
    float host[ROWS * K];
    for (int j = 0; j < ROWS * K; j++)
        host[j] = (float)((j * 7 + i * 13) % 31 - 15) / 16;
    size_t mark = run_mark(r);
    struct tensor x = run_write(r, host, DTYPE_F32, 2, SHAPE(ROWS, K));
    struct tensor at = k->moves && i == MOVED ? x : k->x;
    if (at.data != x.data)
        op_copy_into(r, at, x);
    while (run_repeat(r, &k->repeat, &at, 1)) {
        *y = stretch(k, at, i);
        k->n_bodies[i]++;
    }
    k->flops[i] = r->flops;
    k->bytes[i] = r->bytes;
    k->n_ops[i] = r->n_ops;
    k->used[i] = r->arena_used;
    k->peak[i] = r->arena_peak;
    run_read(r, *y, k->y[i]);
    run_rewind(r, mark);
}

/* Returns the run's error; the repeat is left for the caller to look at. */
static int walk(struct walk *k, struct device *d, const atomic_int *cancel, struct err *err)
{
    static float w[N * K];
    struct tensor y = TENSOR_NONE;
    int rc = run_init(&k->run, d, 16 << 20, err);
    if (rc < 0)
        return rc;
    for (int j = 0; j < N * K; j++)
        w[j] = (float)(j % 11 - 5) / 8;
    k->run.cancel = cancel;
    k->w = run_write(&k->run, w, DTYPE_F32, 2, SHAPE(N, K));
    k->x = run_new(&k->run, DTYPE_F32, 2, SHAPE(ROWS, K));
    for (int i = 0; i < STEPS && !run_failed(&k->run); i++)
        step(k, i, &y);
    *err = k->run.err;
    return k->run.err.code;
}

static void walk_end(struct walk *k)
{
    run_repeat_done(&k->repeat);
    run_done(&k->run);
}

static bool same(const struct walk *a, const struct walk *b)
{
    return memcmp(a->y, b->y, sizeof a->y) == 0 && memcmp(a->flops, b->flops, sizeof a->flops) == 0 &&
           memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0 && memcmp(a->n_ops, b->n_ops, sizeof a->n_ops) == 0 &&
           memcmp(a->used, b->used, sizeof a->used) == 0 && memcmp(a->peak, b->peak, sizeof a->peak) == 0;
}

/* What walking with trouble gives, beside a walk on a device that cannot record. */
static void compare(struct device *d, struct walk plain, const char *what, int played, int bodies)
{
    static struct walk a, b;
    struct err err = {0};
    struct device_hooks none = *d->hooks;
    struct device without = *d;
    none.repeat_begin = NULL;
    without.hooks = &none;
    a = b = plain;
    int rc = walk(&a, d, NULL, &err);
    check(rc == 0, what, err.text);
    rc = walk(&b, &without, NULL, &err);
    check(rc == 0 && b.repeat.n_played == 0, what, err.text);
    int n = 0;
    for (int i = 0; i < STEPS; i++)
        n += a.n_bodies[i];
    char text[600];
    snprintf(text, sizeof text, "%d launches, %d bodies; %s", (int)a.repeat.n_played, n, a.repeat.why.text);
    check(a.repeat.n_played == played && n == bodies, what, text);
    check(same(&a, &b), what, "the recording's results, counters or arena differ");
    bool moves = memcmp(a.y[2], a.y[3], sizeof a.y[2]) != 0;
    check(moves, what, "two steps gave the same");
    walk_end(&a);
    walk_end(&b);
}

static void test_cancel(struct device *d)
{
    static struct walk k;
    struct err err = {0};
    atomic_int cancel = 0;
    struct tensor y = TENSOR_NONE;
    k = (struct walk){0};
    check(walk(&k, d, &cancel, &err) == 0 && k.repeat.n_played == STEPS - 1, "before a cancel", err.text);
    cancel = 1;
    while (run_repeat(&k.run, &k.repeat, &k.x, 1))
        y = stretch(&k, k.x, 0);
    check(k.run.err.code == ERR_CANCEL && k.repeat.n_played == STEPS - 1, "a cancel stops before a launch", k.run.err.text);
    run_reset(&k.run);
    cancel = 0;
    run_repeat_done(&k.repeat);
    while (run_repeat(&k.run, &k.repeat, &k.x, 1))
        y = stretch(&k, k.x, 0);
    run_rewind(&k.run, 0);
    while (run_repeat(&k.run, &k.repeat, &k.x, 1)) { /* in the recording */
        cancel = 1;
        y = stretch(&k, k.x, 0);
    }
    check(k.run.err.code == ERR_CANCEL && k.repeat.n_played == 0, "a cancel in a recording", k.run.err.text);
    run_reset(&k.run);
    cancel = 0;
    y = stretch(&k, k.x, 0);
    check(run_read(&k.run, y, k.y[0]) == 0, "and the device goes on", k.run.err.text);
    walk_end(&k);
}

static void test_all(struct device *d)
{
    compare(d, (struct walk){0}, "a stretch that repeats", STEPS - 1, 2);
    compare(d, (struct walk){.moves = true}, "an input that lies elsewhere once", STEPS - 2, 3);
    compare(d, (struct walk){.trouble = WRITES}, "a stretch that writes", 0, STEPS);
    compare(d, (struct walk){.trouble = READS}, "a stretch that reads", 0, STEPS);
    compare(d, (struct walk){.trouble = GROWS}, "a stretch that is not the same", 0, STEPS + 1);
    compare(d, (struct walk){.trouble = LASTS}, "a stretch that takes long", 0, STEPS);
    test_cancel(d);
}

/* In a child of its own, as the emulation looks at its variables once. */
static void in_child(const char *name, const char *value, void (*fn)(struct device *d))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct device *d = NULL;
        struct err err = {0};
        if (name)
            setenv(name, value, 1);
        passed = failed = 0;
        check(device_open(&d, "cuda", NULL, &err) == 0, "open", err.text);
        if (d)
            fn(d);
        device_close(d);
        printf("%s%s%s: %d passed, %d failed\n", name ? name : "as it is", name ? "=" : "", value, passed, failed);
        fflush(stdout);
        _exit(failed > 0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    check(status == 0, name ? name : "as it is", value);
}

static void breaks(struct device *d)
{
    compare(d, (struct walk){0}, "a recording that breaks", 0, STEPS + 1);
}

static void switched_off(struct device *d)
{
    compare(d, (struct walk){0}, "switched off", 0, STEPS);
}

int main(void)
{
    setenv("CUDAEMU_MEMORY", "1073741824", 1);
    setenv("CUDAEMU_HIDE", "1", 1);
    in_child(NULL, "", test_all);
    in_child("CUDAEMU_STREAMS", "late", test_all);
    in_child("CUDAEMU_STREAMS", "random", test_all);
    in_child("CUDAEMU_BREAK", "3", breaks);
    in_child("TROUPE_CUDA_GRAPHS", "0", switched_off);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
