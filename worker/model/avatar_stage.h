/* avatar_stage.h -- the three stages of a job as tensors: what running and planning share.
 *
 *     struct avatar_job j = {.width = ..., ...};                      host inputs NULL: planning
 *     if ((rc = avatar_stage_condition(&p, &r, &j)) == 0 && (rc = avatar_stage_denoise(&p, &r, &j, hooks)) ==
 * 0) rc = avatar_stage_decode(&p, &r, &j, take, arg); avatar_stage_done(&j);
 *
 * Each stage leaves its results in the run's arena (listed in the job) and gives back its scratch; a failure
 * is in run.err. Components must be loaded before (avatar_parts_need).
 */
#ifndef WORKER_MODEL_AVATAR_STAGE_H
#define WORKER_MODEL_AVATAR_STAGE_H

#include <stdint.h>

#include "kernels/run.h"
#include "worker/model/avatar_dump.h"
#include "worker/model/avatar_parts.h"
#include "worker/model/ckpt.h"
#include "worker/model/sampler.h"
#include "worker/model/tokenizer_clip.h"
#include "worker/model/tokenizer_llama.h"
#include "worker/model/vae.h"

enum { AVATAR_NEGATIVE, AVATAR_POSITIVE, AVATAR_TEXTS };

struct avatar_job {
    /* sizes */
    int width, height; /* of the video */
    int64_t n_sound;   /* audio frames that have sound */
    int64_t n_model;   /* frames that the networks work on */
    int64_t n_video;   /* frames that are handed out */
    int64_t n_samples; /* of the sound, 16 kHz */
    double fps, guidance, shift;
    int steps;
    bool round_bf16;
    uint64_t seed;
    int face[4]; /* rectangle that the sound may move: x1, y1, x2, y2, ends excluded */

    /* host inputs, borrowed; NULL while planning */
    const uint8_t *sized;                              /* [height][width][3] */
    const uint8_t *squashed;                           /* [336][336][3] */
    const float *samples;                              /* [n_samples] */
    struct ckpt *noise;                                /* NULL: from the seed */
    struct tokenizer_llama_prompt llama[AVATAR_TEXTS]; /* n 0: planning */
    struct tokenizer_clip_prompt clip[AVATAR_TEXTS];
    struct avatar_dump *dump; /* NULL: off */

    /* results */
    uint8_t *masks[AVATAR_TEXTS]; /* owned: of the text states */
    struct sampler_inputs inputs;
    struct tensor latents; /* [C, T, h, w] */
};

int avatar_stage_condition(struct avatar_parts *p, struct run *r, struct avatar_job *j);
int avatar_stage_denoise(struct avatar_parts *p, struct run *r, struct avatar_job *j,
                         const struct sampler_hooks *hooks);
/* Between these: latents go by host memory, so that the last stage has an arena of its own, where its weights leave it most
 * room: a block of the pool; all else in the arena is void. pool NULL: the same memory, from its start on. */
int avatar_stage_turn(struct run *r, struct avatar_job *j, struct pool *pool, int room);
/* Gets frames twice: as they were decoded, f32 [n, height, width, 3], and as I420 (op_to_yuv420). Non-zero stops. */
typedef int avatar_stage_take_fn(void *arg, struct run *r, struct tensor frames, struct tensor yuv);
int avatar_stage_decode(struct avatar_parts *p, struct run *r, struct avatar_job *j, avatar_stage_take_fn *take,
                        void *arg);
void avatar_stage_done(struct avatar_job *j);

#endif
