/* bench: what this device reaches on the operations that decide a video's time, and on a whole step of the transformer.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "common/schema.h"
#include "common/str.h"
#include "kernels/ops.h"
#include "worker/bench/bench_ops.h"
#include "worker/bench/bench_report.h"
#include "worker/bench/bench_step.h"
#include "worker/command.h"
#include "worker/command_words.h"
#include "worker/media/size.h"

#define OPS_ARENA ((size_t)12 << 30) /* the largest row takes 9 GiB */

enum {
    JSON,
    OPS,
    STEP,
    PIN,
    HELP,
    FLAGS,
    DEVICE = FLAGS,
    THREADS,
    PRECISION,
    ONLY,
    DIMS,
    SIZE,
    FRAMES,
    BUDGET,
    WEIGHTS,
    LONGEST,
    TABLE
};
static const char *const options[] = {[JSON] = "json",
                                      [OPS] = "ops",
                                      [STEP] = "step",
                                      [PIN] = "pin",
                                      [HELP] = "help",
                                      [DEVICE] = "device",
                                      [THREADS] = "threads",
                                      [PRECISION] = "precision",
                                      [ONLY] = "only",
                                      [DIMS] = "dims",
                                      [SIZE] = "size",
                                      [FRAMES] = "frames",
                                      [BUDGET] = "budget",
                                      [WEIGHTS] = "weights",
                                      [LONGEST] = "row-s",
                                      [TABLE] = "table",
                                      NULL};
static const char usage[] =
    "usage: troupe bench [--ops] [--step] [options]\n\n"
    "Times the operations on this machine at the published network's sizes, and a whole step of the transformer.\n\n"
    "  --ops             every operation, one after the other; this, where neither is said\n"
    "  --step            a full and a cached step, a tile of the decoder, the text encoder\n"
    "  --device D        cpu, cpu_ref or cuda[:N] [cpu]\n"
    "  --threads N       CPU threads; 0: all [0]\n"
    "  --precision P     auto, f32, bf16 or fp8: what is multiplied; auto: bf16 on cuda, f32 on a CPU [auto]\n"
    "  --size N          area class, for a square picture, or WxH [704x768]\n"
    "  --frames N        length in frames [129]\n"
    "  --only NAME       rows of this name alone: linear, two texts, ...\n"
    "  --row-s S         operations: sizes are halved until a call takes no longer; 0: 0.05 on a CPU, 3 elsewhere.\n"
    "                    step: a row is repeated for about so long; 0: 8 [0]\n"
    "  --dims D          step: full, the published sizes with random weights, or a folder of weights [full]\n"
    "  --weights W       step: resident, staged, streamed, or auto: the fastest that fits [auto]\n"
    "  --pin             step: weights that come and go do so from pinned copies\n"
    "  --budget MIB      step: device memory that may be taken; 0: all that is free [0]\n"
    "  --json [FILE]     one JSON value, instead of text, or into a file\n"
    "  --table FILE      a Markdown table into a file\n";

struct wanted {
    char kind[16];
    const char *precision, *json_path, *table_path;
    struct device_options o;
    bool json, help, ops, step;
    struct bench_ops_options of_ops;
    struct bench_step_options of_step;
};

static int take_device(struct wanted *w, const char *text, struct err *err)
{
    int64_t index = 0;
    const char *colon = strchr(text, ':');
    if (str_format(w->kind, sizeof w->kind, "%.*s", (int)strcspn(text, ":"), text) < 0 ||
        (colon && str_parse_i64(colon + 1, 0, 1023, &index) < 0))
        return err_set(err, ERR_INVALID, "--device: '%s' is not allowed; cpu, cpu_ref, cuda or cuda:N is", text);
    w->o.index = (int)index;
    return 0;
}

static int take_number(const char *name, const char *text, int64_t min, int64_t max, int64_t *ret, struct err *err)
{
    if (str_parse_i64(text, min, max, ret) == 0)
        return 0;
    return err_set(err, ERR_INVALID, "--%s: %s is not a number from %lld to %lld", name, text, (long long)min,
                   (long long)max);
}

static int take_size(struct wanted *w, const char *text, struct err *err)
{
    int size = 0, width = 0, height = 0;
    int rc = schema_size_parse(text, 64, 4096, &size, &width, &height, err);
    if (rc == 0 && size > 0)
        size_rule(size, size, size, &width, &height);
    if (rc == 0 && (width % 16 || height % 16))
        rc = err_set(err, ERR_INVALID, "--size: %d x %d given, multiples of 16 are allowed", width, height);
    if (rc < 0)
        return rc;
    w->of_ops.width = w->of_step.width = width;
    w->of_ops.height = w->of_step.height = height;
    return 0;
}

static int take_value(struct wanted *w, int option, const char *value, struct err *err)
{
    int64_t n = 0;
    int rc = 0;
    switch (option) {
    case DEVICE:
        return take_device(w, value, err);
    case THREADS:
        rc = take_number("threads", value, 0, 1024, &n, err);
        w->o.n_threads = (int)n;
        return rc;
    case PRECISION:
        w->precision = value;
        return 0;
    case ONLY:
        w->of_ops.only = w->of_step.only = value;
        return 0;
    case DIMS:
        w->of_step.dims = value;
        return 0;
    case SIZE:
        return take_size(w, value, err);
    case FRAMES:
        rc = take_number("frames", value, 1, 15000, &w->of_step.frames, err);
        w->of_ops.frames = w->of_step.frames;
        return rc;
    case BUDGET:
        rc = take_number("budget", value, 0, 1 << 24, &n, err);
        w->of_step.budget = w->o.memory_limit = (size_t)n << 20;
        return rc;
    case WEIGHTS:
        w->of_step.weights = value;
        return 0;
    case LONGEST:
        if (str_parse_f64(value, 0, 1e6, &w->of_ops.longest) < 0)
            return err_set(err, ERR_INVALID, "--row-s: %s is not a number of seconds", value);
        w->of_step.seconds = w->of_ops.longest;
        return 0;
    default:
        w->table_path = value;
        return 0;
    }
}

