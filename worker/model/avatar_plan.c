/* avatar_plan.c -- what a job needs: the stages of avatar_stage.c walked with no device, on the checkpoint's
 * shapes. */
#include <string.h>

#include "kernels/comm/comm.h"
#include "worker/face/face.h"
#include "worker/model/avatar_impl.h"
#include "worker/model/avatar_input.h"
#include "worker/model/dit.h"

static int avatar_plan_take(void *arg, struct run *r, struct tensor frames, struct tensor yuv)
{
    size_t *largest = arg;

    (void)r;
    (void)frames;
    if (tensor_bytes(yuv) > *largest)
        *largest = tensor_bytes(yuv);
    return 0;
}

/* Of several components: beside each other, or in one pool over each other. */
static size_t avatar_plan_weights(const struct avatar_parts *p, const enum avatar_part *parts, int n)
{
    size_t bytes = 0;

    for (int i = 0; i < n; i++) {
        size_t one = avatar_parts_bytes(p, parts[i]);
        if (p->pool == NULL)
            bytes += one;
        else if (one > bytes)
            bytes = one;
    }
    return bytes;
}

static size_t avatar_plan_stage_weights(const struct avatar_parts *p, enum avatar_stage stage)
{
    static const enum avatar_part condition[] = {AVATAR_PART_TEXT, AVATAR_PART_CLIP, AVATAR_PART_AUDIO, AVATAR_PART_VAE},
                                  denoise[] = {AVATAR_PART_DIT}, decode[] = {AVATAR_PART_VAE};

    switch (stage) {
    case AVATAR_CONDITION:
        return avatar_plan_weights(p, condition, 4);
    case AVATAR_DENOISE:
        return avatar_plan_weights(p, denoise, 1);
    case AVATAR_DECODE:
        return avatar_plan_weights(p, decode, 1);
    default:
        return 0;
    }
}

/* What the run had counted when a stage began. */
struct avatar_plan_since {
    double flops, traffic, brought;
};

/* One stage's numbers: what the run counted since the stage before. */
static void avatar_plan_note(struct avatar_plan *plan, enum avatar_stage s, const struct avatar_parts *p,
                             struct run *r, struct avatar_plan_since *since)
{
    plan->stage[s].weight_bytes = avatar_plan_stage_weights(p, s);
    plan->stage[s].arena_bytes = r->arena_peak;
    plan->stage[s].flops = r->flops - since->flops;
    plan->stage[s].traffic_bytes = r->traffic - since->traffic;
    plan->stage[s].brought_bytes = r->brought - since->brought;
    *since = (struct avatar_plan_since){r->flops, r->traffic, r->brought};
    r->arena_peak = r->arena_used;
}

static int avatar_plan_walk(struct avatar_parts *p, struct avatar_job *j, const struct comm_group *group,
                            struct avatar_plan *plan, struct err *err)
{
    struct run r;
    struct avatar_plan_since since = {0};
    size_t chunk = 0;
    int rc = run_init(&r, NULL, 0, err);

    if (rc < 0)
        return rc;
    r.group = group;
    if (p->face != NULL)
        face_plan(p->face, &r, j->width, j->height);
    rc = avatar_stage_condition(p, &r, j);
    avatar_plan_note(plan, AVATAR_CONDITION, p, &r, &since);
    if (rc == 0)
        rc = avatar_stage_denoise(p, &r, j, NULL);
    avatar_plan_note(plan, AVATAR_DENOISE, p, &r, &since);
    if (rc == 0) {
        plan->n_latents = j->latents.shape[1];
        avatar_stage_turn(&r, j, NULL, -1);
        r.arena_peak = r.arena_used;
        rc = avatar_stage_decode(p, &r, j, avatar_plan_take, &chunk);
    }
    avatar_plan_note(plan, AVATAR_DECODE, p, &r, &since);
    plan->stage[AVATAR_DECODE].staging_bytes = chunk;
    plan->stage[AVATAR_CONDITION].staging_bytes = (size_t)j->width * (size_t)j->height * (3 + sizeof(float));
    plan->flops = r.flops;
    plan->brought_bytes = r.brought;
    if (rc < 0)
        rc = err_set(err, rc, "plan: %s", r.err.text);
    run_done(&r);
    return rc;
}

/* Weights stay where they are; arena and, where it is the same memory, staging are those of the largest stage. */
static void avatar_plan_resident(struct avatar_plan *plan, const struct avatar_parts *p, const struct device *device)
{
    const bool is_host = device == NULL || device->is_host;
    size_t largest = 0;

    for (int s = 0; s < AVATAR_STAGE_COUNT; s++) {
        const struct avatar_cost *c = &plan->stage[s];
        size_t here = c->arena_bytes + (is_host ? c->staging_bytes : 0);
        largest = here > largest ? here : largest;
        plan->memory_bytes = c->arena_bytes > plan->memory_bytes ? c->arena_bytes : plan->memory_bytes;
    }
    plan->peak_bytes = plan->stage[AVATAR_LOAD].weight_bytes + largest + (is_host ? 0 : avatar_parts_rounding(p));
}

/* A stage's weights, and its arena behind them; what conditioning leaves there stays for denoising, so these begin at one
 * place. */
