#include "worker/model/avatar.h"

#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "kernels/comm/comm.h"
#include "kernels/ops.h"
#include "worker/media/size.h"
#include "worker/model/avatar_dump.h"
#include "worker/model/avatar_face.h"
#include "worker/model/avatar_impl.h"
#include "worker/model/avatar_input.h"
#include "worker/model/dit.h"

enum { FRAMES_AT_ONCE = 16 }; /* handed out; bounds the host copy */
#define DUMP_BYTES ((size_t)256 << 20) /* of an arena, for packing what is dumped */

const char *avatar_stage_name(enum avatar_stage s)
{
    static const char *const names[] = {
#define X(name, text) text,
        AVATAR_STAGES(X)
#undef X
    };
    return s < AVATAR_STAGE_COUNT ? names[s] : "?";
}

/* ---- lifecycle ---- */

int avatar_open(struct avatar **ret, struct device *device, const char *ckpts, bool fp8, struct err *err)
{
    struct avatar *a = mem_zalloc(sizeof(*a));
    int rc;

    if (a == NULL)
        return err_set(err, ERR_NOMEM, "avatar: no memory");
    if ((rc = avatar_parts_init(&a->parts, device, ckpts, fp8, err)) < 0) {
        mem_free(a);
        return rc;
    }
    *ret = a;
    return 0;
}

void avatar_close(struct avatar *a)
{
    if (a == NULL)
        return;
    for (int i = 0; i <= AVATAR_STREAMED; i++) {
        if (a->can_plan[i])
            avatar_parts_done(&a->plan[i]);
    }
    avatar_parts_done(&a->parts);
    mem_free(a);
}

void avatar_set_mode(struct avatar *a, const struct avatar_mode *mode)
{
    const struct avatar_mode *m = &a->parts.mode;

    if (m->weights == mode->weights && m->pin == mode->pin) {
        a->parts.mode.compact = mode->compact;
        if (a->parts.dit != NULL)
            dit_set_compact(a->parts.dit, mode->compact);
        if (a->parts.vae != NULL)
            vae_set_compact(a->parts.vae, mode->compact);
        return;
    }
    avatar_parts_set_mode(&a->parts, mode);
}

const struct avatar_mode *avatar_get_mode(const struct avatar *a)
{
    return &a->parts.mode;
}

size_t avatar_held_bytes(const struct avatar *a)
{
    const struct avatar_parts *p = &a->parts;
    size_t bytes = 0;

    if (p->mode.weights != AVATAR_RESIDENT)
        return p->pool != NULL ? p->pool_bytes : 0;
    for (int i = 0; i < AVATAR_PART_COUNT; i++) {
        if (atomic_load(&p->state[i].status) == AVATAR_PART_READY)
            bytes += avatar_parts_bytes(p, (enum avatar_part)i);
    }
    return bytes;
}

int avatar_load(struct avatar *a, struct err *err)
{
    int rc = 0;

    if (a->parts.mode.weights != AVATAR_RESIDENT)
        return 0; /* a job says how much memory there is for it */

    for (int i = 0; i < AVATAR_PART_COUNT && rc == 0; i++)
        rc = avatar_parts_need(&a->parts, (enum avatar_part)i, err);
    return rc;
}

int avatar_component(const struct avatar *a, int i, const char **ret_name, const char **ret_status,
                     double *ret_seconds, const char **ret_error)
{
    const struct avatar_part_state *s;

    if (i < 0 || i >= AVATAR_PART_COUNT)
        return ERR_NOTFOUND;
    s = &a->parts.state[i];
    *ret_name = avatar_parts_name((enum avatar_part)i);
    *ret_status = avatar_parts_status(&a->parts, (enum avatar_part)i);
    *ret_seconds = atomic_load(&s->status) == AVATAR_PART_READY ? s->seconds : 0;
    *ret_error = atomic_load(&s->status) == AVATAR_PART_FAILED ? s->err.text : "";
    return 0;
}

