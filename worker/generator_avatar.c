/* generator_avatar.c -- see the header. `struct work` is one job; run_job reads top down: inputs, plan, run.
 */
#include "worker/generator_avatar.h"

#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/preset.h"
#include "common/schema.h"
#include "common/str.h"
#include "kernels/comm/comm.h"
#include "kernels/device.h"
#include "worker/media/audio_in.h"
#include "worker/model/avatar.h"
#include "worker/model/avatar_cost.h"
#include "worker/model/avatar_input.h"
#include "worker/pipeline.h"

#define AUDIO_MIN_S 0.3
#define USUAL_SIDE 704 /* the job that a worker makes ready for */
#define USUAL_FRAMES 129
#define USUAL_STEPS 50

struct state {
    const struct generator_env *env;
    struct avatar *avatar; /* owned */
    struct avatar_mode modes[AVATAR_MODES]; /* that jobs may run in, from the fastest on */
    int n_modes;
    double flops_per_s;    /* of the last job; 0: none yet */
};

struct work {
    struct state *state;
    struct pipeline *p;
    struct image image; /* owned */
    struct sound sound; /* owned */
    struct wave wave;   /* owned */
    struct avatar_request q;
    struct avatar_plan plan;
    struct comm_degrees degrees; /* how ranks share it, where they do */
    struct err frames_err; /* why a frame was not taken */
    int64_t began_us;      /* of computing */
};

/* What a job may take of the device, itself and the weights that are there already. */
static size_t room_of(const struct state *s, size_t ceiling)
{
    const struct device *d = s->env->device;
    size_t room = device_free_bytes(d) + avatar_held_bytes(s->avatar) + d->fixed_bytes;
    size_t limit = (size_t)s->env->conf->max_memory_mib << 20;
    room = limit && limit < room ? limit : room;
    return ceiling < room ? ceiling : room;
}

/* Of the modes allowed those stay whose weights lie as in the first that has room for the usual job, and the leaner ones: jobs
 * that need more go on from there, and those that need less do not make it load anew. */
static int choose_modes(struct state *s, struct err *err)
{
    const struct avatar_ask usual = {.width = USUAL_SIDE, .height = USUAL_SIDE, .n_frames = USUAL_FRAMES, .steps = USUAL_STEPS};
    struct avatar_plan plan;
    char need[32], have[32];
    size_t room = room_of(s, SIZE_MAX);
    if (s->n_modes == 1)
        return 0;
    int i = avatar_first_plan(s->avatar, s->modes, s->n_modes, &usual, room, &plan, err);
    if (i < 0)
        return i;
    LOG(INFO, "device memory", log_str("mode", avatar_mode_text(&plan.mode)),
        log_str("usual_job", str_bytes(need, sizeof(need), plan.peak_bytes)),
        log_str("room", str_bytes(have, sizeof(have), room)));
    i = i == s->n_modes ? i - 1 : i;
    while (i > 0 && s->modes[i - 1].weights == s->modes[i].weights)
        i--;
    s->n_modes -= i;
    memmove(s->modes, s->modes + i, (size_t)s->n_modes * sizeof(s->modes[0]));
    avatar_set_mode(s->avatar, &plan.mode);
    return 0;
}

static int open_state(void **ret, const struct generator_env *env, struct err *err)
{
    struct state *s = mem_zalloc(sizeof(*s));
    if (!s)
        return err_set(err, ERR_NOMEM, "no memory for the generator");
    s->env = env;
    int rc = avatar_mode_ladder(env->conf->weights, env->device->is_host, env->conf->pin_weights, s->modes, err);
    if (rc > 0) {
        s->n_modes = rc;
        rc = avatar_open(&s->avatar, env->device, env->conf->ckpts, env->conf->fp8, err);
    }
    if (rc == 0)
        rc = choose_modes(s, err);
    if (rc < 0) {
        avatar_close(s->avatar);
        mem_free(s);
        return rc;
    }
    *ret = s;
    return 0;
}

static void close_state(void *state)
{
    struct state *s = state;
    avatar_close(s->avatar);
    mem_free(s);
}

static int component(const void *state, int i, const char **ret_name, const char **ret_status,
                     double *ret_seconds, const char **ret_error)
{
    const struct state *s = state;
    return avatar_component(s->avatar, i, ret_name, ret_status, ret_seconds, ret_error);
}

