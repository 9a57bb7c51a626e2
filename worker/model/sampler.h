/* sampler.h -- from noise to latents: schedule, guidance, cached steps, windows, Euler's step.
 *
 * sampler_run is what the generator calls; sampler_solve is the same loop around any denoiser and knows no
 * network.
 *
 *     struct sampler_inputs in = {.negative = ..., .positive = ..., .audio = ..., .n_frames = 129, .fps = 25,
 *                                 .steps = 50, .guidance = 7.5, .shift = 5};
 *     struct tensor latents;
 *     if (sampler_run(&r, dit, &in, &hooks, &latents) < 0) ...      (r.err says why)
 *
 * All tensors are device tensors (the run's arena, or anything that outlives the call), f32. The result lies
 * in the arena just above where it was at the call; all else is released. While planning (r.table NULL)
 * tensors need shapes only; steps of a kind that was planned already are counted, not walked again.
 *
 * In a group (run.group) all ranks call with the same inputs and get the same result; windows are shared, tokens and guidance
 * rows are where dit_forward.h says so. Each step begins with the question whether one of them is to stop.
 *
 * run.cancel is looked at by every op. After each step the latents are shown to the tap as "mid.stepNN"
 * (0-based).
 *
 * Source: HunyuanVideo-Avatar, pipeline_hunyuan_video_audio.py and scheduling_flow_match_discrete.py.
 */
#ifndef WORKER_MODEL_SAMPLER_H
#define WORKER_MODEL_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/run.h"
#include "kernels/tensor.h"
#include "worker/model/window.h"

struct dit;

enum {
    SAMPLER_MAX_STEPS = 1000,
    SAMPLER_EARLY_STEPS = 10, /* steps whose first row carries the negative text */
    SAMPLER_ROWS = 2,         /* guidance: 0 without sound, 1 with it */
};

struct sampler_text {
    struct tensor states; /* [S, text] */
    struct tensor text2;  /* [text2], pooled */
    const uint8_t *mask;  /* host, [S], by position; NULL while planning. Borrowed for the call */
    int64_t n_valid;      /* read only when mask is NULL: its sum */
};

struct sampler_inputs {
    struct sampler_text negative, positive;
    struct tensor audio; /* [frames, window, layers, width]; from min(frames, n_frames) on there is silence */
    struct tensor face;  /* [h, w], latent size, 0..1 */
    struct tensor ref;   /* [16, 33, h, w]: scaled latents of the picture */
    struct tensor noise; /* [16, >= L, h, w]: L = window_plan.n_latents; the first L are used */
    double fps;
    int64_t n_frames; /* of the video */
    int steps;        /* 1..SAMPLER_MAX_STEPS */
    double guidance;  /* of the first step */
    double shift;     /* of the schedule, 5 */
    bool round_bf16;  /* latents rounded to bf16 after each window, as the reference does */
};

struct sampler_hooks {
    void *arg;
    void (*progress)(void *arg, int done, int total); /* after each step; may be NULL */
};

/* ret_latents: [16, window_plan.n_decoded, h, w]. Returns 0 or the run's error. hooks may be NULL. */
int sampler_run(struct run *r, const struct dit *dit, const struct sampler_inputs *in,
                const struct sampler_hooks *hooks, struct tensor *ret_latents);

/* ---- parts --------------------------------------------------------------------------------------------- */

/* sigma_i = s u / (1 + (s - 1) u), u from 1 to 0 in n steps, in f32: n + 1 values. The time of step i is 1000
 * sigma_i. */
void sampler_sigmas(int n, double shift, float *ret);
double sampler_guidance(int n, double guidance, int step);
bool sampler_is_cached(int step); /* the step reuses the input of the last block */
bool sampler_is_late(int step);   /* both rows carry the positive text, the face mask counts in full */

struct sampler_plan {
    struct window_plan window;
    int steps;
    double guidance;
    float sigma[SAMPLER_MAX_STEPS + 1];
    bool round_bf16;
};
/* ERR_INVALID: steps, shift or guidance out of range. */
int sampler_plan_init(struct sampler_plan *ret, const struct sampler_inputs *in, struct err *err);

/* How many windows place i computes, where r's group shares them: k, k + ranks, ... from k = i on. */
int sampler_windows_of(const struct run *r, const struct window_plan *w, int i);

/* What sampler_solve asks of a network. Ops' errors stick to the run, so nothing is returned. */
struct sampler_denoiser {
    void *arg;
    /* Once a step, before its windows, at every rank. What it takes from the arena lives until the step ends. May be NULL.
     */
    void (*begin)(void *arg, struct run *r, int step);
    /* Velocities of window k (one of this rank's) for both rows, each like x [16, 33, h, w]; new, or none for row 1 (then v0 is
     * taken). */
    void (*predict)(void *arg, struct run *r, int step, int k, struct tensor x,
                    struct tensor ret_v[SAMPLER_ROWS]);
};
/* latents [16, L, h, w]: noise in, result out. */
int sampler_solve(struct run *r, const struct sampler_plan *p, const struct sampler_denoiser *d,
                  struct tensor latents, const struct sampler_hooks *hooks);

#endif
