/* bench_step.h -- the generator's large pieces, each once: what a video's time is made of.
 *
 *     prepare        what the transformer computes once a video
 *     full step      both guidance rows through all blocks, two texts (the first ten steps of fifty)
 *     full step      the same, one text: the blocks before the sound are shared
 *     cached step    both rows through the last block
 *     decoder tile   17 latents of 32 x 32 (a smaller picture's own) to pixels
 *     text encoder   vision tower and a prompt of full length
 *
 * The transformer, the decoder and the text encoder are loaded one after the other, in a mode that the plan says fits. The
 * memory that the module takes is compared with the plan: what it had taken before, weights, and an arena of the planned
 * size. Where the transformer's weights come and go, it is timed with resident ones too, if they fit.
 */
#ifndef WORKER_BENCH_BENCH_STEP_H
#define WORKER_BENCH_BENCH_STEP_H

#include "worker/bench/bench_report.h"

struct bench_step_options {
    const char *dims; /* "full": the published sizes, random weights; else a folder of weights */
    int width, height;
    int64_t frames;
    size_t budget; /* of the device, that was told when it was opened; 0: none */
    const char
        *weights; /* auto, resident, staged, streamed: the first mode of that ladder whose plan fits (avatar_mode.h) */
    bool pin;
    const char *only; /* rows of that name (the first or second word above) alone; NULL: all */
    double seconds;   /* a row is repeated for about so long; 0: 8 */
};

int bench_step_run(struct device *d, const struct bench_step_options *o, const struct bench_peak *peak,
                   struct bench_step_result *ret, struct err *err);

#endif
