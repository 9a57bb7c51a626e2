#include "worker/model/avatar_cost.h"

#include "worker/model/avatar.h"

#define COST_SHORT 129 /* frames of one window */
#define COST_LONG 385
#define COST_LONGEST 2000
#define COST_STEPS 10
#define COST_CACHED 30 /* steps of which some are cached: then every window keeps what they need */
#define COST_SIDE 256

static const int sizes[] = {64, 128, 256, 384, 512, 704, 1024};
static const int counts[] = {COST_STEPS, 16, 24, 32, 40, 50, 100};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]), N_COUNTS = sizeof(counts) / sizeof(counts[0]) };

static double work_of(const struct avatar_plan *p, enum avatar_stage s)
{
    return p->stage[s].flops / 1e9;
}

static int plan(struct avatar *a, const struct avatar_mode *mode, int size, int64_t n_frames, int steps,
                struct avatar_plan *ret, struct err *err)
{
    const struct avatar_ask ask = {.width = size, .height = size, .n_frames = n_frames, .steps = steps};
    return avatar_make_mode_plan(a, mode ? mode : avatar_get_mode(a), &ask, ret, err);
}

static int cost_row(struct avatar *a, const struct avatar_mode *mode, int size, struct cost_row *ret, struct err *err)
{
    struct avatar_plan one, more, most;
    int rc = plan(a, mode, size, COST_SHORT, COST_STEPS, &one, err);
    if (rc == 0)
        rc = plan(a, mode, size, COST_LONG, COST_STEPS, &more, err);
    if (rc == 0)
        rc = plan(a, mode, size, COST_LONGEST, COST_CACHED, &most, err);
    if (rc < 0)
        return rc;
    const double frames = COST_LONG - COST_SHORT;
    double once = work_of(&one, AVATAR_CONDITION) + work_of(&one, AVATAR_DECODE);
    double once_more = work_of(&more, AVATAR_CONDITION) + work_of(&more, AVATAR_DECODE);
    double bytes = (double)most.peak_bytes - (double)one.peak_bytes;
    *ret = (struct cost_row){.pixels = (double)size * size,
                             .step = work_of(&one, AVATAR_DENOISE) / COST_STEPS,
                             .once = once,
                             .once_frame = once_more > once ? (once_more - once) / frames : 0,
                             .bytes = (double)one.peak_bytes,
                             .bytes_frame = bytes > 0 ? bytes / (COST_LONGEST - COST_SHORT) : 0};
    return 0;
}

/* Steps that reuse what an earlier one computed cost less: how many whole ones are these many? */
static int cost_worth(struct avatar *a, const struct avatar_mode *mode, int n, double step, struct cost_point *ret,
                      struct err *err)
{
    struct avatar_plan p;
    int rc = plan(a, mode, COST_SIDE, COST_SHORT, n, &p, err);
    if (rc == 0)
        *ret = (struct cost_point){n, work_of(&p, AVATAR_DENOISE) / step};
    return rc;
}

static int cost_slope(struct avatar *a, const struct avatar_mode *mode, struct cost_model *m, struct err *err)
{
    struct avatar_plan p;
    int rc = plan(a, mode, sizes[0], COST_LONGEST, COST_STEPS, &p, err);
    if (rc < 0)
        return rc;
    double windows = work_of(&p, AVATAR_DENOISE) / COST_STEPS / m->row[0].step;
    m->slope = windows > 1 ? (windows - 1) / (COST_LONGEST - COST_SHORT) : 0;
    return 0;
}

int avatar_cost_part(struct avatar *a, const struct avatar_mode *mode, int i, struct cost_model *m, struct err *err)
{
    if (i == 0)
        *m = (struct cost_model){.window = COST_SHORT};
    if (i < N_SIZES)
        return cost_row(a, mode, sizes[i], &m->row[m->n++], err);
    i -= N_SIZES;
    if (i < N_COUNTS)
        return cost_worth(a, mode, counts[i], m->row[2].step, &m->steps[m->n_steps++], err);
    return i == N_COUNTS ? cost_slope(a, mode, m, err) : ERR_NOTFOUND;
}
