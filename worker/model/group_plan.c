#include "worker/model/group_plan.h"

#include "worker/model/avatar_impl.h"
#include "worker/model/dit.h"
#include "worker/model/window.h"

double group_plan_seconds(const struct group_way *w)
{
    return w->compute + w->send;
}

static double traffic_of(const struct avatar_plan *p)
{
    double sum = 0;
    for (int i = 0; i < AVATAR_STAGE_COUNT; i++)
        sum += p->stage[i].traffic_bytes;
    return sum;
}

/* Keeps the ways in order of their time; p is the plan of the first. */
static void add_way(struct group_plan *g, const struct group_way *w, const struct avatar_plan *p)
{
    int at = g->n_ways;
    if (at == GROUP_PLAN_WAYS)
        return;
    while (at > 0 && group_plan_seconds(w) < group_plan_seconds(&g->way[at - 1])) {
        g->way[at] = g->way[at - 1];
        at--;
    }
    g->way[at] = *w;
    g->n_ways++;
    if (at == 0)
        g->first = *p;
}

static int try_way(struct avatar *a, const struct avatar_plan *alone, int steps, struct comm_degrees d,
                   const struct group_rates *rates, struct group_plan *g, struct err *err)
{
    struct avatar_plan p;
    int rc = avatar_make_rank_plan(a, alone->width, alone->height, alone->n_frames, steps, &d, 0, &p, err);
    if (rc < 0)
        return rc;
    const struct group_way w = {
        .degrees = d, .compute = p.flops / rates->flops, .send = traffic_of(&p) / rates->bytes, .traffic = traffic_of(&p)};
    add_way(g, &w, &p);
    return 0;
}

int group_plan_make(struct avatar *a, int width, int height, int64_t n_frames, int steps, int ranks,
                    const struct group_rates *rates, struct group_plan *ret, struct err *err)
{
    struct group_plan g = {.ranks = ranks};
    struct avatar_plan alone;
    struct window_plan w;
    if (ranks < 1 || ranks > COMM_MAX)
        return err_set(err, ERR_INVALID, "plan: %d ranks given, 1 to %d are possible", ranks, COMM_MAX);
    int rc = avatar_make_plan(a, width, height, n_frames, steps, &alone, err);
    if (rc == 0)
        rc = window_plan_init(&w, n_frames, err);
    if (rc < 0)
        return rc;
    const int64_t heads = a->plan[a->parts.mode.weights].dit->dims.heads;
    g.alone = alone.flops / rates->flops;
    for (int windows = 1; windows <= ranks && windows <= w.n_windows && rc == 0; windows++)
        for (int pair = 1; pair <= 2 && rc == 0; pair++)
            if (ranks % (windows * pair) == 0 && ranks / (windows * pair) <= heads)
                rc = try_way(a, &alone, steps, (struct comm_degrees){ranks / (windows * pair), pair, windows}, rates, &g, err);
    if (rc < 0)
        return rc;
    if (g.n_ways == 0)
        return err_set(err, ERR_NOFIT,
                       "plan: %d ranks cannot share this video: it has %lld attention heads, 2 guidance rows and %d "
                       "windows, and their parts must multiply to the number of ranks",
                       ranks, (long long)heads, w.n_windows);
    *ret = g;
    return 0;
}
