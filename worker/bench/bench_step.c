#include "worker/bench/bench_step.h"

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/ops.h"
#include "worker/bench/bench_progress.h"
#include "worker/model/avatar_full.h"
#include "worker/model/avatar_parts.h"
#include "worker/model/dit.h"
#include "worker/model/dit_denoise.h"
#include "worker/model/llava.h"
#include "worker/model/tokenizer_llama.h"
#include "worker/model/vae.h"
#include "worker/model/whisper.h"

enum { STEPS = 50, EARLY = 0, LATE = 10, CACHED = 16, CALLS = 3 /* at least, of each row */ };
#define SECONDS 8
#define PAGE ((size_t)2 << 20) /* a GPU's allocations are multiples of it */
#define GOAL 0.70              /* of the bf16 peak, of a whole step */
#define GOAL_TILE 0.50         /* of a decoder tile */

/* One walk over the rows: with a device it measures, without one it plans. */
struct walk {
    const struct bench_step_options *o;
    struct device *device; /* NULL: planning */
    const struct bench_peak *peak;
    struct bench_step_result *result;
    struct bench_progress progress;
    struct avatar_parts parts;
    struct run run;
    struct avatar_mode mode; /* of the part at work */
    size_t arena, weights;   /* planned */
    size_t rounding;         /* of weights with allocations of their own, of arena and pool */
    double expect;           /* seconds of the next call */
    int blocks, n_blocks;
};

/* ---- rows ---- */

static struct bench_row *row_new(struct walk *w, const char *op, const char *where, const char *shape, double goal, int of)
{
    struct bench_step_result *s = w->result;
    struct bench_row *row = &s->row[s->n_rows++];
    *row = (struct bench_row){.goal = w->device->is_host ? 0 : goal, .of = of, .is_heavy = true};
    str_copy(row->op, sizeof row->op, op);
    str_copy(row->where, sizeof row->where, where);
    str_copy(row->shape, sizeof row->shape, shape);
    return row;
}

/* Seconds of the first full step; 0: none was wanted. */
static double full_step(const struct bench_step_result *s)
{
    for (int i = 0; i < s->n_rows; i++)
        if (strcmp(s->row[i].op, "full step") == 0)
            return s->row[i].time.seconds;
    return 0;
}

/* Blocks as the CPU passes them; a device is asked to do them all and answers at the end. */
static void tap(void *arg, struct run *r, const char *name, struct tensor t)
{
    struct walk *w = arg;
    (void)r;
    (void)t;
    if (str_starts(name, "dit.") && w->blocks < CALLS * w->n_blocks)
        bench_progress_show(&w->progress, name, ++w->blocks, CALLS * w->n_blocks, -1);
}

/* Plans or times a call as a row. */
static int measure(struct walk *w, const char *op, const char *where, const char *shape, double goal, int of,
                   const struct bench_work *work)
{
    struct run *r = &w->run;
    if (w->o->only && strcmp(w->o->only, op) != 0 && strcmp(w->o->only, where) != 0)
        return 0;
    if (!w->device) {
        size_t mark = run_mark(r);
        double flops = r->flops;
        work->call(r, work->arg);
        run_rewind(r, mark);
        w->expect = (r->flops - flops) / (w->peak->rate_flops / 2);
        return r->err.code;
    }
    struct bench_row *row = row_new(w, op, where, shape, goal, of);
    bench_progress_start(&w->progress, op);
    bench_progress_show(&w->progress, where, 0, 1, w->expect * CALLS);
    w->blocks = 0;
    r->tap = w->device->is_host ? tap : NULL;
    r->tap_arg = w;
    const struct bench_limits limits = {.samples = 5, .seconds = w->o->seconds > 0 ? w->o->seconds : SECONDS};
    int rc = bench_time_calls(r, work, &limits, &row->time);
    bench_progress_end(&w->progress);
    bool by_nvml = false;
    size_t used = device_used_bytes(w->device, &by_nvml);
    if (used > w->result->used_bytes) {
        w->result->used_bytes = used;
        w->result->by_nvml = by_nvml;
    }
    return rc;
}

