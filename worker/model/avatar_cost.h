/* avatar_cost.h -- what the generator's jobs cost, for common/cost.h: plans at a few sizes, at one window of frames and at
 * a longer video. No weights are read; each part takes some milliseconds, tens for a large model.
 *
 *     struct cost_model model;
 *     for (int i = 0; (rc = avatar_cost_part(avatar, NULL, i, &model, &err)) == 0; i++)
 *         ;                                                         ERR_NOTFOUND: the model is whole
 */
#ifndef WORKER_MODEL_AVATAR_COST_H
#define WORKER_MODEL_AVATAR_COST_H

#include "common/cost.h"
#include "common/err.h"

struct avatar;
struct avatar_mode;

/* In that mode; NULL: the present one. */
int avatar_cost_part(struct avatar *a, const struct avatar_mode *mode, int i, struct cost_model *m, struct err *err);

#endif
