/* golden_sampler.c -- sampler.*: schedule, windows as the reference was seen to place them, whole loops. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/ops.h"
#include "tests/golden/golden.h"
#include "worker/model/dit.h"
#include "worker/model/sampler.h"

/* ---- schedule ---- */

static void check_schedule(struct golden *g, int n)
{
    float sigma[SAMPLER_MAX_STEPS + 1], t[SAMPLER_MAX_STEPS];
    char name[64];
    sampler_sigmas(n, golden_param(g, "shift", 5.0), sigma);
    for (int i = 0; i < n; i++)
        t[i] = 1000.0f * sigma[i];
    str_format(name, sizeof(name), "out.sigmas%d", n);
    golden_check_host(g, name, sigma, n + 1);
    str_format(name, sizeof(name), "out.timesteps%d", n);
    golden_check_host(g, name, t, n);
}

/* ---- windows.json: what the reference did, recorded with a fake network ---- */

static int64_t integer(json_t *list, size_t i)
{
    return json_integer_value(json_array_get(list, i));
}

static int check_plan(json_t *seen, const struct window_plan *p)
{
    static const char *const keys[] = {"audio_frames", "noise_latents", "latents", "decoded_latents",
                                       "windows_per_step"};
    const int64_t values[] = {p->n_audio, p->n_noise, p->n_latents, p->n_decoded, p->n_windows};
    int wrong = 0;
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++)
        wrong += json_integer_value(json_object_get(seen, keys[i])) != values[i];
    return wrong;
}

static int check_starts(json_t *seen, const struct window_plan *p)
{
    json_t *steps = json_object_get(seen, "window_first_latent"),
           *counts = json_object_get(seen, "counts_step0");
    int wrong = json_array_size(steps) == 0 || (int64_t)json_array_size(counts) != p->n_latents;
    for (size_t s = 0; s < json_array_size(steps); s++) {
        for (int k = 0; k < p->n_windows; k++)
            wrong += integer(json_array_get(steps, s), (size_t)k) != window_start(p, (int)s, k);
    }
    for (int64_t f = 0; f < p->n_latents; f++)
        wrong += integer(counts, (size_t)f) != window_count(p, 0, f);
    return wrong;
}

/* Audio frames of the first two steps' windows; frames from n_frames on were given as silence, so only their
 * number counts there: -1 in the record is silence that the sampler itself added. */
static int check_audio(json_t *seen, const struct window_plan *p)
{
    json_t *steps = json_object_get(seen, "audio_of_windows_step0_1");
    int wrong = json_array_size(steps) == 0;
    for (size_t s = 0; s < json_array_size(steps); s++) {
        for (int k = 0; k < p->n_windows; k++) {
            json_t *list = json_array_get(json_array_get(steps, s), (size_t)k);
            int32_t idx[WINDOW_AUDIO];
            window_audio(p, window_start(p, (int)s, k), p->n_audio, idx);
            wrong += json_array_size(list) != WINDOW_AUDIO - 3;
            for (int j = 0; j < WINDOW_AUDIO; j++) {
                const int64_t frame = integer(list, (size_t)(j < 3 ? 0 : j - 3));
                wrong += idx[j] != (frame < 0 ? p->n_audio : frame);
            }
        }
    }
    return wrong;
}

static int check_steps(json_t *seen, double guidance)
{
    json_t *cache = json_object_get(seen, "cache"), *face = json_object_get(seen, "face_scale");
    json_t *rows = json_object_get(seen, "rows"), *scale = json_object_get(seen, "guidance");
    const int n = (int)json_integer_value(json_object_get(seen, "steps"));
    int wrong = n < 1 || (int)json_array_size(cache) != n;
    for (int i = 0; i < n; i++) {
        const bool late = sampler_is_late(i);
        const char *texts = json_string_value(json_array_get(rows, (size_t)i));
        wrong += integer(cache, (size_t)i) != sampler_is_cached(i);
        wrong += fabs(json_number_value(json_array_get(face, (size_t)i)) - (late ? 1.0 : 0.6)) > 1e-6;
        wrong += !texts || strcmp(texts, late ? "pos,pos" : "neg,pos") != 0;
        /* Read back from f32 latents and written with four digits. */
        wrong += fabs(json_number_value(json_array_get(scale, (size_t)i)) -
                      sampler_guidance(n, guidance, i)) > 2e-4;
    }
    return wrong;
}

/* One clip: frames and steps are given, the rest was seen. */
static bool check_seen(struct golden *g, json_t *seen)
{
    struct window_plan p;
    if (window_plan_init(&p, json_integer_value(json_object_get(seen, "frames")), &g->err) < 0)
        return false;
    const int wrong =
        check_plan(seen, &p) + check_starts(seen, &p) + check_audio(seen, &p) + check_steps(seen, 7.5);
    if (wrong)
        golden_fail(g, "windows: %d values of the case of %lld frames differ", wrong, (long long)p.n_frames);
    golden_note(g, "windows", wrong);
    return true;
}

static void check_windows(struct golden *g)
{
    char path[1200];
    json_t *all = NULL;
    struct err err = {0};
    str_path(path, sizeof(path), g->dir, "windows.json");
    if (json_read_file(path, 64u << 20, &all, &err) < 0) {
        if (err.code != ERR_NOTFOUND && err.code != ERR_IO)
            golden_fail(g, "%s", err.text);
        return;
    }
    for (size_t i = 0; i < json_array_size(all); i++)
        if (!check_seen(g, json_array_get(all, i)))
            break;
    json_decref(all);
}