/* ---- the transformer ---- */

struct dit_call {
    struct dit_denoise *n;
    struct tensor x;
    int step;
};

static void call_step(struct run *r, void *arg)
{
    const struct dit_call *c = arg;
    struct tensor v[DIT_ROWS];
    dit_denoise_begin(c->n, r, c->step);
    dit_denoise_predict(c->n, r, c->step, 0, c->x, v);
}

/* What was timed must have computed something: the cached step's velocities, which follow from the last full step. */
static int check_finite(struct run *r, struct dit_call *c)
{
    struct tensor v[DIT_ROWS];
    size_t mark = run_mark(r);
    c->step = CACHED;
    dit_denoise_begin(c->n, r, c->step);
    dit_denoise_predict(c->n, r, c->step, 0, c->x, v);
    for (int i = 0; i < DIT_ROWS && !run_failed(r); i++) {
        int64_t n = tensor_count(v[i]), k = 0;
        float *host = mem_calloc((size_t)n, sizeof *host);
        if (!host)
            return run_fail(r, ERR_NOMEM, "no memory for %lld velocities", (long long)n);
        run_read(r, v[i], host);
        while (k < n && isfinite(host[k]))
            k++;
        mem_free(host);
        if (k < n)
            run_fail(r, ERR_INTERNAL, "velocity %lld of row %d is not finite", (long long)k, i);
    }
    run_rewind(r, mark);
    return r->err.code;
}

static struct sampler_text random_text(struct run *r, const struct dit *d, const uint8_t *mask)
{
    const int64_t rows = 831;
    return (struct sampler_text){.states = op_randn(r, 2, 1, 2, SHAPE(rows, d->dims.text)),
                                 .text2 = op_randn(r, 2, 2, 1, SHAPE(d->dims.text2)),
                                 .mask = r->table ? mask : NULL,
                                 .n_valid = rows};
}

static void make_inputs(struct walk *w, struct run *r, const uint8_t *mask, struct sampler_inputs *in)
{
    const struct dit *d = w->parts.dit;
    const int64_t h = w->o->height / 8, x = w->o->width / 8, C = d->dims.channels, T = WINDOW_LATENTS;
    const int64_t states = 5, width = d->dims.audio / (WHISPER_WINDOW * states);
    struct window_plan plan;
    *in = (struct sampler_inputs){
        .fps = 25, .n_frames = w->o->frames, .steps = STEPS, .guidance = 7.5, .shift = 5, .round_bf16 = true};
    if (window_plan_init(&plan, w->o->frames, &r->err) < 0)
        return;
    in->audio = op_randn(r, 3, 1, 4, SHAPE(w->o->frames, WHISPER_WINDOW, states, width));
    in->face = run_new(r, DTYPE_F32, 2, SHAPE(h, x));
    op_fill(r, in->face, 1);
    in->ref = op_randn(r, 3, 2, 4, SHAPE(C, T, h, x));
    in->noise = op_randn(r, 3, 3, 4, SHAPE(C, plan.n_latents, h, x));
    in->negative = random_text(r, d, mask);
    in->positive = random_text(r, d, mask);
}

static int count_steps(bool cached, bool late)
{
    int n = 0;
    for (int i = 0; i < STEPS; i++)
        n += sampler_is_cached(i) == cached && (cached || sampler_is_late(i) == late);
    return n;
}

