/* cost.h -- how much work and memory a job will be, before any device is asked: a worker's planning table at a few
 * sizes, which it publishes (hello's info, "cost:<generator>") and the dispatcher evaluates at a submit.
 *
 *     struct cost_model m;
 *     rc = cost_parse(json_text, &m, &err);                       as queue_cmd_models gave it
 *     struct cost_guess g = cost_guess(&m, params, audio_seconds);
 *     job.gflop = g.gflop;  job.plan_bytes = g.bytes;
 *
 * A row holds, for one area: the work of a denoising step over one window of frames, the work done once
 * (conditioning, decoding) for one window's frames and for each frame more, and the same of memory. Between rows a
 * power law is drawn, outside them the nearest two go on. Longer videos are denoised in overlapping windows: 1 +
 * slope * (frames - window), rounded up. Not every step costs the same (some reuse what an earlier one computed):
 * `steps` tells what n steps are worth, in whole ones. It is a prediction: fairness is put right by what a job
 * really took, and the worker plans again with the real inputs before it computes.
 */
#ifndef COMMON_COST_H
#define COMMON_COST_H

#include <stdint.h>

#include "common/err.h"
#include "common/json.h"

enum { COST_ROWS = 8, COST_POINTS = 8 };

struct cost_row {
    double pixels;            /* width * height */
    double step;              /* 1e9 operations */
    double once, once_frame;  /* 1e9 operations; per frame above the window */
    double bytes, bytes_frame;
};
struct cost_model {
    double window, slope; /* frames of a window; windows per frame above it */
    int n_steps;
    struct cost_point {
        double n, worth;
    } steps[COST_POINTS]; /* by n, rising */
    int n;
    struct cost_row row[COST_ROWS]; /* by pixels, rising */
};
/* {"window": 129, "slope": 0.0155, "steps": [[1, 1], ...],
 *  "rows": [[pixels, step, once, once_frame, bytes, bytes_frame], ...]}. ERR_FORMAT. */
int cost_parse(const char *text, struct cost_model *ret, struct err *err);
json_t *cost_json(const struct cost_model *m); /* owned by the caller; NULL without memory */

struct cost_guess {
    double gflop;  /* 0: not known */
    int64_t bytes; /* device memory; 0: not known */
    int64_t frames;
};
/* params as schema_apply made them. audio_s <= 0: not known, 5 s are taken. */
struct cost_guess cost_guess(const struct cost_model *m, const json_t *params, double audio_s);

#endif