/* The record as a twin: one clip, or a list of them. */
static void case_windows(struct golden *g)
{
    json_t *all = golden_param_json(g, "windows");
    all = json_is_array(all) ? all : golden_param_json(g, "cases");
    if (!json_is_array(all))
        check_seen(g, g->twin);
    for (size_t i = 0; i < json_array_size(all); i++)
        if (!check_seen(g, json_array_get(all, i)))
            break;
}

static void case_schedule(struct golden *g)
{
    for (size_t i = 0; g->file && i < ckpt_count(g->file); i++) {
        int n = 0;
        if (sscanf(ckpt_name(g->file, i), "out.sigmas%d", &n) == 1 && n > 0 && n <= SAMPLER_MAX_STEPS)
            check_schedule(g, n);
    }
    check_windows(g);
}

/* ---- loops ---- */

static void watch_steps(void *arg, struct run *r, const char *name, struct tensor t)
{
    struct golden *g = arg;
    (void)r;
    if (str_starts(name, "mid.step") && golden_has(g, name))
        golden_check(g, name, t);
}

/* Without its leading dimensions of 1. */
static struct tensor squeezed(struct golden *g, const char *name, int n_dims)
{
    struct tensor t = golden_in(g, name);
    while (t.n_dims > n_dims && t.shape[0] == 1)
        t = tensor_at(t, 0, 0);
    if (t.n_dims != n_dims)
        golden_fail(g, "%s has %d dimensions, %d are expected", name, t.n_dims, n_dims);
    return t;
}

static struct sampler_text text_of(struct golden *g, int row, uint8_t *mask)
{
    struct tensor stored = golden_host(g, "in.mask");
    const int64_t S = tensor_dim(stored, 1);
    float v[1];
    for (int64_t i = 0; mask && i < S; i++) {
        const char *at = (const char *)stored.data + (size_t)(row * S + i) * dtype_bytes(stored.dtype);
        dtype_read_f32(v, at, stored.dtype, 1, 1);
        mask[i] = v[0] != 0;
    }
    return (struct sampler_text){.states = tensor_at(golden_in(g, "in.text"), 0, row),
                                 .text2 = tensor_at(golden_in(g, "in.text2"), 0, row),
                                 .mask = mask};
}

static void solve(struct golden *g, struct golden *inputs, const struct dit *d)
{
    const int64_t S = tensor_dim(golden_host(inputs, "in.mask"), 1);
    uint8_t *mask = mem_calloc(2, (size_t)S + 1);
    float fps = 25;
    struct tensor latents, rate = golden_host(inputs, "in.fps");
    if (!mask) {
        golden_fail(g, "out of memory");
        return;
    }
    dtype_read_f32(&fps, rate.data, rate.dtype, 1, 1);
    const struct sampler_inputs in = {
        .negative = text_of(inputs, 0, mask),
        .positive = text_of(inputs, 1, mask + S),
        .audio = squeezed(inputs, "in.audio", 4),
        .face = squeezed(inputs, "in.face", 2),
        .ref = squeezed(inputs, "in.ref", 4),
        .noise = squeezed(inputs, "in.noise", 4),
        .fps = fps,
        .n_frames = (int64_t)golden_param(g, "frames", 0),
        .steps = (int)golden_param(g, "steps", 0),
        .guidance = golden_param(g, "guidance", 7.5),
        .shift = golden_param(g, "shift", 5),
        .round_bf16 = inputs != g,
    };
    g->run->tap = watch_steps;
    g->run->tap_arg = g;
    if (!inputs->err.code && sampler_run(g->run, d, &in, NULL, &latents) == 0)
        golden_check(g, "out.latents", latents);
    g->run->tap = NULL;
    mem_free(mask);
}

/* A case without inputs is the one of that name without _bf16, with latents rounded after each window. */
static void loop(struct golden *g, const struct dit *d)
{
    char stem[512];
    const char *folder = strrchr(g->dir, '/');
    const size_t len = strlen(g->name);
    struct golden inputs = *g;
    if (golden_has(g, "in.noise")) {
        solve(g, g, d);
        return;
    }
    str_format(stem, sizeof(stem), "%s/%.*s", folder ? folder + 1 : g->dir,
               (int)(str_ends(g->name, "_bf16") ? len - 5 : len), g->name);
    inputs.file = golden_other(g, stem);
    if (inputs.file)
        solve(g, &inputs, d);
    if (inputs.err.code)
        err_set(&g->err, inputs.err.code, "%s", inputs.err.text);
}

static void case_loop(struct golden *g)
{
    char path[1200];
    struct ckpt *c = NULL;
    struct dit *d = NULL;
    str_path(path, sizeof(path), g->ckpts, "hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states.pt");
    if (ckpt_open(&c, path, &g->err) == 0 && dit_open(&d, c, g->device, &g->err) == 0) {
        dit_set_compact(d, g->compact);
        loop(g, d);
    }
    device_forget(g->device, NULL, SIZE_MAX);
    dit_close(d);
    ckpt_close(c);
}

const struct golden_kind golden_sampler_kinds[] = {
    {"sampler.schedule", case_schedule},
    {"sampler.windows", case_windows},
    {"sampler.loop", case_loop, true},
    {NULL, NULL},
};