/* ---- inputs ---- */

static int read_face(struct work *w, struct err *err)
{
    static const struct {
        char kind;
        enum avatar_face face;
    } kinds[] = {{'a', AVATAR_FACE_AUTO},
                 {'r', AVATAR_FACE_AUTO},
                 {'n', AVATAR_FACE_NONE},
                 {'b', AVATAR_FACE_BOX},
                 {'i', AVATAR_FACE_INDEX}};
    struct schema_face face;
    int rc = schema_face_parse(schema_str(pipeline_params(w->p), "face", "auto"), &face, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (kinds[i].kind == face.kind)
            w->q.face = kinds[i].face;
    memcpy(w->q.box, face.box, sizeof(face.box));
    w->q.face_index = face.index;
    w->q.face_required = face.kind == 'r';
    return 0;
}

static int read_seed(struct work *w, struct err *err)
{
    int64_t seed = schema_int(pipeline_params(w->p), "seed", -1);
    w->q.seed = (uint64_t)seed;
    if (seed < 0) {
        if (getrandom(&w->q.seed, sizeof(w->q.seed), 0) != (ssize_t)sizeof(w->q.seed))
            return err_set(err, ERR_IO, "no random numbers for the seed");
        w->q.seed >>= 12; /* below 2^53: exact in every client's JSON */
        if (pipeline_gang(w->p)) { /* one seed for all */
            int rc = gang_share(pipeline_gang(w->p), &w->q.seed, sizeof(w->q.seed), err);
            if (rc < 0)
                return rc;
        }
    }
    pipeline_seed(w->p, w->q.seed);
    return 0;
}

static int read_params(struct work *w, struct err *err)
{
    const json_t *params = pipeline_params(w->p);
    const struct conf *c = w->state->env->conf;
    struct avatar_request *q = &w->q;
    avatar_request_init(q);
    q->image = w->image;
    q->wave = w->wave;
    q->prompt = schema_str(params, "prompt", "");
    q->negative_prompt = schema_str(params, "negative_prompt", NULL);
    q->fps = schema_num(params, "fps", 25);
    q->n_frames = schema_int(params, "num_frames", 0);
    q->steps = (int)schema_int(params, "num_inference_steps", 50);
    q->guidance = schema_num(params, "guidance_scale", 7.5);
    q->shift = schema_num(params, "flow_shift", 5);
    q->round_bf16 = strcmp(c->round, "bf16") == 0;
    q->noise_path = c->noise[0] ? c->noise : NULL;
    q->dump_path = c->dump[0] ? c->dump : NULL;
    if (schema_size(params, &q->size, &q->width, &q->height) < 0)
        return err_set(err, ERR_INVALID, "size: missing or not of the form 704 or WxH");
    int rc = read_face(w, err);
    return rc < 0 ? rc : read_seed(w, err);
}

static int read_inputs(struct work *w, struct err *err)
{
    struct audio_limit limit = {.min_s = AUDIO_MIN_S, .max_s = w->state->env->conf->max_audio_s};
    int rc = pipeline_image(w->p, "image", &w->image, err);
    if (rc == 0)
        rc = pipeline_sound(w->p, "audio", &limit, &w->sound, err);
    if (rc == 0)
        rc = audio_in_wave(&w->sound, &w->wave, err);
    return rc < 0 ? rc : read_params(w, err);
}

/* ---- does it fit, and how? ---- */

static int ask_of(const struct work *w, int size, int64_t n_frames, struct avatar_ask *ret, struct err *err)
{
    int width = w->q.width, height = w->q.height;
    if (!width && avatar_size(w->image.width, w->image.height, size, &width, &height) < 0)
        return err_set(err, ERR_INVALID, "size: an image of %d x %d cannot be brought to size %d",
                       w->image.width, w->image.height, size);
    *ret = (struct avatar_ask){
        .width = width, .height = height, .n_frames = n_frames, .steps = w->q.steps, .fps = w->q.fps};
    return 0;
}

/* How the workers of a gang share it; rank 0 has most. */
static int split(struct work *w, struct avatar_ask *ask, struct err *err)
{
    struct gang *gang = pipeline_gang(w->p);
    if (!gang)
        return 0;
    int rc = gang_split(gang, w->state->avatar, ask->width, ask->height, ask->n_frames, ask->steps, w->state->env->device->kind,
                        &w->plan, err);
    if (rc < 0)
        return rc;
    const struct comm_group *g = gang_group(gang);
    w->degrees = (struct comm_degrees){g->tokens.n, g->pair.n, g->windows.n};
    ask->degrees = &w->degrees;
    return 0;
}

/* The largest smaller size class that would fit; 0: none. */
static int smaller_size(const struct work *w, int64_t n_frames, size_t room)
{
    static const int sizes[] = {704, 512, 384, 256, 128, 64};
    const struct state *s = w->state;
    struct avatar_plan plan;
    struct avatar_ask ask;
    for (size_t i = 0; !w->q.width && i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (sizes[i] < w->q.size && ask_of(w, sizes[i], n_frames, &ask, NULL) == 0 &&
            avatar_make_mode_plan(s->avatar, &s->modes[s->n_modes - 1], &ask, &plan, NULL) == 0 && plan.peak_bytes <= room)
            return sizes[i];
    return 0;
}

static int refuse(const struct work *w, size_t room, const struct preset *preset, struct err *err)
{
    char need[32], have[32], way[96] = "a smaller size, shorter audio, or a device with more memory";
    const struct avatar_plan *plan = &w->plan;
    int size = smaller_size(w, plan->n_frames, room);
    if (size)
        str_format(way, sizeof(way), "size %d, or shorter audio", size);
    else if (preset->max_mib && room == preset_bytes(preset))
        str_format(way, sizeof(way), "a larger preset than %s, a smaller size, or shorter audio", preset->name);
    else if (room == (size_t)w->state->env->conf->max_memory_mib << 20)
        str_format(way, sizeof(way), "a larger --max-memory-mib, a smaller size, or shorter audio");
    return err_set(err, ERR_NOFIT, "size: %d x %d with %lld frames needs %s on this device (%s), %s free: use %s", plan->width,
                   plan->height, (long long)plan->n_frames, str_bytes(need, sizeof(need), plan->peak_bytes),
                   avatar_mode_text(&plan->mode), str_bytes(have, sizeof(have), room), way);
}

/* Into the mode of w's plan, number i of those allowed. */
static void switch_mode(struct work *w, int i, size_t room)
{
    char text[200], have[32];
    struct state *s = w->state;
    if (i > 0) {
        str_format(text, sizeof(text), "device memory: %s are free for this job, so it runs with weights %s, which is slower",
                   str_bytes(have, sizeof(have), room), avatar_mode_text(&s->modes[i]));
        pipeline_warn(w->p, text);
    }
    if (avatar_get_mode(s->avatar)->weights != s->modes[i].weights)
        LOG(WARN, "weights are loaded anew", log_str("mode", avatar_mode_text(&s->modes[i])));
    avatar_set_mode(s->avatar, &s->modes[i]);
}

static int check_plan(struct work *w, struct err *err)
{
    struct avatar_frames frames;
    struct avatar_ask ask;
    struct state *s = w->state;
    const struct preset *preset = preset_find(schema_str(pipeline_params(w->p), "preset", "auto"));
    if (!preset)
        preset = preset_at(0);
    if (preset_is_cpu(preset) && !s->env->device->is_host)
        return err_set(err, ERR_NOFIT, "preset: cpu is for workers on a CPU, this one is on %s", s->env->device->name);
    int rc = avatar_input_frames(w->wave.n, w->q.fps, w->q.n_frames, &frames, err);
    if (rc == 0)
        rc = ask_of(w, w->q.size, frames.model, &ask, err);
    if (rc == 0)
        rc = split(w, &ask, err);
    if (rc < 0)
        return rc;
    size_t room = room_of(s, preset_bytes(preset));
    int i = avatar_first_plan(s->avatar, s->modes, s->n_modes, &ask, room, &w->plan, err);
    if (i == s->n_modes)
        return refuse(w, room, preset, err);
    if (i >= 0)
        switch_mode(w, i, room);
    return i < 0 ? i : 0;
}

/* ---- the run ---- */

/* Seconds to go, from the work (flop) that is left and how fast it went until now, or in the last job. */
static double eta(const struct work *w, enum avatar_stage stage, int done, int total)
{
    double before = 0, left = 0, elapsed = (double)(clock_us() - w->began_us) / (double)CLOCK_S;
    for (int s = 0; s < AVATAR_STAGE_COUNT; s++) {
        double part = total > 0 ? (double)done / total : 0, flops = w->plan.stage[s].flops;
        double f = s < (int)stage ? 1 : s > (int)stage ? 0 : part;
        before += f * flops;
        left += (1 - f) * flops;
    }
    double rate = w->state->flops_per_s;
    if (before > 0.03 * (before + left) && elapsed > 0)
        rate = before / elapsed;
    return rate > 0 ? left / rate : -1;
}

static void on_progress(void *arg, enum avatar_stage stage, int done, int total)
{
    struct work *w = arg;
    if (stage <= AVATAR_LOAD)
        w->began_us = clock_us(); /* loading is not computing */
    pipeline_progress(w->p, avatar_stage_name(stage), done, total, eta(w, stage, done, total));
}

static void on_warn(void *arg, const char *text)
{
    struct work *w = arg;
    pipeline_warn(w->p, text);
}

static int on_picture(void *arg, const uint8_t *rgb, int64_t n, int width, int height)
{
    struct work *w = arg;
    (void)n; /* 1 */
    return pipeline_picture(w->p, rgb, width, height, &w->frames_err);
}

static int on_frames(void *arg, const uint8_t *yuv, int64_t n, int width, int height)
{
    struct work *w = arg;
    return pipeline_frames(w->p, yuv, n, width, height, &w->frames_err);
}

static void note_result(struct work *w, const struct avatar_result *r)
{
    double s = (double)(clock_us() - w->began_us) / (double)CLOCK_S;
    if (s > 0)
        w->state->flops_per_s = w->plan.flops / s;
    pipeline_note(w->p, "flop", json_real(r->flops));
    pipeline_note(w->p, "brought_bytes", json_real(r->brought_bytes));
    pipeline_note(w->p, "arena_bytes", json_integer((json_int_t)r->arena_peak));
    pipeline_note(w->p, "planned_bytes", json_integer((json_int_t)w->plan.peak_bytes));
    pipeline_note(w->p, "weights_sha256", json_string(r->digest));
    if (r->face[2] > r->face[0])
        pipeline_note(w->p, "face_box", json_pack("[iiii]", r->face[0], r->face[1], r->face[2], r->face[3]));
}

static int run_work(struct work *w, struct err *err)
{
    struct avatar_hooks hooks = {.arg = w,
                                 .cancel = pipeline_cancel(w->p),
                                 .progress = on_progress,
                                 .warn = on_warn,
                                 .frames = on_frames,
                                 .pictures = on_picture,
                                 .n_pictures = 1,
                                 .group = gang_group(pipeline_gang(w->p))};
    struct avatar_result result;
    int rc = read_inputs(w, err);
    if (rc == 0)
        rc = check_plan(w, err);
    if (rc < 0)
        return rc;
    w->began_us = clock_us();
    pipeline_video(w->p, w->q.fps, &w->sound);
    struct err why = {0};
    rc = avatar_run(w->state->avatar, &w->q, &hooks, &result, &why);
    if (rc < 0 && w->frames_err.code) /* the writer's reason, not that it refused a frame */
        return err_set(err, w->frames_err.code, "%s", w->frames_err.text);
    if (rc < 0)
        return err_set(err, rc, "%s", why.text);
    note_result(w, &result);
    return 0;
}

static int cost(void *state, int i, struct cost_model *m, struct err *err)
{
    const struct state *s = state;
    return avatar_cost_part(s->avatar, &s->modes[s->n_modes - 1], i, m, err); /* the memory that is enough */
}

static int run_job(void *state, struct pipeline *p, struct err *err)
{
    struct work *w = mem_zalloc(sizeof(*w));
    if (!w)
        return err_set(err, ERR_NOMEM, "no memory for the job");
    w->state = state;
    w->p = p;
    int rc = run_work(w, err);
    pipeline_video(p, w->q.fps, NULL);
    image_done(&w->image);
    sound_done(&w->sound);
    wave_done(&w->wave);
    mem_free(w);
    return rc;
}

const struct generator generator_avatar = {"avatar", open_state, close_state, component, cost, run_job};