/* A side that rounds to 0 becomes 64; the other one then keeps the area within its bound. */
int avatar_size(int width, int height, int size, int *ret_w, int *ret_h)
{
    const int least = AVATAR_INPUT_MIN_SIDE;
    int w, h, most;

    if (width < 1 || height < 1 || size < 1)
        return ERR_INVALID;
    size_rule(width, height, size, &w, &h);
    if (w < least || h < least) {
        most = (int)(size_area(size) / (least * least)) * least;
        most = most < least ? least : most > AVATAR_INPUT_MAX_SIDE ? AVATAR_INPUT_MAX_SIDE : most;
        w = w < least ? least : w > most ? most : w;
        h = h < least ? least : h > most ? most : h;
    }
    *ret_w = w;
    *ret_h = h;
    return 0;
}

void avatar_request_init(struct avatar_request *q)
{
    *q = (struct avatar_request){
        .prompt = "", .size = 704, .fps = 25, .steps = 50, .guidance = 7.5, .shift = 5, .round_bf16 = true};
}

/* ---- a job ---- */

/* All that avatar_run holds while it runs. */
struct avatar_work {
    struct avatar *a;
    const struct avatar_hooks *hooks; /* never NULL */
    struct avatar_input in;
    struct avatar_face_choice face;
    struct avatar_dump dump;
    struct avatar_job job;
    struct avatar_plan plan; /* empty on a host device */
    struct ckpt *noise;
    struct run run;
    struct comm_group group; /* where there is one */
    bool has_run;
    struct avatar_result result;
    uint8_t *pixels; /* owned: FRAMES_AT_ONCE frames, RGB or I420 */
    int64_t n_out;
    int64_t since; /* clock of the stage's start */
};

static void avatar_work_progress(struct avatar_work *w, enum avatar_stage stage, int done, int total)
{
    if (w->hooks->progress != NULL)
        w->hooks->progress(w->hooks->arg, stage, done, total);
}

static bool avatar_work_cancelled(const struct avatar_work *w)
{
    return w->hooks->cancel != NULL && atomic_load(w->hooks->cancel) != 0;
}

static void avatar_work_stage_ends(struct avatar_work *w, enum avatar_stage stage)
{
    int64_t now = clock_us();

    w->result.seconds[stage] = (double)(now - w->since) / 1e6;
    w->since = now;
}

static void avatar_work_done(struct avatar_work *w)
{
    avatar_stage_done(&w->job);
    if (w->has_run)
        run_done(&w->run);
    avatar_input_done(&w->in);
    avatar_dump_done(&w->dump);
    ckpt_close(w->noise);
    mem_free(w->pixels);
}

/* Into w->plan, on a device whose memory is not endless. */
static int avatar_work_plan(struct avatar_work *w, struct err *err)
{
    const struct comm_group *g = w->hooks->group;
    const struct comm_degrees degrees = g != NULL ? (struct comm_degrees){g->tokens.n, g->pair.n, g->windows.n}
                                                  : (struct comm_degrees){1, 1, 1};
    const struct avatar_ask ask = {.width = w->in.width,
                                   .height = w->in.height,
                                   .n_frames = w->in.frames.model,
                                   .steps = w->in.q->steps,
                                   .fps = w->in.q->fps,
                                   .degrees = &degrees,
                                   .rank = g != NULL ? g->rank : 0};

    return w->a->parts.device->is_host ? 0 : avatar_make_mode_plan(w->a, &w->a->parts.mode, &ask, &w->plan, err);
}

/* The pool is as large as a job needed; a larger one begins with a new pool, and loads anew. */
static void avatar_work_pool(struct avatar_work *w)
{
    struct avatar_parts *p = &w->a->parts;
    const struct avatar_mode mode = p->mode;
    size_t bytes = w->plan.memory_bytes + (avatar_dump_is_on(&w->dump) ? DUMP_BYTES : 0);

    if (mode.weights == AVATAR_RESIDENT)
        return;
    if (p->pool != NULL && p->pool_bytes < bytes)
        avatar_parts_set_mode(p, &mode);
    if (p->pool == NULL)
        p->pool_bytes = bytes;
}

