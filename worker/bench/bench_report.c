#include "worker/bench/bench_report.h"

#include <string.h>

#include "common/clock.h"
#include "common/str.h"
#include "common/version.h"

/* The figures of a row against the peak. */
struct figures {
    double tflops, gbytes, compute, memory; /* rates, and shares of the peak; 0 where there is no peak */
    bool is_compute;                        /* what bounds it */
};

static struct figures figures_of(const struct bench_report *b, const struct bench_row *w)
{
    const struct bench_time *t = &w->time;
    double peak = b->peak.flops[w->is_heavy ? b->device->precision : DEVICE_F32];
    if (peak <= 0)
        peak = b->peak.flops[DEVICE_BF16];
    struct figures f = {.tflops = t->flops / t->seconds / 1e12, .gbytes = t->bytes / t->seconds / 1e9};
    f.compute = peak > 0 ? f.tflops * 1e12 / peak : 0;
    f.memory = b->peak.bytes > 0 ? f.gbytes * 1e9 / b->peak.bytes : 0;
    f.is_compute = f.compute > f.memory;
    return f;
}

static void driver_version(char *dst, size_t size)
{
    FILE *f = fopen("/sys/module/nvidia/version", "re");
    char line[64] = "";
    if (f && fgets(line, sizeof line, f))
        line[strcspn(line, "\n")] = 0;
    if (f)
        fclose(f);
    str_copy(dst, size, line);
}

static void shape_text(const struct bench_row *w, char *dst, size_t size)
{
    if (w->halved)
        str_format(dst, size, "%s (1/%d)", w->shape, 1 << (w->halved < 30 ? w->halved : 30));
    else
        str_copy(dst, size, w->shape);
}

/* ---- text ---- */

static void head(const struct bench_report *b, FILE *to, const char *end)
{
    char driver[64], peak[32] = "";
    const struct device *d = b->device;
    driver_version(driver, sizeof driver);
    if (d->n_threads > 1)
        str_format(peak, sizeof peak, ", %d threads", d->n_threads);
    fprintf(to, "%s, table %s, %s%s%s%s, build %s%s\n", d->name, d->kind, device_precision_name(d->precision), peak,
            !d->is_host && driver[0] ? ", driver " : "", !d->is_host ? driver : "", version_build(), end);
    fprintf(to, "peak: %.4g TFLOP/s, %.4g GB/s (%s); a large linear layer reaches %.4g, a large copy %.4g%s\n",
            b->peak.flops[d->precision] / 1e12, b->peak.bytes / 1e9, b->peak.source, b->peak.rate_flops / 1e12,
            b->peak.rate_bytes / 1e9, end);
}

static void text_row(const struct bench_report *b, const struct bench_row *w, FILE *to)
{
    char shape[96], goal[32] = "";
    shape_text(w, shape, sizeof shape);
    if (w->skipped[0]) {
        fprintf(to, "%-14s %-24s %-40s %s\n", w->op, w->where, shape, w->skipped);
        return;
    }
    struct figures f = figures_of(b, w);
    if (w->goal > 0)
        str_format(goal, sizeof goal, "  goal %.0f %%", w->goal * 100);
    fprintf(to, "%-14s %-24s %-40s %11.4f %3.0f %9.4g %4.0f %9.4g %4.0f  %s%s\n", w->op, w->where, shape,
            w->time.seconds * 1e3, w->time.spread * 100, f.tflops, f.compute * 100, f.gbytes, f.memory * 100,
            f.is_compute ? "compute" : "memory", goal);
}

static void text_head(FILE *to)
{
    fprintf(to, "\n%-14s %-24s %-40s %11s %3s %9s %4s %9s %4s  %s\n", "op", "where", "shape", "ms", "+-%", "TFLOP/s", "%",
            "GB/s", "%", "bound by");
}

static void step_text(const struct bench_step_result *s, FILE *to)
{
    char plan[32], peak[32], used[32], budget[32];
    fprintf(to, "\n%s dims, %d x %d, %lld frames, %lld tokens, weights %s", s->dims, s->width, s->height,
            (long long)s->frames, (long long)s->tokens, s->weights);
    if (s->budget)
        fprintf(to, ", budget %s", str_bytes(budget, sizeof budget, s->budget));
    fprintf(to, "\nplan %s, peak %s%s", str_bytes(plan, sizeof plan, s->plan_bytes),
            str_bytes(peak, sizeof peak, s->peak_bytes), s->within_plan ? ": within it" : ": ABOVE IT");
    if (s->used_bytes)
        fprintf(to, "; of the device %s (%s)", str_bytes(used, sizeof used, s->used_bytes),
                s->by_nvml ? "NVML" : "by what is free");
    if (s->slow_down > 0)
        fprintf(to, "\nslow-down against resident weights %.3f (goal 1.05)", s->slow_down);
    fprintf(to, "%s%s\n", s->note[0] ? "\n" : "", s->note);
}

