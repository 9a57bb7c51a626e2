/* bench: what this device reaches on the operations that decide a video's time, at the shapes networks use.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/json.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "common/str.h"
#include "worker/command.h"
#include "worker/command_words.h"

struct row {
    const char *op, *shape;
    double seconds, flops, bytes;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Inputs of one op, drawn once; call runs it. */
struct timed {
    struct tensor x, w, b, k, v;
    struct attn attn;
    struct conv conv;
    void (*call)(struct run *r, const struct timed *t);
};

static void call_linear(struct run *r, const struct timed *t)
{
    op_linear(r, t->x, t->w, t->b, ACT_NONE);
}

static void call_attention(struct run *r, const struct timed *t)
{
    op_attention(r, t->x, t->k, t->v, t->attn);
}

static void call_conv(struct run *r, const struct timed *t)
{
    op_conv(r, t->x, t->w, t->b, &t->conv);
}

static void call_norm(struct run *r, const struct timed *t)
{
    op_layer_norm(r, t->x, TENSOR_NONE, TENSOR_NONE, 1e-6f);
}

static void call_group_norm(struct run *r, const struct timed *t)
{
    op_group_norm(r, t->x, t->w, t->b, 32, 1e-6f, ACT_SILU);
}

/* Best of repeats that fill about half a second; flops and bytes are what the run counted. */
static void measure(struct run *r, const struct timed *t, struct row *row)
{
    size_t mark = run_mark(r);
    double end = now() + 0.5;
    row->seconds = INFINITY;
    t->call(r, t);
    run_rewind(r, mark);
    do {
        double flops = r->flops, bytes = r->bytes, start = now();
        t->call(r, t);
        row->seconds = fmin(row->seconds, now() - start);
        row->flops = r->flops - flops;
        row->bytes = r->bytes - bytes;
        run_rewind(r, mark);
    } while (now() < end && !run_failed(r));
}

static struct tensor draw(struct run *r, int n, const int64_t *shape)
{
    return op_randn(r, 1, (uint32_t)r->n_ops, n, shape);
}

static size_t bench_all(struct run *r, struct row *row)
{
    size_t n = 0, mark = run_mark(r);
    const int64_t linear[][3] = {{1024, 512, 2048}, {2048, 3072, 3072}, {1, 3072, 18432}};
    const char *const linear_text[] = {"1024 x 512 -> 2048", "2048 x 3072 -> 3072", "1 x 3072 -> 18432"};
    for (int i = 0; i < 3; i++, n++) {
        struct timed t = {.x = draw(r, 2, SHAPE(linear[i][0], linear[i][1])),
                          .w = draw(r, 2, SHAPE(linear[i][2], linear[i][1])),
                          .b = draw(r, 1, SHAPE(linear[i][2])),
                          .call = call_linear};
        row[n] = (struct row){"linear", linear_text[i], 0, 0, 0};
        measure(r, &t, &row[n]);
        device_forget(r->device, t.w.data, tensor_bytes(t.w));
        run_rewind(r, mark);
    }
    const int64_t attn[][3] = {{2816, 8, 64}, {1500, 6, 64}, {4096, 4, 128}};
    const char *const attn_text[] = {"2816 tokens, 8 x 64", "1500 tokens, 6 x 64", "4096 tokens, 4 x 128"};
    for (int i = 0; i < 3; i++, n++) {
        const int64_t *s = attn[i];
        struct timed t = {.x = draw(r, 4, SHAPE(1, s[0], s[1], s[2])),
                          .k = draw(r, 4, SHAPE(1, s[0], s[1], s[2])),
                          .v = draw(r, 4, SHAPE(1, s[0], s[1], s[2])),
                          .call = call_attention,
                          .attn = {.kind = ATTN_FULL, .scale = 1 / sqrtf((float)s[2])}};
        row[n] = (struct row){"attention", attn_text[i], 0, 0, 0};
        measure(r, &t, &row[n]);
        run_rewind(r, mark);
    }
    struct timed conv = {.x = draw(r, 4, SHAPE(9, 64, 64, 128)),
                         .w = draw(r, 5, SHAPE(128, 128, 3, 3, 3)),
                         .b = draw(r, 1, SHAPE(128)),
                         .call = call_conv,
                         .conv = {.replicate = true, .pad_before = {2, 1, 1}, .pad_after = {0, 1, 1}}};
    row[n] = (struct row){"conv 3x3x3", "9 x 64 x 64, 128 -> 128", 0, 0, 0};
    measure(r, &conv, &row[n++]);
    device_forget(r->device, conv.w.data, tensor_bytes(conv.w));
    struct timed gn = {.x = conv.x, .w = conv.b, .b = conv.b, .call = call_group_norm};
    row[n] = (struct row){"group_norm", "9 x 64 x 64 x 128, silu", 0, 0, 0};
    measure(r, &gn, &row[n++]);
    run_rewind(r, mark);
    struct timed ln = {.x = draw(r, 2, SHAPE(2048, 3072)), .call = call_norm};
    row[n] = (struct row){"layer_norm", "2048 x 3072", 0, 0, 0};
    measure(r, &ln, &row[n++]);
    return n;
}