static int walk_steps(struct walk *w, const struct sampler_inputs *in, const struct sampler_plan *plan)
{
    static const struct {
        const char *where;
        int step;
        double goal;
        bool cached, late;
    } rows[] = {
        {"two texts", EARLY, GOAL, false, false}, {"one text", LATE, GOAL, false, true}, {"cached", CACHED, 0, true, true}};
    struct run *r = &w->run;
    struct dit_call c = {0};
    char shape[64];
    double start = bench_time_now(), flops = r->flops, bytes = r->bytes;
    int rc = dit_denoise_new(&c.n, r, w->parts.dit, plan, in);
    if (rc == 0)
        rc = w->device ? bench_time_wait(r) : 0;
    if (rc == 0 && w->device) {
        struct bench_row *row = row_new(w, "prepare", "once a video", "", 0, 1);
        row->time = (struct bench_time){
            .seconds = bench_time_now() - start, .flops = r->flops - flops, .bytes = r->bytes - bytes, .samples = 1};
    }
    str_format(shape, sizeof shape, "%lld tokens, both rows", (long long)w->result->tokens);
    if (rc == 0)
        c.x = tensor_slice(in->noise, 1, 0, WINDOW_LATENTS);
    for (size_t i = 0; rc == 0 && i < sizeof rows / sizeof *rows; i++) {
        c.step = rows[i].step;
        rc = measure(w, rows[i].cached ? "cached step" : "full step", rows[i].where, shape, rows[i].goal,
                     count_steps(rows[i].cached, rows[i].late) * plan->window.n_windows,
                     &(struct bench_work){call_step, NULL, &c});
    }
    if (rc == 0 && full_step(w->result) > 0)
        rc = check_finite(r, &c);
    dit_denoise_free(c.n);
    return rc;
}

static int walk_dit(struct walk *w, struct err *err)
{
    const struct dit_dims *s = &w->parts.dit->dims;
    uint8_t mask[831];
    struct sampler_inputs in;
    struct sampler_plan *plan = mem_zalloc(sizeof *plan);
    memset(mask, 1, sizeof mask);
    if (!plan)
        return err_set(err, ERR_NOMEM, "bench: no memory for a plan");
    make_inputs(w, &w->run, mask, &in);
    int rc = run_failed(&w->run) ? w->run.err.code : sampler_plan_init(plan, &in, err);
    w->result->tokens = (WINDOW_LATENTS + 1) * (w->o->height / 16) * (w->o->width / 16) + in.positive.n_valid;
    w->n_blocks = 2 * (s->n_double + s->n_single - 1);
    if (rc == 0)
        rc = walk_steps(w, &in, plan);
    w->n_blocks = 0;
    mem_free(plan);
    return rc;
}

/* ---- the decoder ---- */

struct vae_call {
    const struct avatar_parts *parts;
    struct tensor z;
};

