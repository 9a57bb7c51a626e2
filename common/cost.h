/* cost.h -- how much work and memory a job will be, before any device is asked: the planning table of a worker's
 * generator in a few numbers, which the worker publishes (hello's info) and the dispatcher evaluates at a submit.
 *
 *     struct cost_model m;
 *     rc = cost_parse(json_text, &m, &err);                       as queue_cmd_models gave it
 *     struct cost_guess g = cost_guess(&m, params, image_w, image_h, audio_seconds);
 *     job.gflop = g.gflop;  job.plan_bytes = g.bytes;
 *
 * Model: with N = width * height / 256 * latent frames (the transformer's tokens), in units of 1e9 operations
 *     step  = a0 + a1 N + a2 N^2          for each denoising step (attention is the square)
 *     frame = b0 + b1 pixels * frames     once (conditioning, decoding, encoding)
 *     bytes = c0 + c1 N + c2 pixels * frames
 * fitted by the worker to plans at a few sizes; it is a prediction: fairness is put right by what a job really took, and
 * the worker plans again with the real inputs before it computes.
 */
#ifndef COMMON_COST_H
#define COMMON_COST_H

#include <stdint.h>

#include "common/err.h"
#include "common/json.h"

struct cost_model {
    double step[3], once[2], bytes[3];
};
/* {"step": [..], "once": [..], "bytes": [..]}. ERR_FORMAT. */
int cost_parse(const char *text, struct cost_model *ret, struct err *err);
json_t *cost_json(const struct cost_model *m); /* owned by the caller; NULL without memory */

struct cost_guess {
    double gflop;  /* 0: not known */
    int64_t bytes; /* device memory; 0: not known */
    int64_t frames;
};
/* params as schema_apply made them. image_w, image_h 0: a square. audio_s <= 0: not known, 5 s are taken. */
struct cost_guess cost_guess(const struct cost_model *m, const json_t *params, int image_w, int image_h, double audio_s);

#endif