static void print(const struct device *d, const struct row *row, size_t n, bool json)
{
    json_t *list = json_array();
    if (!json)
        printf("%s, %s, %d threads\n%-12s %-26s %10s %10s %8s\n", d->name, d->kind, d->n_threads, "op",
               "shape", "ms", "GFLOP/s", "GB/s");
    for (size_t i = 0; i < n; i++) {
        double s = row[i].seconds;
        json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:f, s:f}", "op", row[i].op, "shape",
                                              row[i].shape, "ms", s * 1e3, "gflops", row[i].flops / s / 1e9,
                                              "gbytes_s", row[i].bytes / s / 1e9));
        if (!json)
            printf("%-12s %-26s %10.3f %10.1f %8.1f\n", row[i].op, row[i].shape, s * 1e3,
                   row[i].flops / s / 1e9, row[i].bytes / s / 1e9);
    }
    json_t *all = json_pack("{s:s, s:s, s:i, s:o}", "device", d->name, "table", d->kind, "threads",
                            d->n_threads, "rows", list);
    if (json) {
        json_dumpf(all, stdout, JSON_COMPACT);
        printf("\n");
    }
    json_decref(all);
}

enum { JSON, HELP, FLAGS, DEVICE = FLAGS, THREADS, PRECISION };
static const char *const options[] = {[JSON] = "json",       [HELP] = "help",           [DEVICE] = "device",
                                      [THREADS] = "threads", [PRECISION] = "precision", NULL};
static const char usage[] = "usage: troupe bench [options]\n\nTimes the operations on this machine.\n\n"
                            "  --device D      cpu or cpu_ref [cpu]\n"
                            "  --threads N     CPU threads; 0: all [0]\n"
                            "  --precision P   of linear weights: f32 or bf16 [f32]\n"
                            "  --json          answer as one JSON value\n";

struct wanted {
    const char *device;
    struct device_options o;
    bool json, help;
};

static int take(struct wanted *w, int option, const char *value, struct err *err)
{
    int64_t n = 0;
    w->json |= option == JSON;
    w->help |= option == HELP;
    if (option == DEVICE)
        w->device = value;
    if (option == THREADS && str_parse_i64(value, 0, 1024, &n) < 0)
        return err_set(err, ERR_INVALID, "--threads: %s is not a number from 0 to 1024", value);
    if (option == THREADS)
        w->o.n_threads = (int)n;
    if (option == PRECISION && strcmp(value, "bf16") != 0 && strcmp(value, "f32") != 0)
        return err_set(err, ERR_INVALID, "--precision: f32 and bf16 are allowed, not %s", value);
    if (option == PRECISION)
        w->o.precision = *value == 'b' ? DEVICE_BF16 : DEVICE_F32;
    return 0;
}

static int read_words(struct wanted *w, int argc, char **argv, struct err *err)
{
    const char *value;
    int rc = 0, option;
    for (int i = 1; i < argc && rc == 0; i++) {
        rc = command_words_next(options, FLAGS, argc, argv, &i, &option, &value, err);
        if (rc == 0)
            rc = take(w, option, value, err);
    }
    return rc;
}

int command_bench(int argc, char **argv)
{
    struct wanted w = {.device = "cpu"};
    struct device *d = NULL;
    struct row row[16];
    struct run r = {0};
    struct err err = {0};
    int rc = read_words(&w, argc, argv, &err);
    if (rc < 0)
        return command_words_fail(argc, argv, &err);
    if (w.help) {
        fputs(usage, stdout);
        return 0;
    }
    rc = device_open(&d, w.device, &w.o, &err);
    if (rc == 0)
        rc = run_init(&r, d, 0, &err);
    if (rc == 0) {
        size_t n = bench_all(&r, row);
        rc = r.err.code;
        if (rc == 0)
            print(d, row, n, w.json);
        else
            err_set(&err, rc, "%s", r.err.text);
        run_done(&r);
    }
    if (d)
        device_close(d);
    return rc < 0 ? command_words_fail(argc, argv, &err) : 0;
}
