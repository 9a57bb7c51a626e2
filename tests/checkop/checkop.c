/* checkop.c -- checkop [--op NAME] [--seed N] [--table cpu|cuda] [--threads N] [--small N] [--needed] [--bench]
 * [--precision bf16|fp8]. */
#include "tests/checkop/checkop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/mem.h"
#include "kernels/threads.h"
#include "common/str.h"

#define FENCE 256
#define FENCE_BYTE 0xa5
#define ARENA ((size_t)4 << 30)
#define ARENA_DEVICE ((size_t)2 << 30) /* all of it is allocated there */
#define PATTERN ((size_t)16 << 20) /* so much of the arena is watched */
#define PATTERN_DEVICE ((size_t)1 << 20) /* where it must be copied there */

static const struct check *const families[] = {check_linear, check_norm, check_attention,
                                               check_conv,   check_elem, check_move};
#define N_FAMILIES (int)(sizeof families / sizeof families[0])

struct options {
    const char *op, *table;
    int64_t seed;
    bool bench;
    enum device_precision precision; /* of the table: F32 for all checks, another for those that round */
    bool needed;   /* a device that cannot be opened, or lacks an op, is a failure, not skipped */
    double small;  /* cases of more operations and bytes than this are left out; 0: none are */
    int n_threads;
};

struct totals {
    int passed, failed, skipped;
};

/* ---- inputs ---- */

