/* models.h -- what jobs will cost, as the workers' published cost models (cost.h) say: a copy that is fetched again every
 * few seconds.
 *
 *     struct cost_guess g;
 *     int64_t memory;
 *     if (models_guess(app->models, "avatar", params, 5.0, &g, &memory)) ...
 */
#ifndef DISPATCHER_MODELS_H
#define DISPATCHER_MODELS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/cost.h"
#include "dispatcher/app.h"

struct models;

int models_new(struct app *app, struct models **ret, struct err *err);
void models_free(struct models *m); /* after backend_free; the loop must turn once more. NULL is fine */
void models_refresh(struct models *m); /* Redis is ready: at once, not at the next tick */

/* False: no worker has said anything about this generator. *ret_memory: bytes of the largest device that a registered
 * worker offers for it; 0: not limited, or not known. */
bool models_guess(const struct models *m, const char *generator, const json_t *params, double audio_s,
                  struct cost_guess *ret, int64_t *ret_memory);

#endif