static int read_words(struct wanted *w, int argc, char **argv, struct err *err)
{
    const char *value;
    int rc = 0, option;
    for (int i = 1; i < argc && rc == 0; i++) {
        rc = command_words_next(options, FLAGS, argc, argv, &i, &option, &value, err);
        if (rc == 0 && option >= FLAGS)
            rc = take_value(w, option, value, err);
        if (rc < 0 || option >= FLAGS)
            continue;
        w->ops |= option == OPS;
        w->step |= option == STEP;
        w->of_step.pin |= option == PIN;
        w->help |= option == HELP;
        if (option == JSON && i + 1 < argc && argv[i + 1][0] != '-')
            w->json_path = argv[++i];
        else
            w->json |= option == JSON;
    }
    w->ops |= !w->step;
    return rc;
}

static int save(const struct bench_report *b, const char *path, bool json, struct err *err)
{
    FILE *f = fopen(path, "we");
    int bad = !f;
    if (f && json) {
        json_t *v = bench_report_json(b);
        bad = !v || json_dumpf(v, f, JSON_INDENT(1)) < 0 || fputc('\n', f) == EOF;
        json_decref(v);
    } else if (f) {
        bench_report_table(b, f);
        bad = ferror(f);
    }
    if (f && (fclose(f) != 0 || bad))
        bad = 1;
    return bad ? err_set(err, ERR_IO, "%s: %s", path, strerror(errno)) : 0;
}

static int tell(const struct wanted *w, const struct bench_report *b, struct err *err)
{
    int rc = w->json_path ? save(b, w->json_path, true, err) : 0;
    if (rc == 0 && w->table_path)
        rc = save(b, w->table_path, false, err);
    if (w->json) {
        json_t *v = bench_report_json(b);
        json_dumpf(v, stdout, JSON_COMPACT);
        printf("\n");
        json_decref(v);
    } else {
        bench_report_text(b, stdout);
    }
    return rc;
}

/* A measured peak is what the best of them reached. */
static void take_rows(struct bench_report *b, int n)
{
    b->n_rows = n;
    for (int i = 0; b->peak.is_measured && i < n; i++) {
        double rate = b->rows[i].skipped[0] ? 0 : b->rows[i].time.flops / b->rows[i].time.seconds;
        if (rate > b->peak.flops[b->device->precision])
            b->peak.flops[b->device->precision] = rate;
    }
}

/* Peaks and operations, in an arena that is gone before the step takes its own. */
static int bench_ops(struct wanted *w, struct bench_report *b, struct bench_row *rows, struct device *d, struct err *err)
{
    struct run r;
    size_t room = device_free_bytes(d) / 4 * 3;
    int rc = run_init(&r, d, d->is_host ? 0 : room < OPS_ARENA ? room : OPS_ARENA, err);
    if (rc < 0)
        return rc;
    bench_peak_find(d->name, &b->peak);
    rc = bench_peak_measure(&r, &b->peak);
    if (w->of_ops.longest <= 0)
        w->of_ops.longest = d->is_host ? 0.05 : 3;
    if (rc == 0 && w->ops)
        rc = bench_ops_all(&r, &w->of_ops, &b->peak, rows);
    if (rc >= 0)
        take_rows(b, rc);
    else
        err_set(err, rc, "%s", r.err.text);
    run_done(&r);
    return rc < 0 ? rc : 0;
}

static int bench(struct wanted *w, struct device *d, struct err *err)
{
    struct bench_row *rows = mem_calloc(BENCH_OPS_MAX, sizeof *rows);
    struct bench_step_result *step = mem_zalloc(sizeof *step);
    struct bench_report b = {.device = d, .rows = rows};
    int rc = rows && step ? bench_ops(w, &b, rows, d, err) : err_set(err, ERR_NOMEM, "bench: no memory");
    if (rc == 0 && w->step) {
        b.step = step;
        rc = bench_step_run(d, &w->of_step, &b.peak, step, err);
    }
    if (rc == 0)
        rc = tell(w, &b, err);
    if (rc == 0 && w->step && !step->within_plan)
        rc = err_set(err, ERR_NOMEM, "the step took more memory than was planned");
    mem_free(step);
    mem_free(rows);
    return rc;
}

int command_bench(int argc, char **argv)
{
    struct wanted w = {.kind = "cpu",
                       .precision = "auto",
                       .of_ops = {.width = 704, .height = 768, .frames = 129},
                       .of_step = {.dims = "full", .weights = "auto", .width = 704, .height = 768, .frames = 129}};
    struct device *d = NULL;
    struct err err = {0};
    int rc = read_words(&w, argc, argv, &err);
    if (rc < 0)
        return command_words_fail(argc, argv, &err);
    if (w.help) {
        fputs(usage, stdout);
        return 0;
    }
    rc = device_precision_parse(w.precision, w.kind, &w.o.precision, &err);
    if (rc == 0)
        rc = device_open(&d, w.kind, &w.o, &err);
    if (rc == 0)
        rc = bench(&w, d, &err);
    if (d)
        device_close(d);
    return rc < 0 ? command_words_fail(argc, argv, &err) : 0;
}
