/* dit_denoise.h -- the transformer as the sampler's denoiser: both guidance rows of every window, the phases'
 * texts, and the cache between steps.
 *
 *     struct dit_denoise *n;
 *     if ((rc = dit_denoise_new(&n, r, dit, &plan, &inputs)) < 0) ...
 *     sampler_solve(r, &plan, &(struct sampler_denoiser){n, dit_denoise_begin, dit_denoise_predict}, x, hooks);
 *     dit_denoise_free(n);
 *
 * Cache: each window keeps the input of its last single block of the last full step, for both rows, where it
 * was computed. Windows move, so a latent may have been computed by another window than the one that holds it
 * now: a cached window takes each latent's tokens from the window that computed it last, the picture's front
 * tokens and the text tokens from the window that computed its first latent. (The reference copies front and
 * text tokens to every latent; an index is enough.)
 *
 * Recordings: where the device has them, each window's predictions of early, of late and of cached steps are recorded
 * and launched (kernels/run_repeat.h), eight at most; they are freed with the denoiser, before the device.
 */
#ifndef WORKER_MODEL_DIT_DENOISE_H
#define WORKER_MODEL_DIT_DENOISE_H

#include "worker/model/dit_forward.h"
#include "worker/model/sampler.h"

struct dit_denoise;

/* Computes all that holds for the whole video. Its tensors stay in the arena until the caller rewinds. dit
 * and plan are borrowed, inputs are not needed afterwards. Returns the run's error. */
int dit_denoise_new(struct dit_denoise **ret, struct run *r, const struct dit *dit,
                    const struct sampler_plan *plan, const struct sampler_inputs *in);
void dit_denoise_free(struct dit_denoise *n);

/* The two functions of struct sampler_denoiser; arg is the struct dit_denoise. */
void dit_denoise_begin(void *arg, struct run *r, int step);
void dit_denoise_predict(void *arg, struct run *r, int step, int k, struct tensor x,
                         struct tensor ret_v[DIT_ROWS]);

#endif
