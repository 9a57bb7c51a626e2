/* window.h -- which latents and which audio frames a window of the sampler works on. Integers only.
 *
 * A video of F frames has A audio frames after padding and L latents in the loop. Every window holds 33
 * latents; at each step all windows start 10 latents earlier than the step before (modulo 33), so that seams
 * do not stay in one place. Windows wrap around the end, hence a few latents are computed twice and averaged.
 *
 *     struct window_plan p;
 *     if ((rc = window_plan_init(&p, n_frames, &err)) < 0) ...
 *     for (int k = 0; k < p.n_windows; k++) {
 *         int64_t start = window_start(&p, step, k);
 *         window_latents(&p, start, idx);
 *     }
 *
 * Source: HunyuanVideo-Avatar, pipeline_hunyuan_video_audio.py (denoising loop).
 */
#ifndef WORKER_MODEL_WINDOW_H
#define WORKER_MODEL_WINDOW_H

#include <stdint.h>

#include "common/err.h"

enum {
    WINDOW_LATENTS = 33,               /* latents of a window */
    WINDOW_SHIFT = 10,                 /* latents, from step to step */
    WINDOW_AUDIO = 4 * WINDOW_LATENTS, /* audio frames that its tokens read, the first one four times */
    WINDOW_MAX_FRAMES = 15000,         /* video frames: 10 minutes at 25 a second */
    WINDOW_MAX_LATENTS = (WINDOW_MAX_FRAMES / 128 + 2) * 32 + 1,
};

struct window_plan {
    int64_t n_frames;  /* video frames F */
    int64_t n_audio;   /* audio frames A after padding: 129, or F + 5 */
    int64_t n_noise;   /* latents drawn: 65 for A = 129, although the first 33 alone are used */
    int64_t n_latents; /* latents in the loop, L */
    int64_t n_decoded; /* latents that the decoder gets */
    int n_windows;
    int shift; /* latents from step to step: WINDOW_SHIFT, 0 for a single window */
};

/* ERR_INVALID for n_frames outside 1..WINDOW_MAX_FRAMES. */
int window_plan_init(struct window_plan *ret, int64_t n_frames, struct err *err);

/* First latent of window k at a step, in [0, L). */
int64_t window_start(const struct window_plan *p, int step, int k);
/* Its latents in order. */
void window_latents(const struct window_plan *p, int64_t start, int32_t ret[WINDOW_LATENTS]);
/* Its audio frames in token order, four a latent: latent 0 reads its frame four times, latent j frames
 * 4j-3..4j. Frames from n_real on are silence and come out as n_real. */
void window_audio(const struct window_plan *p, int64_t start, int64_t n_real, int32_t ret[WINDOW_AUDIO]);
/* How many windows of that step hold latent f. */
int window_count(const struct window_plan *p, int step, int64_t f);

#endif