static int avatar_work_load(struct avatar_work *w, struct err *err)
{
    int rc = avatar_work_plan(w, err);

    if (rc == 0)
        avatar_work_pool(w);

    for (int i = 0; i < AVATAR_PART_COUNT && rc == 0; i++) {
        if (avatar_work_cancelled(w))
            return err_set(err, ERR_CANCEL, "cancelled while the weights were loaded");
        avatar_work_progress(w, AVATAR_LOAD, i, AVATAR_PART_COUNT);
        rc = avatar_parts_need(&w->a->parts, (enum avatar_part)i, err);
    }
    if (rc == 0)
        avatar_work_progress(w, AVATAR_LOAD, AVATAR_PART_COUNT, AVATAR_PART_COUNT);
    avatar_work_stage_ends(w, AVATAR_LOAD);
    return rc;
}

/* Prompts to ids; a warning where they are too long. */
static int avatar_work_tokens(struct avatar_work *w, struct err *err)
{
    const char *text[AVATAR_TEXTS] = {w->in.negative, w->in.prompt};
    static const char *const what[AVATAR_TEXTS] = {"negative prompt", "prompt"};
    struct avatar_parts *p = &w->a->parts;

    for (int i = 0; i < AVATAR_TEXTS; i++) {
        struct tokenizer_llama_prompt *l = &w->job.llama[i];
        struct tokenizer_clip_prompt *c = &w->job.clip[i];
        int rc = tokenizer_llama_prompt(p->tokenizer_llama, text[i], strlen(text[i]), true, l, err);
        if (rc == 0)
            rc = tokenizer_clip_prompt(p->tokenizer_clip, text[i], strlen(text[i]), c, err);
        if (rc < 0)
            return rc;
        if (l->n_dropped > 0)
            avatar_input_warn(w->hooks, "%s: too long, its last %d tokens are not used", what[i],
                              l->n_dropped);
    }
    return 0;
}

static void avatar_work_job(struct avatar_work *w)
{
    const struct avatar_request *q = w->in.q;
    struct avatar_job *j = &w->job;

    j->width = w->in.width;
    j->height = w->in.height;
    j->n_sound = w->in.frames.sound;
    j->n_model = w->in.frames.model;
    j->n_video = w->in.frames.video;
    j->n_samples = q->wave.n;
    j->fps = q->fps;
    j->guidance = q->guidance;
    j->shift = q->shift;
    j->steps = q->steps;
    j->round_bf16 = q->round_bf16;
    j->seed = q->seed;
    j->sized = w->in.sized.pixels;
    j->squashed = w->in.squashed.pixels;
    j->samples = q->wave.samples;
    memcpy(j->face, w->face.rect, sizeof(j->face));
    j->noise = w->noise;
    j->dump = &w->dump;
}

/* Steps' latents go to the dump. */
static void avatar_work_tap(void *arg, struct run *r, const char *name, struct tensor t)
{
    struct avatar_work *w = arg;

    if (strncmp(name, "mid.step", 8) == 0 && t.n_dims == 4)
        avatar_dump_tensor(&w->dump, r, name, t, 5, SHAPE(1, t.shape[0], t.shape[1], t.shape[2], t.shape[3]));
}

static int avatar_work_rooms(struct avatar_parts *p, const struct avatar_plan *plan, struct err *err)
{
    static const enum avatar_stage stage[2] = {AVATAR_CONDITION, AVATAR_DECODE};

    for (int i = 0; i < 2; i++) {
        size_t at = plan->stage[stage[i]].arena_at;
        if (p->room[i] < 0)
            p->room[i] = pool_room(p->pool, "arena", at, p->pool_bytes - at);
        if (p->room[i] < 0)
            return err_set(err, p->room[i], "avatar: no room for an arena behind the weights");
    }
    return 0;
}

