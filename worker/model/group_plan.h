/* group_plan.h -- how n ranks share a video, and what comes of it: every way to split n is planned (the forwards
 * without data, bytes sent counted), timed by a simple model, and the fastest is taken.
 *
 *     struct group_plan g;
 *     const struct group_rates rates = {.flops = 400e12, .bytes = 300e9};
 *     rc = group_plan_make(avatar, 704, 704, 129, 50, 8, &rates, &g, &err);
 *     comm_group_init(&group, comm, rank, &g.way[0].degrees, &err);
 *
 * Model: a rank computes at `flops` a second and sends at `bytes` a second, one after the other, nothing hidden
 * behind anything. Rank 0 has the most of everything (larger parts come first, it blends the tiles), so its time is
 * the group's. What is not shared (text, sound, the picture's encoding, ends of a step) is done by every rank, and counts.
 */
#ifndef WORKER_MODEL_GROUP_PLAN_H
#define WORKER_MODEL_GROUP_PLAN_H

#include "kernels/comm/comm.h"
#include "worker/model/avatar.h"

enum { GROUP_PLAN_WAYS = 32 };

struct group_rates {
    double flops; /* of a rank, a second */
    double bytes; /* that a rank sends, a second */
};

struct group_way {
    struct comm_degrees degrees;
    double compute, send; /* seconds */
    double traffic;       /* bytes that rank 0 sends */
};

struct group_plan {
    int ranks;
    double alone;                          /* seconds of one rank */
    struct group_way way[GROUP_PLAN_WAYS]; /* the fastest first */
    int n_ways;
    struct avatar_plan first;              /* rank 0 under way[0] */
};

double group_plan_seconds(const struct group_way *w);
/* ERR_NOFIT where so many ranks cannot share this video: there are not enough attention heads and windows. */
int group_plan_make(struct avatar *a, int width, int height, int64_t n_frames, int steps, int ranks,
                    const struct group_rates *rates, struct group_plan *ret, struct err *err);

#endif
