/* avatar_plan.c -- what a job needs: the stages of avatar_stage.c walked with no device, on the checkpoint's
 * shapes. */
#include <string.h>

#include "kernels/comm/comm.h"
#include "worker/model/avatar_impl.h"
#include "worker/model/avatar_input.h"

static int avatar_plan_take(void *arg, struct run *r, struct tensor frames, struct tensor yuv)
{
    size_t *largest = arg;

    (void)r;
    (void)frames;
    if (tensor_bytes(yuv) > *largest)
        *largest = tensor_bytes(yuv);
    return 0;
}

static size_t avatar_plan_weights(const struct avatar_parts *p, enum avatar_stage stage)
{
    switch (stage) {
    case AVATAR_CONDITION:
        return avatar_parts_bytes(p, AVATAR_PART_TEXT) + avatar_parts_bytes(p, AVATAR_PART_CLIP) +
               avatar_parts_bytes(p, AVATAR_PART_AUDIO) + avatar_parts_bytes(p, AVATAR_PART_VAE);
    case AVATAR_DENOISE:
        return avatar_parts_bytes(p, AVATAR_PART_DIT);
    case AVATAR_DECODE:
        return avatar_parts_bytes(p, AVATAR_PART_VAE);
    default:
        return 0;
    }
}

/* One stage's numbers: what the run counted since the stage before. */
static void avatar_plan_note(struct avatar_plan *plan, enum avatar_stage s, const struct avatar_parts *p,
                             struct run *r, double *flops, double *traffic)
{
    plan->stage[s].weight_bytes = avatar_plan_weights(p, s);
    plan->stage[s].arena_bytes = r->arena_peak;
    plan->stage[s].flops = r->flops - *flops;
    plan->stage[s].traffic_bytes = r->traffic - *traffic;
    *flops = r->flops;
    *traffic = r->traffic;
    r->arena_peak = r->arena_used;
}

static int avatar_plan_walk(struct avatar_parts *p, struct avatar_job *j, const struct comm_group *group,
                            struct avatar_plan *plan, struct err *err)
{
    struct run r;
    double flops = 0, traffic = 0;
    size_t chunk = 0;
    int rc = run_init(&r, NULL, 0, err);

    if (rc < 0)
        return rc;
    r.group = group;
    rc = avatar_stage_condition(p, &r, j);
    avatar_plan_note(plan, AVATAR_CONDITION, p, &r, &flops, &traffic);
    if (rc == 0)
        rc = avatar_stage_denoise(p, &r, j, NULL);
    avatar_plan_note(plan, AVATAR_DENOISE, p, &r, &flops, &traffic);
    if (rc == 0) {
        plan->n_latents = j->latents.shape[1];
        rc = avatar_stage_decode(p, &r, j, avatar_plan_take, &chunk);
    }
    avatar_plan_note(plan, AVATAR_DECODE, p, &r, &flops, &traffic);
    plan->stage[AVATAR_DECODE].staging_bytes = chunk;
    plan->stage[AVATAR_CONDITION].staging_bytes = (size_t)j->width * (size_t)j->height * (3 + sizeof(float));
    plan->flops = r.flops;
    if (rc < 0)
        rc = err_set(err, rc, "plan: %s", r.err.text);
    run_done(&r);
    return rc;
}

/* All weights stay where they are; arena and staging are those of the largest stage. */
static void avatar_plan_peak(struct avatar_plan *plan, const struct avatar_parts *p)
{
    size_t weights = 0, largest = 0;

    for (int i = 0; i < AVATAR_PART_COUNT; i++)
        weights += avatar_parts_bytes(p, (enum avatar_part)i);
    for (int s = 0; s < AVATAR_STAGE_COUNT; s++) {
        size_t here = plan->stage[s].arena_bytes + plan->stage[s].staging_bytes;
        largest = here > largest ? here : largest;
    }
    plan->stage[AVATAR_LOAD].weight_bytes = weights;
    plan->peak_bytes = weights + largest;
}

static int avatar_plan_load(struct avatar *a, struct err *err)
{
    int rc = 0;

    if (!a->can_plan) {
        if ((rc = avatar_parts_init(&a->plan, NULL, a->parts.root, a->parts.fp8, err)) < 0)
            return rc;
        a->can_plan = true;
    }
    for (int i = 0; i < AVATAR_PART_COUNT && rc == 0; i++)
        rc = avatar_parts_need(&a->plan, (enum avatar_part)i, err);
    return rc;
}

int avatar_make_rank_plan(struct avatar *a, int width, int height, int64_t n_frames, int steps, const struct comm_degrees *d,
                          int rank, struct avatar_plan *ret, struct err *err)
{
    struct comm_group group;
    struct avatar_plan plan = {.width = width, .height = height, .n_frames = n_frames};
    struct avatar_job j = {.width = width,
                           .height = height,
                           .n_sound = n_frames,
                           .n_model = n_frames,
                           .n_video = n_frames,
                           .n_samples = n_frames * AVATAR_INPUT_FRAME,
                           .fps = 25,
                           .guidance = 7.5,
                           .shift = 5,
                           .steps = steps,
                           .round_bf16 = true,
                           .face = {0, 0, width, height}};
    int rc;

    if (width < AVATAR_INPUT_MIN_SIDE || height < AVATAR_INPUT_MIN_SIDE || width > AVATAR_INPUT_MAX_SIDE ||
        height > AVATAR_INPUT_MAX_SIDE || width % 16 != 0 || height % 16 != 0)
        return err_set(err, ERR_INVALID, "plan: %d x %d given, multiples of 16 from %d to %d are allowed",
                       width, height, AVATAR_INPUT_MIN_SIDE, AVATAR_INPUT_MAX_SIDE);
    if ((d != NULL && (rc = comm_group_init(&group, NULL, rank, d, err)) < 0) || (rc = avatar_plan_load(a, err)) < 0)
        return rc;
    rc = avatar_plan_walk(&a->plan, &j, d != NULL && group.size > 1 ? &group : NULL, &plan, err);
    avatar_stage_done(&j);
    if (rc < 0)
        return rc;
    avatar_plan_peak(&plan, &a->plan);
    *ret = plan;
    return 0;
}

int avatar_make_plan(struct avatar *a, int width, int height, int64_t n_frames, int steps,
                     struct avatar_plan *ret, struct err *err)
{
    return avatar_make_rank_plan(a, width, height, n_frames, steps, NULL, 0, ret, err);
}