/* The arena: as planned; behind the weights where they lie in a pool. With a dump, which packs what it reads, as much as is
 * wise. */
static int avatar_work_run(struct avatar_work *w, struct err *err)
{
    struct avatar_parts *p = &w->a->parts;
    int rc;

    if (p->pool == NULL)
        return run_init(&w->run, p->device, avatar_dump_is_on(&w->dump) ? 0 : w->plan.memory_bytes, err);
    if ((rc = avatar_work_rooms(p, &w->plan, err)) < 0)
        return rc;
    run_init_in(&w->run, p->device, pool_memory(p->pool, p->room[0]),
                pool_size(p->pool, p->room[0]));
    pool_take(&w->run, p->pool, p->room[0]);
    return 0;
}

static int avatar_work_condition(struct avatar_work *w, struct err *err)
{
    int rc;

    avatar_work_progress(w, AVATAR_CONDITION, 0, 1);
    if ((rc = avatar_work_run(w, err)) < 0)
        return rc;
    w->has_run = true;
    if (w->hooks->group != NULL) {
        w->group = *w->hooks->group;
        w->group.cancel = w->hooks->cancel;
        w->run.group = &w->group;
    } else {
        w->run.cancel = w->hooks->cancel;
    }
    if (avatar_dump_is_on(&w->dump)) {
        w->run.tap = avatar_work_tap;
        w->run.tap_arg = w;
    }
    if ((rc = avatar_face_find(&w->face, w->a->parts.face, &w->run, &w->in, w->hooks, err)) < 0 ||
        (rc = avatar_work_tokens(w, err)) < 0)
        return rc;
    avatar_work_job(w);
    rc = avatar_stage_condition(&w->a->parts, &w->run, &w->job);
    if (rc < 0)
        return err_set(err, rc, "%s", w->run.err.text);
    avatar_work_progress(w, AVATAR_CONDITION, 1, 1);
    avatar_work_stage_ends(w, AVATAR_CONDITION);
    return 0;
}

static void avatar_work_step(void *arg, int done, int total)
{
    avatar_work_progress(arg, AVATAR_DENOISE, done, total);
}

static int avatar_work_denoise(struct avatar_work *w, struct err *err)
{
    struct sampler_hooks hooks = {.arg = w, .progress = avatar_work_step};
    int rc;

    avatar_work_progress(w, AVATAR_DENOISE, 0, w->job.steps);
    rc = avatar_stage_denoise(&w->a->parts, &w->run, &w->job, &hooks);
    if (rc == 0)
        rc = avatar_stage_turn(&w->run, &w->job, w->a->parts.pool, w->a->parts.room[1]);
    if (rc < 0)
        return err_set(err, rc, "%s", w->run.err.text);
    avatar_work_stage_ends(w, AVATAR_DENOISE);
    return 0;
}

static int avatar_work_pictures(struct avatar_work *w, struct run *r, struct tensor frames)
{
    size_t mark = run_mark(r);
    int64_t n = w->hooks->n_pictures - w->n_out;
    int rc;

    if (w->hooks->pictures == NULL || n <= 0)
        return 0;
    n = n < frames.shape[0] ? n : frames.shape[0];
    rc = run_read(r, op_to_u8(r, tensor_slice(frames, 0, 0, n)), w->pixels);
    run_rewind(r, mark);
    return rc < 0 ? rc : w->hooks->pictures(w->hooks->arg, w->pixels, n, w->job.width, w->job.height);
}

