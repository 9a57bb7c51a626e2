/* avatar_cost.h -- what the generator's jobs cost, for common/cost.h: plans at a few sizes, at one window of frames and at
 * a longer video. No weights are read; some tens of milliseconds for a small model, more for a large one.
 *
 *     struct cost_model model;
 *     rc = avatar_cost_model(avatar, &model, &err);
 */
#ifndef WORKER_MODEL_AVATAR_COST_H
#define WORKER_MODEL_AVATAR_COST_H

#include "common/cost.h"
#include "common/err.h"

struct avatar;

int avatar_cost_model(struct avatar *a, struct cost_model *ret, struct err *err);

#endif
