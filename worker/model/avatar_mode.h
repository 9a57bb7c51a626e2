/* avatar_mode.h -- how much of a device's memory the networks take, at what cost in time. Results are the same in all modes.
 *
 *     struct avatar_mode ladder[AVATAR_MODES];
 *     int n = avatar_mode_ladder("auto", is_host, false, ladder, &err);      from the fastest to the leanest
 *     ...the first one whose plan fits (avatar_plan_first)...
 *
 * Weights are on the device once and for all (resident), or a stage's at a time (staged: each job brings them up anew), or a
 * few layers at a time (streamed: each forward brings them up anew, one layer ahead of the one that computes). Compact: fewer
 * activations at a time. A host device has its weights where they are mapped: there resident alone is there.
 */
#ifndef WORKER_MODEL_AVATAR_MODE_H
#define WORKER_MODEL_AVATAR_MODE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

enum avatar_weights { AVATAR_RESIDENT, AVATAR_STAGED, AVATAR_STREAMED };

struct avatar_mode {
    enum avatar_weights weights;
    bool compact;
    bool pin; /* copies of what is brought up lie in pinned host memory: faster, as much host memory more */
};

enum { AVATAR_MODES = 5 }; /* of a ladder */

/* weights: auto, resident, staged or streamed; all but auto is that alone, with and without compact. How many, or ERR_INVALID
 * for another word and for a host device with one that it has not. */
int avatar_mode_ladder(const char *weights, bool is_host, bool pin, struct avatar_mode ret[AVATAR_MODES], struct err *err);
/* "streamed, compact" */
const char *avatar_mode_text(const struct avatar_mode *m);

#endif