static void call_tile(struct run *r, void *arg)
{
    const struct vae_call *c = arg;
    avatar_parts_take(c->parts, r, AVATAR_PART_VAE);
    vae_net_decode(r, vae_get_net(c->parts->vae), c->z);
    avatar_parts_leave(c->parts, r, AVATAR_PART_VAE);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int walk_vae(struct walk *w, struct err *err)
{
    struct vae_call c = {.parts = &w->parts};
    const struct vae_config *v = &vae_get_net(w->parts.vae)->config;
    const int64_t tile = v->tile_size / v->space_ratio, h = w->o->height / v->space_ratio, x = w->o->width / v->space_ratio;
    const int64_t t = v->tile_frames / v->time_ratio + 1, step = tile * 3 / 4, step_t = (t - 1) * 3 / 4;
    const int64_t n = ((h + step - 1) / step) * ((x + step - 1) / step) * ((WINDOW_LATENTS - 1 + step_t - 1) / step_t);
    char shape[64];
    (void)err;
    c.z = op_randn(&w->run, 4, 1, 4, SHAPE(least(t, WINDOW_LATENTS), least(tile, h), least(tile, x), v->latent_channels));
    str_format(shape, sizeof shape, "%lld latents of %lld x %lld", (long long)c.z.shape[0], (long long)c.z.shape[1],
               (long long)c.z.shape[2]);
    return measure(w, "decoder tile", "vae", shape, GOAL_TILE, (int)n, &(struct bench_work){call_tile, NULL, &c});
}

/* ---- the text encoder ---- */

struct text_call {
    const struct llava *l;
    int32_t ids[TOKENIZER_LLAMA_MAX];
    struct tensor pixels;
};

static void call_text(struct run *r, void *arg)
{
    const struct text_call *c = arg;
    struct tensor image = llava_vision(r, c->l, c->pixels, NULL);
    llava_text(r, c->l, r->table ? c->ids : NULL, TOKENIZER_LLAMA_MAX, image);
}

static int walk_text(struct walk *w, struct err *err)
{
    struct text_call c = {.l = w->parts.llava};
    struct llava_config config;
    char path[1024];
    int rc;
    if (!w->parts.root)
        rc = llava_config_parse(&config, (const char *)avatar_full_llava_json, avatar_full_llava_json_len, err);
    else if (str_path(path, sizeof path, w->parts.root, "llava_llama_image/config.json") < 0)
        rc = err_set(err, ERR_INVALID, "--dims: the path is too long");
    else
        rc = llava_config_read(&config, path, err);
    if (rc < 0)
        return rc;
    for (int i = 0; i < TOKENIZER_LLAMA_MAX; i++)
        c.ids[i] = i % 100;
    if (config.image_id >= 0)
        c.ids[TOKENIZER_LLAMA_MAX - 1] = (int32_t)config.image_id;
    c.pixels = op_to_u8(&w->run, op_randn(&w->run, 5, 1, 3, SHAPE(336, 336, 3)));
    return measure(w, "text encoder", "vision and one prompt", "351 tokens, 336 x 336", 0, 2,
                   &(struct bench_work){call_text, NULL, &c});
}

/* ---- a part: planned, loaded, measured, gone ---- */

static const struct part {
    enum avatar_part part;
    int (*walk)(struct walk *w, struct err *err);
    const char *rows[6]; /* what it measures */
} parts[] = {{AVATAR_PART_DIT, walk_dit, {"prepare", "full step", "two texts", "one text", "cached step", "cached"}},
             {AVATAR_PART_VAE, walk_vae, {"decoder tile", "vae"}},
             {AVATAR_PART_TEXT, walk_text, {"text encoder", "vision and one prompt"}}};

static bool is_wanted(const struct bench_step_options *o, const struct part *p)
{
    for (int i = 0; o->only && i < 6 && p->rows[i]; i++)
        if (strcmp(o->only, p->rows[i]) == 0)
            return true;
    return !o->only;
}

static int walk_part(struct walk *w, const struct part *p, struct err *err)
{
    const char *root = strcmp(w->o->dims, "full") == 0 ? NULL : w->o->dims;
    int rc = avatar_parts_init(&w->parts, w->device, root, false, err);
    if (rc < 0)
        return rc;
    avatar_parts_set_mode(&w->parts, &w->mode);
    w->parts.pool_bytes = w->device ? w->weights : 0;
    rc = avatar_parts_need(&w->parts, p->part, err);
    if (rc == 0)
        rc = run_init(&w->run, w->device, w->device ? w->arena : 0, err);
    if (rc == 0) {
        rc = p->walk(w, err);
        if (rc < 0 && !err->code)
            err_set(err, rc, "%s", w->run.err.text);
        if (!w->device) {
            w->arena = w->run.arena_peak + (64 << 10); /* a wait's own */
            w->weights = avatar_parts_bytes(&w->parts, p->part);
            w->rounding = avatar_parts_rounding(&w->parts) + 2 * PAGE;
        }
    }
    return rc;
}

static void done_part(struct walk *w)
{
    run_done(&w->run);
    avatar_parts_done(&w->parts);
    w->run = (struct run){0};
}

/* What it takes of the device beyond what is taken for good; a CPU makes f32 of bf16 weights. */
static size_t need(const struct walk *w, const struct device *d)
{
    return d->is_host ? 2 * w->weights + w->arena : w->weights + w->arena + w->rounding;
}

/* The first mode of the ladder whose plan fits. */
static int plan_part(struct walk *w, const struct part *p, struct device *d, const char *weights, struct err *err)
{
    struct avatar_mode ladder[AVATAR_MODES];
    char want[32], have[32];
    size_t room = device_free_bytes(d);
    int n = avatar_mode_ladder(weights, d->is_host, w->o->pin, ladder, err);
    if (n < 0)
        return n;
    w->device = NULL;
    for (int i = 0; i < n; i++) {
        w->mode = ladder[i];
        int rc = walk_part(w, p, err);
        done_part(w);
        if (rc < 0 || need(w, d) <= room) {
            w->device = d;
            return rc;
        }
    }
    w->device = d;
    return err_set(err, ERR_NOMEM, "%s, %s, takes %s at these sizes and %s are free: %s", avatar_parts_name(p->part),
                   avatar_mode_text(&w->mode), str_bytes(want, sizeof want, need(w, d)), str_bytes(have, sizeof have, room),
                   d->is_host ? "--dims DIR plays a smaller model, --size fewer tokens"
                              : "--weights streamed takes less, and so does a smaller --size");
}

static int one_part(struct walk *w, const struct part *p, struct device *d, const char *weights, struct err *err)
{
    struct bench_step_result *s = w->result;
    size_t before = d->taken_bytes;
    int rc = plan_part(w, p, d, weights, err);
    if (rc < 0)
        return rc;
    if (p->part == AVATAR_PART_DIT)
        str_copy(s->weights, sizeof s->weights, avatar_mode_text(&w->mode));
    d->peak_bytes = d->taken_bytes;
    rc = walk_part(w, p, err);
    size_t plan = before + w->weights + w->arena + (d->is_host ? 0 : w->rounding);
    size_t peak = d->is_host ? w->weights + w->run.arena_peak : d->peak_bytes;
    if (peak > plan)
        s->within_plan = false;
    if (plan > s->plan_bytes)
        s->plan_bytes = plan;
    if (peak > s->peak_bytes)
        s->peak_bytes = peak;
    done_part(w);
    return rc;
}

/* The transformer with resident weights too; that they do not fit is no failure. */
static int compare(struct walk *w, struct device *d, struct err *err)
{
    struct bench_step_result *s = w->result, *other = mem_zalloc(sizeof *other);
    if (!other)
        return err_set(err, ERR_NOMEM, "bench: no memory");
    w->result = other;
    int rc = one_part(w, &parts[0], d, "resident", err);
    if (rc == 0)
        s->slow_down = full_step(s) / full_step(other);
    else if (rc == ERR_NOMEM)
        str_copy(s->note, sizeof s->note, "resident weights do not fit: no slow-down measured");
    if (rc == ERR_NOMEM) {
        err_clear(err);
        rc = 0;
    }
    w->result = s;
    mem_free(other);
    return rc;
}

int bench_step_run(struct device *d, const struct bench_step_options *o, const struct bench_peak *peak,
                   struct bench_step_result *ret, struct err *err)
{
    struct walk *w = mem_zalloc(sizeof *w);
    int rc = w ? 0 : err_set(err, ERR_NOMEM, "bench: no memory");
    *ret = (struct bench_step_result){
        .width = o->width, .height = o->height, .frames = o->frames, .budget = o->budget, .within_plan = true};
    if (rc == 0)
        *w = (struct walk){.o = o, .peak = peak, .result = ret};
    const char *slash = strrchr(o->dims, '/');
    str_copy(ret->dims, sizeof ret->dims, slash && slash[1] ? slash + 1 : o->dims);
    for (size_t i = 0; rc == 0 && i < sizeof parts / sizeof *parts; i++)
        if (is_wanted(o, &parts[i]))
            rc = one_part(w, &parts[i], d, o->weights, err);
    if (ret->budget && ret->used_bytes > ret->budget)
        ret->within_plan = false;
    if (rc == 0 && full_step(ret) > 0 && !str_starts(ret->weights, "resident"))
        rc = compare(w, d, err);
    if (rc == 0 && ret->n_rows == 0)
        rc = err_set(err, ERR_INVALID, "--only: no row of a step is called %s", o->only);
    mem_free(w);
    return rc;
}