static int avatar_work_take(void *arg, struct run *r, struct tensor frames, struct tensor yuv)
{
    struct avatar_work *w = arg;
    int rc = 0;

    for (int64_t at = 0; at < yuv.shape[0] && rc == 0; at += FRAMES_AT_ONCE) {
        int64_t n = yuv.shape[0] - at < FRAMES_AT_ONCE ? yuv.shape[0] - at : FRAMES_AT_ONCE;
        if ((rc = avatar_work_pictures(w, r, tensor_slice(frames, 0, at, n))) < 0 ||
            (rc = run_read(r, tensor_slice(yuv, 0, at, n), w->pixels)) < 0)
            return rc;
        if (w->hooks->frames != NULL)
            rc = w->hooks->frames(w->hooks->arg, w->pixels, n, w->job.width, w->job.height);
        w->n_out += n;
        avatar_work_progress(w, AVATAR_DECODE, (int)w->n_out, (int)w->job.n_video);
    }
    return rc;
}

static int avatar_work_decode(struct avatar_work *w, struct err *err)
{
    int rc;

    w->pixels = mem_calloc((size_t)FRAMES_AT_ONCE * 3, (size_t)w->job.width * (size_t)w->job.height);
    if (w->pixels == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %d frames", FRAMES_AT_ONCE);
    avatar_work_progress(w, AVATAR_DECODE, 0, (int)w->job.n_video);
    rc = avatar_stage_decode(&w->a->parts, &w->run, &w->job, avatar_work_take, w);
    if (rc < 0)
        return run_failed(&w->run) ? err_set(err, rc, "%s", w->run.err.text)
                                   : err_set(err, rc, "frame %lld was not taken", (long long)w->n_out);
    if (w->n_out != w->job.n_video && (w->run.group == NULL || w->run.group->rank == 0))
        return err_set(err, ERR_INTERNAL, "%lld frames decoded, %lld wanted", (long long)w->n_out,
                       (long long)w->job.n_video);
    avatar_work_stage_ends(w, AVATAR_DECODE);
    return 0;
}

static int avatar_work_digest(struct avatar_work *w, struct err *err)
{
    struct avatar *a = w->a;
    int rc = a->digest[0] != 0 ? 0 : avatar_parts_digest(&a->parts, a->digest, err);

    if (rc == 0)
        memcpy(w->result.digest, a->digest, sizeof(w->result.digest));
    return rc;
}

static int avatar_work_stages(struct avatar_work *w, struct err *err)
{
    int rc;

    w->since = clock_us();
    if ((rc = avatar_work_load(w, err)) < 0 || (rc = avatar_work_condition(w, err)) < 0 ||
        (rc = avatar_work_denoise(w, err)) < 0)
        return rc;
    return avatar_work_decode(w, err);
}

int avatar_run(struct avatar *a, const struct avatar_request *q, const struct avatar_hooks *hooks,
               struct avatar_result *ret, struct err *err)
{
    static const struct avatar_hooks none;
    struct avatar_work *w = mem_zalloc(sizeof(*w));
    int rc, dumped;

    if (w == NULL)
        return err_set(err, ERR_NOMEM, "avatar: no memory");
    w->a = a;
    w->hooks = hooks != NULL ? hooks : &none;
    avatar_dump_init(&w->dump, q->dump_path);
    rc = avatar_input_open(&w->in, q, w->hooks, err);
    if (rc == 0 && q->noise_path != NULL)
        rc = ckpt_open(&w->noise, q->noise_path, err);
    if (rc == 0)
        rc = avatar_work_stages(w, err);
    dumped = avatar_dump_write(&w->dump,
                               err); /* of a failed or cancelled job too: that is when one wants to see it */
    rc = rc < 0 ? rc : dumped;
    if (rc == 0)
        rc = avatar_work_digest(w, err);
    if (rc == 0) {
        w->result.width = w->job.width;
        w->result.height = w->job.height;
        w->result.n_frames = w->n_out;
        w->result.flops = w->run.flops;
        w->result.brought_bytes = w->run.brought;
        w->result.arena_peak = w->run.arena_peak;
        memcpy(w->result.face, w->face.box, sizeof(w->result.face));
        *ret = w->result;
    }
    avatar_work_done(w);
    mem_free(w);
    return rc;
}