static uint64_t next(struct side *s)
{
    uint64_t z = (s->random += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double side_normal(struct side *s)
{
    double u = ((double)(next(s) >> 11) + 0.5) * 0x1p-53, v = (double)(next(s) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

enum act side_act(const struct side *s, int64_t act)
{
    return s->absolute ? ACT_NONE : (enum act)act;
}

static float value(struct side *s, enum data_kind data, double deviation)
{
    double v = side_normal(s) * deviation;
    if (data == DATA_EQUAL)
        v = 0.7 * deviation;
    if (data == DATA_MIXED) {
        uint64_t pick = next(s) % 8;
        v *= pick == 0 ? 1e4 : pick == 1 ? 1e-6 : 1;
    }
    return (float)(s->absolute ? fabs(v) : v);
}

/* A tensor between two fences, in the arena or (lasting) outside it. Filled by the caller, in host memory, unless
 * *ret_ready; then finished by done. */
static struct tensor fenced(struct side *s, enum dtype dtype, int n_dims, const int64_t *shape, bool written,
                            bool lasting, bool *ret_ready)
{
    *ret_ready = s->replay >= 0;
    if (s->replay >= 0)
        return s->inputs[s->replay++].tensor;
    struct tensor t = tensor_of(NULL, dtype, n_dims, shape);
    size_t all = FENCE + (tensor_bytes(t) + 63) / 64 * 64 + FENCE;
    bool owned = lasting || !s->device->is_host;
    char *room = lasting ? NULL : run_new(&s->run, DTYPE_U8, 1, SHAPE((int64_t)all)).data;
    char *base = owned ? mem_aligned(64, all) : room;
    if (s->n_inputs == SIDE_INPUTS || !base || (!lasting && !room))
        abort(); /* a check's own mistake, or no memory */
    memset(base, FENCE_BYTE, all);
    t.data = base + FENCE;
    s->inputs[s->n_inputs++] = (struct side_tensor){.tensor = t,
                                                    .base = base,
                                                    .device = owned ? room : NULL,
                                                    .bytes = all,
                                                    .written = written,
                                                    .lasting = lasting,
                                                    .owned = owned};
    return t;
}

/* The input that was filled last as the op is to see it. */
static struct tensor done(struct side *s, bool ready, struct tensor t)
{
    if (ready)
        return t;
    struct side_tensor *in = &s->inputs[s->n_inputs - 1];
    struct err err = {0};
    int rc = 0;
    if (!s->device->is_host && in->lasting) {
        rc = device_upload(s->device, t, &t, &err);
    } else if (!s->device->is_host) {
        rc = s->device->hooks->write(s->device, in->device, in->base, in->bytes);
        t.data = in->device + FENCE;
    }
    if (rc < 0) {
        fprintf(stderr, "an input could not be copied to the device: %s\n", err.code ? err.text : err_text(rc));
        abort();
    }
    in->tensor = t;
    return t;
}

static void level(struct tensor t)
{
    float most = 0, v = 0;
    char *p = t.data;
    int64_t n = tensor_count(t), size = (int64_t)dtype_bytes(t.dtype);
    for (int64_t i = 0; i < n; i++) {
        dtype_read_f32(&v, p + i * size, t.dtype, 1, 1);
        most = fmaxf(most, v);
    }
    for (int64_t i = 0; i < n; i++)
        dtype_write_f32(p + i * size, t.dtype, &most, 1);
}

static struct tensor make(struct side *s, double deviation, int n_dims, const int64_t *shape, bool written)
{
    bool ready;
    struct tensor t = fenced(s, DTYPE_F32, n_dims, shape, written, false, &ready);
    float *p = t.data;
    for (int64_t i = 0; !ready && i < tensor_count(t); i++)
        p[i] = value(s, s->data, deviation);
    if (!ready && s->largest)
        level(t);
    return done(s, ready, t);
}

struct tensor side_input(struct side *s, double deviation, int n_dims, const int64_t *shape)
{
    return make(s, deviation, n_dims, shape, false);
}

struct tensor side_inout(struct side *s, double deviation, int n_dims, const int64_t *shape)
{
    return make(s, deviation, n_dims, shape, true);
}

struct tensor side_weight(struct side *s, enum dtype dtype, double deviation, int n_dims,
                          const int64_t *shape)
{
    static const float fp8_scale = 0.0078125f;
    bool ready;
    struct tensor t = fenced(s, dtype, n_dims, shape, false, true, &ready);
    char *p = t.data;
    for (int64_t i = 0; !ready && i < tensor_count(t); i++) {
        float v = value(s, DATA_NORMAL, deviation);
        if (dtype == DTYPE_F8E4M3)
            v /= fp8_scale;
        dtype_write_f32(p + i * (int64_t)dtype_bytes(dtype), dtype, &v, 1);
    }
    if (!ready && s->largest)
        level(t);
    t.scale = dtype == DTYPE_F8E4M3 ? &fp8_scale : NULL;
    return done(s, ready, t);
}

struct tensor side_weight_by(struct side *s, double deviation, int n_dims, const int64_t *shape, side_by_fn *by)
{
    bool ready;
    struct tensor t = fenced(s, DTYPE_F32, n_dims, shape, false, true, &ready);
    float *p = t.data;
    for (int64_t i = 0; !ready && i < tensor_count(t); i++)
        p[i] = by(s, i, value(s, DATA_NORMAL, deviation));
    return done(s, ready, t);
}

struct tensor side_indices(struct side *s, int64_t n, int64_t below)
{
    bool ready;
    struct tensor t = fenced(s, DTYPE_I32, 1, SHAPE(n), false, false, &ready);
    int32_t *p = t.data;
    for (int64_t i = 0; !ready && i < n; i++)
        p[i] = (int32_t)(next(s) % (uint64_t)below);
    return done(s, ready, t);
}

struct tensor side_bytes(struct side *s, bool mask, int n_dims, const int64_t *shape)
{
    bool ready;
    struct tensor t = fenced(s, DTYPE_U8, n_dims, shape, false, false, &ready);
    uint8_t *p = t.data;
    for (int64_t i = 0; !ready && i < tensor_count(t); i++) {
        p[i] = (uint8_t)next(s);
        if (mask)
            p[i] = i % shape[n_dims - 1] == 0 || p[i] % 3 > 0;
    }
    return done(s, ready, t);
}

/* ---- running one case ---- */

/* So much of the arena shows what is written behind a result. */
static size_t pattern(const struct side *s)
{
    return s->device->is_host ? PATTERN : PATTERN_DEVICE;
}

static void paint(struct side *s)
{
    static char paint[PATTERN_DEVICE];
    if (s->device->is_host) {
        memset(s->run.arena, FENCE_BYTE, PATTERN);
        return;
    }
    memset(paint, FENCE_BYTE, sizeof paint);
    if (s->device->hooks->write(s->device, s->run.arena, paint, sizeof paint) < 0)
        run_fail(&s->run, ERR_DEVICE, "the arena could not be written");
}

/* Forgets the inputs of the case before. */
static void side_clear(struct side *s)
{
    for (int i = 0; i < s->n_inputs; i++) {
        if (s->inputs[i].lasting)
            device_forget(s->device, s->inputs[i].base, s->inputs[i].bytes);
        if (s->inputs[i].owned)
            mem_free(s->inputs[i].base);
    }
    s->n_inputs = 0;
    run_reset(&s->run);
}

static bool fetch(struct side *s, void *host, const void *from, size_t bytes)
{
    if (s->device->is_host)
        memcpy(host, from, bytes);
    return s->device->is_host || s->device->hooks->read(s->device, host, from, bytes) == 0;
}

/* Bytes beside inputs and behind the result; brings inputs back from the device. */
static const char *check_fences(struct side *s, size_t end)
{
    for (int i = 0; i < s->n_inputs; i++) {
        struct side_tensor *t = &s->inputs[i];
        size_t n = tensor_bytes(t->tensor);
        bool here = t->device ? fetch(s, t->base, t->device, t->bytes)
                              : t->base + FENCE == t->tensor.data || n == 0 || fetch(s, t->base + FENCE, t->tensor.data, n);
        if (!here)
            return "an input could not be read back";
        for (size_t k = 0; k < FENCE; k++) {
            if ((uint8_t)t->base[k] != FENCE_BYTE || (uint8_t)t->base[t->bytes - 1 - k] != FENCE_BYTE)
                return "wrote beside an input";
        }
    }
    uint8_t behind[FENCE];
    if (end + FENCE > pattern(s))
        return NULL;
    if (!fetch(s, behind, s->run.arena + end, FENCE))
        return "the arena could not be read back";
    for (size_t k = 0; k < FENCE; k++) {
        if (behind[k] != FENCE_BYTE)
            return "wrote behind the result";
    }
    return NULL;
}

/* The reference made its inputs from the same random numbers. */
static const char *check_inputs(const struct side *a, const struct side *reference)
{
    for (int i = 0; i < a->n_inputs; i++) {
        const struct side_tensor *t = &a->inputs[i];
        if (!t->written && memcmp(t->base, reference->inputs[i].base, t->bytes) != 0)
            return "changed an input";
    }
    return NULL;
}

/* Runs c on s: the result as contiguous f32 from mem_alloc, or NULL and why. */
static float *side_run(struct side *s, const struct check *c, const int64_t *d, struct tensor *ret,
                       const char **why)
{
    paint(s);
    struct tensor y = c->run(s, d);
    size_t end = s->run.arena_used;
    float *p = NULL;
    if (!run_failed(&s->run)) {
        *why = check_fences(s, end);
        struct tensor wide = op_copy(&s->run, y, DTYPE_F32);
        p = mem_alloc(tensor_bytes(wide) + 1);
        if (p && run_read(&s->run, wide, p) < 0) {
            mem_free(p);
            p = NULL;
        }
    }
    if (!p)
        *why = s->run.err.code ? s->run.err.text : "no memory";
    *ret = y;
    return p;
}

static float *side_again(struct side *s, const struct check *c, const int64_t *d, uint64_t seed,
                         enum data_kind data, struct tensor *ret, const char **why)
{
    side_clear(s);
    s->random = seed;
    s->data = data;
    return side_run(s, c, d, ret, why);
}

/* ---- comparing ---- */

/* One check's results; owned. */
struct results {
    float *magnitude, *largest, *want, *got, *twice, *one;
};

/* NULL, or what is wrong, in text. worst: largest error in units of the bound. */
static const char *compare(const struct check *c, struct tolerance_room room, const struct results *v, int64_t n,
                           double *worst, char text[160])
{
    double peak = 0;
    for (int64_t i = 0; c->by->flags & TOLERANCE_PEAK && i < n; i++)
        peak = fmax(peak, fabs((double)v->want[i]));
    for (int64_t i = 0; i < n; i++) {
        double a = (double)v->want[i], b = (double)v->got[i];
        if (b != b || (isinf(a) && a != b)) {
            snprintf(text, 160, "element %lld is %g, the reference says %g", (long long)i, b, a);
            return text;
        }
        double magnitude = v->magnitude ? fabs((double)v->magnitude[i]) : 0;
        double bound = c->by->units * 0x1p-24 * (fabs(a) + peak + magnitude) + room.rounded * magnitude + 1e-37;
        bound += v->largest ? room.steps * fabs((double)v->largest[i]) : 0;
        double error = fabs(a - b);
        if (c->by->units > 0 && error / bound > *worst)
            *worst = error / bound;
        if (c->by->units > 0 ? error > bound : a != b) {
            snprintf(text, 160, "element %lld is %.9g, the reference says %.9g: off by %.3g, allowed %.3g",
                     (long long)i, b, a, error, c->by->units > 0 ? bound : 0);
            return text;
        }
    }
    return NULL;
}

struct sides {
    struct side reference, one, all; /* cpu_ref; the table with one thread (host devices), with as many as wanted */
    double small;                    /* options' */
    bool needed;
};

static const char too_large[] = "too large"; /* left out, not counted */

/* Same inputs, same bits: a second time, and with one thread. */
static const char *check_repeats(struct sides *t, const struct check *c, const int64_t *d,
                                 enum data_kind data, uint64_t seed, struct results *v)
{
    const char *why = NULL;
    struct tensor z;
    v->twice = side_again(&t->all, c, d, seed, data, &z, &why);
    if (why)
        return why;
    size_t bytes = (size_t)tensor_count(z) * sizeof *v->got;
    if (memcmp(v->got, v->twice, bytes) != 0)
        return "gave other bits the second time";
    v->one = side_again(t->one.device ? &t->one : &t->all, c, d, seed, data, &z, &why);
    if (why)
        return why;
    return memcmp(v->got, v->one, bytes) != 0 ? "gives other bits with one thread" : NULL;
}

static const char *check_results(struct sides *t, const struct check *c, const int64_t *d,
                                 enum data_kind data, uint64_t seed, struct results *v, double *worst,
                                 char text[160])
{
    struct tensor y, z;
    const char *why = NULL;
    const struct tolerance_room room = tolerance_room(c->by, t->all.device, c->keeps_f16 ? DTYPE_F16 : DTYPE_F32);
    if (c->by->flags & TOLERANCE_MAGNITUDE) {
        t->reference.absolute = true;
        v->magnitude = side_again(&t->reference, c, d, seed, data, &y, &why);
        t->reference.largest = true;
        if (!why && room.steps > 0)
            v->largest = side_again(&t->reference, c, d, seed, data, &y, &why);
        t->reference.absolute = t->reference.largest = false;
    }
    if (!why)
        v->want = side_again(&t->reference, c, d, seed, data, &y, &why);
    if (!why && t->small > 0 && t->reference.run.flops + t->reference.run.bytes > t->small)
        return too_large;
    if (!why)
        v->got = side_again(&t->all, c, d, seed, data, &z, &why);
    if (why)
        return why;
    if (y.dtype != z.dtype || !tensor_same_shape(y, z))
        return "the result has another shape or type";
    why = check_inputs(&t->all, &t->reference);
    if (!why)
        why = compare(c, room, v, tensor_count(y), worst, text);
    return why ? why : check_repeats(t, c, d, data, seed, v);
}

static const char not_held[] = "not implemented";

/* NULL, not_held, too_large, or why case d of c fails on data, in text. */
static const char *check_case(struct sides *t, const struct check *c, const int64_t *d, enum data_kind data,
                              uint64_t seed, double *worst, char text[160])
{
    struct results v = {0};
    const char *why = check_results(t, c, d, data, seed, &v, worst, text);
    bool held = t->needed || t->all.run.err.code != ERR_UNSUPPORTED;
    if (why && why != text && why != too_large)
        str_copy(text, 160, why);
    mem_free(v.magnitude);
    mem_free(v.largest);
    mem_free(v.want);
    mem_free(v.got);
    mem_free(v.twice);
    mem_free(v.one);
    return !why || why == too_large ? why : held ? text : not_held;
}

static void print_case(const int64_t *d)
{
    int n = CASE_NUMBERS;
    while (n > 1 && d[n - 1] == 0)
        n--;
    for (int i = 0; i < n; i++)
        printf("%s%lld", i ? " " : "", (long long)d[i]);
}

static void report(const struct check *c, const int64_t *d, enum data_kind data, const char *why, struct totals *sum)
{
    static const char *const names[] = {"normal", "equal", "mixed"};
    if (why == not_held) {
        sum->skipped++;
        return;
    }
    if (!why) {
        sum->passed++;
        return;
    }
    sum->failed++;
    printf("FAIL %s [", c->op);
    print_case(d);
    printf("] %s: %s\n", names[data], why);
}

static void check_op(struct sides *t, const struct check *c, const struct options *o, struct totals *sum)
{
    double worst = 0;
    struct totals before = *sum;
    int n = 0, n_data = c->normal_only ? 1 : DATA_COUNT;
    for (int i = 0; i < c->n_cases - c->n_bench; i++) {
        if (!t) {
            sum->skipped += n_data;
            continue;
        }
        bool fits = true;
        for (int data = 0; data < n_data && fits; data++) {
            char text[160];
            uint64_t seed = (uint64_t)o->seed * 1000003u + (uint64_t)(i * DATA_COUNT + data);
            const char *why = check_case(t, c, c->cases[i], (enum data_kind)data, seed, &worst, text);
            fits = why != too_large;
            if (fits)
                report(c, c->cases[i], (enum data_kind)data, why, sum);
        }
        n += fits;
    }
    if (t && sum->skipped > before.skipped)
        printf("skip %-16s not implemented\n", c->op);
    else if (t && sum->failed == before.failed)
        printf("ok   %-16s %3d cases, worst %.2f of the bound\n", c->op, n, worst);
    fflush(stdout);
}

/* ---- speed ---- */

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One line a case: the shortest of many calls, by the clock on the wall and in CPU time (all threads; next to
 * a busy neighbour only the latter says something, and only for one thread, as waiting threads spin). */
static void bench_op(struct side *s, const struct check *c)
{
    for (int i = 0; i < c->n_cases; i++) {
        side_clear(s);
        s->random = 1;
        s->data = DATA_NORMAL;
        c->run(s, c->cases[i]);
        size_t mark = s->run.arena_used;
        double best = 1e30, least = 1e30, start = seconds(CLOCK_MONOTONIC);
        for (int k = 0; k < 200 && (k < 3 || seconds(CLOCK_MONOTONIC) - start < 0.5) && !run_failed(&s->run);
             k++) {
            s->run.flops = s->run.bytes = 0;
            s->replay = 0;
            double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
            c->run(s, c->cases[i]);
            wall = seconds(CLOCK_MONOTONIC) - wall;
            cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
            best = wall < best ? wall : best;
            least = cpu < least ? cpu : least;
            run_rewind(&s->run, mark);
        }
        s->replay = -1;
        printf("%-16s %9.3f ms %7.1f GFLOP/s %6.1f GB/s; cpu %9.3f ms %7.1f GFLOP/s  [", c->op, best * 1e3,
               s->run.flops / best * 1e-9, s->run.bytes / best * 1e-9, least * 1e3,
               s->run.flops / least * 1e-9);
        print_case(c->cases[i]);
        printf("]%s%s\n", run_failed(&s->run) ? " " : "", s->run.err.text);
        fflush(stdout);
    }
}

/* ---- main ---- */

static int side_open(struct side *s, const char *kind, int n_threads, enum device_precision precision, struct err *err)
{
    struct device_options o = {.n_threads = n_threads, .precision = precision};
    *s = (struct side){.replay = -1};
    int rc = device_open(&s->device, kind, &o, err);
    return rc < 0 ? rc : run_init(&s->run, s->device, s->device->is_host ? ARENA : ARENA_DEVICE, err);
}

static void side_close(struct side *s)
{
    if (!s->device)
        return;
    side_clear(s);
    run_done(&s->run);
    device_close(s->device);
}

static void walk(struct sides *t, const struct options *o, struct totals *sum)
{
    for (int f = 0; f < N_FAMILIES; f++) {
        for (const struct check *c = families[f]; c->op; c++) {
            if ((o->op && strcmp(o->op, c->op) != 0) || (o->precision != DEVICE_F32 && !(c->by->flags & TOLERANCE_ROUNDS)))
                continue;
            if (o->bench)
                bench_op(&t->all, c);
            else
                check_op(t, c, o, sum);
        }
    }
}

static bool parse_value(struct options *o, const char *name, const char *value)
{
    struct err err = {0};
    int64_t n = 0;
    if (strcmp(name, "--op") == 0)
        o->op = value;
    else if (strcmp(name, "--table") == 0)
        o->table = value;
    else if (strcmp(name, "--precision") == 0)
        return device_precision_parse(value, "", &o->precision, &err) == 0;
    else if (strcmp(name, "--seed") == 0)
        return str_parse_i64(value, 0, INT64_MAX, &o->seed) == 0;
    else if (strcmp(name, "--small") == 0 && str_parse_i64(value, 0, INT64_MAX, &n) == 0)
        o->small = (double)n;
    else if (strcmp(name, "--threads") == 0 && str_parse_i64(value, 1, 1024, &n) == 0)
        o->n_threads = (int)n;
    else
        return false;
    return true;
}

static bool parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0)
            o->bench = true;
        else if (strcmp(argv[i], "--needed") == 0)
            o->needed = true;
        else if (i + 1 == argc || !parse_value(o, argv[i], argv[i + 1]))
            return false;
        else
            i++;
    }
    return true;
}

int main(int argc, char **argv)
{
    threads_settle(argv);
    struct options o = {.table = "cpu", .seed = 1, .n_threads = 2};
    if (!parse(&o, argc, argv)) {
        fprintf(stderr, "usage: checkop [--op NAME] [--seed N] [--table cpu|cuda] [--threads N] [--small N] [--needed] "
                        "[--bench] [--precision bf16|fp8]\n");
        return 2;
    }
    struct sides t = {.small = o.small, .needed = o.needed};
    struct totals sum = {0};
    struct err err = {0};
    int rc = side_open(&t.reference, "cpu_ref", 1, DEVICE_F32, &err);
    if (rc == 0)
        rc = side_open(&t.all, o.table, o.n_threads, o.precision, &err);
    if (rc == 0 && t.all.device->is_host)
        rc = side_open(&t.one, o.table, 1, o.precision, &err);
    if (rc == 0 || rc == ERR_UNSUPPORTED)
        walk(rc == 0 ? &t : NULL, &o, &sum);
    if (rc < 0)
        printf("%s\n", err.text);
    side_close(&t.reference);
    side_close(&t.all);
    side_close(&t.one);
    if (!o.bench)
        printf("%d passed, %d failed, %d skipped\n", sum.passed, sum.failed, sum.skipped);
    return sum.failed || (rc < 0 && (o.needed || rc != ERR_UNSUPPORTED));
}