static void avatar_plan_pooled(struct avatar_plan *plan)
{
    struct avatar_cost *c = plan->stage;
    size_t a = c[AVATAR_CONDITION].weight_bytes, b = c[AVATAR_DENOISE].weight_bytes;

    c[AVATAR_CONDITION].arena_at = c[AVATAR_DENOISE].arena_at = a > b ? a : b;
    c[AVATAR_DECODE].arena_at = c[AVATAR_DECODE].weight_bytes;
    for (int s = 0; s < AVATAR_STAGE_COUNT; s++) {
        size_t end = c[s].arena_at + c[s].arena_bytes;
        plan->memory_bytes = end > plan->memory_bytes ? end : plan->memory_bytes;
    }
    plan->peak_bytes = plan->memory_bytes;
}

static void avatar_plan_peak(struct avatar_plan *plan, const struct avatar_parts *p, const struct device *device)
{
    static const enum avatar_part all[] = {AVATAR_PART_TEXT, AVATAR_PART_CLIP, AVATAR_PART_AUDIO, AVATAR_PART_VAE,
                                           AVATAR_PART_DIT};

    plan->stage[AVATAR_LOAD].weight_bytes = p->pool != NULL ? 0 : avatar_plan_weights(p, all, 5);
    if (p->pool != NULL)
        avatar_plan_pooled(plan);
    else
        avatar_plan_resident(plan, p, device);
    plan->peak_bytes += avatar_parts_small_bytes(p) + (device != NULL ? device->fixed_bytes : 0);
}

int avatar_plan_parts(struct avatar *a, const struct avatar_mode *mode, struct avatar_parts **ret, struct err *err)
{
    struct avatar_parts *p = &a->plan[mode->weights];
    int rc = 0;

    if (!a->can_plan[mode->weights]) {
        if ((rc = avatar_parts_init(p, NULL, a->parts.root, a->parts.fp8, err)) < 0)
            return rc;
        avatar_parts_set_mode(p, mode);
        a->can_plan[mode->weights] = true;
    }
    for (int i = 0; i < AVATAR_PART_COUNT && rc == 0; i++)
        rc = avatar_parts_need(p, (enum avatar_part)i, err);
    if (rc < 0)
        return rc;
    dit_set_compact(p->dit, mode->compact);
    vae_set_compact(p->vae, mode->compact);
    *ret = p;
    return 0;
}

static int avatar_plan_check(const struct avatar_ask *q, struct err *err)
{
    const int least = AVATAR_INPUT_MIN_SIDE, most = AVATAR_INPUT_MAX_SIDE;

    if (q->width < least || q->height < least || q->width > most || q->height > most || q->width % 16 != 0 ||
        q->height % 16 != 0)
        return err_set(err, ERR_INVALID, "plan: %d x %d given, multiples of 16 from %d to %d are allowed", q->width, q->height,
                       least, most);
    return 0;
}

int avatar_make_mode_plan(struct avatar *a, const struct avatar_mode *mode, const struct avatar_ask *q, struct avatar_plan *ret,
                          struct err *err)
{
    struct comm_group group;
    struct avatar_parts *p = NULL;
    struct avatar_plan plan = {.mode = *mode, .width = q->width, .height = q->height, .n_frames = q->n_frames};
    struct avatar_job j = {.width = q->width,
                           .height = q->height,
                           .n_sound = q->n_frames,
                           .n_model = q->n_frames,
                           .n_video = q->n_frames,
                           .n_samples = q->n_frames * AVATAR_INPUT_FRAME,
                           .fps = q->fps > 0 ? q->fps : 25,
                           .guidance = 7.5,
                           .shift = 5,
                           .steps = q->steps,
                           .round_bf16 = true,
                           .face = {0, 0, q->width, q->height}};
    int rc = avatar_plan_check(q, err);

    if (rc == 0 && q->degrees != NULL)
        rc = comm_group_init(&group, NULL, q->rank, q->degrees, err);
    if (rc == 0)
        rc = avatar_plan_parts(a, mode, &p, err);
    if (rc < 0)
        return rc;
    rc = avatar_plan_walk(p, &j, q->degrees != NULL && group.size > 1 ? &group : NULL, &plan, err);
    avatar_stage_done(&j);
    if (rc < 0)
        return rc;
    avatar_plan_peak(&plan, p, a->parts.device);
    *ret = plan;
    return 0;
}

int avatar_first_plan(struct avatar *a, const struct avatar_mode *modes, int n, const struct avatar_ask *q, size_t room,
                      struct avatar_plan *ret, struct err *err)
{
    struct avatar_plan one;
    int rc = 0;

    for (int i = 0; i < n; i++) {
        if ((rc = avatar_make_mode_plan(a, &modes[i], q, &one, err)) < 0)
            return rc;
        if (i == 0 || one.peak_bytes <= ret->peak_bytes)
            *ret = one;
        if (one.peak_bytes <= room)
            return i;
    }
    return n;
}

int avatar_make_rank_plan(struct avatar *a, int width, int height, int64_t n_frames, int steps, const struct comm_degrees *d,
                          int rank, struct avatar_plan *ret, struct err *err)
{
    const struct avatar_ask q = {
        .width = width, .height = height, .n_frames = n_frames, .steps = steps, .degrees = d, .rank = rank};

    return avatar_make_mode_plan(a, &a->parts.mode, &q, ret, err);
}

int avatar_make_plan(struct avatar *a, int width, int height, int64_t n_frames, int steps,
                     struct avatar_plan *ret, struct err *err)
{
    return avatar_make_rank_plan(a, width, height, n_frames, steps, NULL, 0, ret, err);
}