void bench_report_text(const struct bench_report *b, FILE *to)
{
    head(b, to, "");
    if (b->n_rows)
        text_head(to);
    for (int i = 0; i < b->n_rows; i++)
        text_row(b, &b->rows[i], to);
    if (!b->step)
        return;
    step_text(b->step, to);
    text_head(to);
    for (int i = 0; i < b->step->n_rows; i++)
        text_row(b, &b->step->row[i], to);
}

/* ---- Markdown ---- */

static void table_rows(const struct bench_report *b, const struct bench_row *rows, int n, FILE *to)
{
    fprintf(to, "\n| op | where | shape | ms | spread | TFLOP/s | of peak | GB/s | of memory | bound by |\n"
                "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (int i = 0; i < n; i++) {
        const struct bench_row *w = &rows[i];
        char shape[96], goal[32] = "";
        shape_text(w, shape, sizeof shape);
        if (w->skipped[0]) {
            fprintf(to, "| %s | %s | %s | %s | | | | | | |\n", w->op, w->where, shape, w->skipped);
            continue;
        }
        struct figures f = figures_of(b, w);
        if (w->goal > 0)
            str_format(goal, sizeof goal, " (goal %.0f %%)", w->goal * 100);
        fprintf(to, "| %s | %s | %s | %.4g | %.0f %% | %.4g | %.0f %%%s | %.4g | %.0f %% | %s |\n", w->op, w->where, shape,
                w->time.seconds * 1e3, w->time.spread * 100, f.tflops, f.compute * 100, goal, f.gbytes, f.memory * 100,
                f.is_compute ? "compute" : "memory");
    }
}

void bench_report_table(const struct bench_report *b, FILE *to)
{
    head(b, to, "  ");
    if (b->n_rows)
        table_rows(b, b->rows, b->n_rows, to);
    if (!b->step)
        return;
    step_text(b->step, to);
    table_rows(b, b->step->row, b->step->n_rows, to);
}

/* ---- JSON ---- */

static json_t *row_json(const struct bench_report *b, const struct bench_row *w)
{
    json_t *v = json_pack("{s:s, s:s, s:s, s:i, s:o, s:o}", "op", w->op, "where", w->where, "shape", w->shape, "halved",
                          w->halved, "goal", w->goal > 0 ? json_real(w->goal) : json_null(), "skipped",
                          w->skipped[0] ? json_string(w->skipped) : json_null());
    if (w->of > 0)
        json_object_set_new(v, "of", json_integer(w->of));
    if (w->skipped[0])
        return v;
    struct figures f = figures_of(b, w);
    json_t *more = json_pack("{s:f, s:f, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:s}", "ms", w->time.seconds * 1e3, "spread",
                             w->time.spread, "samples", w->time.samples, "gflop", w->time.flops / 1e9, "tflops", f.tflops,
                             "compute_share", f.compute, "gbytes", w->time.bytes / 1e9, "gbytes_s", f.gbytes, "memory_share",
                             f.memory, "bound", f.is_compute ? "compute" : "memory");
    json_object_update(v, more);
    json_decref(more);
    return v;
}

static json_t *rows_json(const struct bench_report *b, const struct bench_row *rows, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, row_json(b, &rows[i]));
    return list;
}

static json_t *step_json(const struct bench_report *b, const struct bench_step_result *s)
{
    return json_pack("{s:s, s:i, s:i, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:b, s:b, s:o, s:s, s:o}", "dims", s->dims, "width",
                     s->width, "height", s->height, "frames", (json_int_t)s->frames, "tokens", (json_int_t)s->tokens,
                     "weights", s->weights, "budget_mib", (json_int_t)(s->budget >> 20), "plan_bytes",
                     (json_int_t)s->plan_bytes, "peak_bytes", (json_int_t)s->peak_bytes, "used_bytes",
                     (json_int_t)s->used_bytes, "by_nvml", s->by_nvml, "within_plan", s->within_plan, "slow_down",
                     s->slow_down > 0 ? json_real(s->slow_down) : json_null(), "note", s->note, "rows",
                     rows_json(b, s->row, s->n_rows));
}

json_t *bench_report_json(const struct bench_report *b)
{
    const struct device *d = b->device;
    char driver[64], time[40];
    driver_version(driver, sizeof driver);
    json_t *peak = json_pack("{s:s, s:b, s:f, s:f, s:f, s:f}", "source", b->peak.source, "measured", b->peak.is_measured,
                             "tflops", b->peak.flops[d->precision] / 1e12, "gbytes_s", b->peak.bytes / 1e9, "linear_tflops",
                             b->peak.rate_flops / 1e12, "copy_gbytes_s", b->peak.rate_bytes / 1e9);
    json_t *v =
        json_pack("{s:s, s:s, s:s, s:i, s:I, s:s, s:s, s:s, s:o, s:o}", "device", d->name, "table", d->kind, "precision",
                  device_precision_name(d->precision), "threads", d->n_threads, "memory_bytes", (json_int_t)d->memory_bytes,
                  "driver", driver, "build", version_build(), "time", clock_format(time, sizeof time, clock_wall_ms()),
                  "peak", peak, "rows", rows_json(b, b->rows, b->n_rows));
    if (b->step)
        json_object_set_new(v, "step", step_json(b, b->step));
    return v;
}
