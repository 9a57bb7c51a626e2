#include "worker/model/avatar_cost.h"

#include "worker/model/avatar.h"

#define COST_SHORT 129 /* frames of one window */
#define COST_LONG 2000
#define COST_STEPS 10

static double work_of(const struct avatar_plan *p, enum avatar_stage s)
{
    return p->stage[s].flops / 1e9;
}

static int cost_row(struct avatar *a, int size, struct cost_row *ret, double *ret_windows, struct err *err)
{
    struct avatar_plan one, more;
    int rc = avatar_make_plan(a, size, size, COST_SHORT, COST_STEPS, &one, err);
    if (rc == 0)
        rc = avatar_make_plan(a, size, size, COST_LONG, COST_STEPS, &more, err);
    if (rc < 0)
        return rc;
    const double frames = COST_LONG - COST_SHORT;
    double once = work_of(&one, AVATAR_CONDITION) + work_of(&one, AVATAR_DECODE);
    double once_more = work_of(&more, AVATAR_CONDITION) + work_of(&more, AVATAR_DECODE);
    double bytes = (double)more.peak_bytes - (double)one.peak_bytes;
    *ret = (struct cost_row){.pixels = (double)size * size,
                             .step = work_of(&one, AVATAR_DENOISE) / COST_STEPS,
                             .once = once,
                             .once_frame = once_more > once ? (once_more - once) / frames : 0,
                             .bytes = (double)one.peak_bytes,
                             .bytes_frame = bytes > 0 ? bytes / frames : 0};
    *ret_windows = work_of(&more, AVATAR_DENOISE) / work_of(&one, AVATAR_DENOISE);
    return 0;
}

/* Steps that reuse what an earlier one computed cost less: how many whole ones n of them are. */
static int cost_steps(struct avatar *a, struct cost_model *m, struct err *err)
{
    static const int counts[] = {COST_STEPS, 16, 24, 32, 40, 50, 100};
    const int side = 256;
    double one = 0;
    for (int i = 0; i < (int)(sizeof(counts) / sizeof(counts[0])); i++) {
        struct avatar_plan plan;
        int rc = avatar_make_plan(a, side, side, COST_SHORT, counts[i], &plan, err);
        if (rc < 0)
            return rc;
        if (i == 0)
            one = work_of(&plan, AVATAR_DENOISE) / COST_STEPS;
        m->steps[m->n_steps++] = (struct cost_point){counts[i], work_of(&plan, AVATAR_DENOISE) / one};
    }
    return 0;
}

int avatar_cost_model(struct avatar *a, struct cost_model *ret, struct err *err)
{
    static const int sizes[] = {64, 128, 256, 384, 512, 704, 1024};
    struct cost_model m = {.window = COST_SHORT, .n = sizeof(sizes) / sizeof(sizes[0])};
    double windows = 1;
    for (int i = 0; i < m.n; i++) {
        int rc = cost_row(a, sizes[i], &m.row[i], &windows, err);
        if (rc < 0)
            return rc;
    }
    int rc = cost_steps(a, &m, err);
    if (rc < 0)
        return rc;
    m.slope = windows > 1 ? (windows - 1) / (COST_LONG - COST_SHORT) : 0;
    *ret = m;
    return 0;
}
