/* avatar_input.h -- from a request to what the networks are fed with, on the host: checks, sizes, frame
 * counts, the picture in its two sizes, prompts. No device, no weights.
 *
 *     struct avatar_input in = {0};
 *     if ((rc = avatar_input_open(&in, request, hooks, err)) < 0) ...
 *     avatar_input_done(&in);
 *
 * Everything that a request can get wrong is refused here, before a network is loaded.
 * Source: hymm_sp/data_kits/audio_dataset.py, hymm_sp/sample_inference_audio.py. Differences: MODEL.md, last
 * section.
 */
#ifndef WORKER_MODEL_AVATAR_INPUT_H
#define WORKER_MODEL_AVATAR_INPUT_H

#include <stdint.h>

#include "common/err.h"
#include "worker/media/media.h"
#include "worker/model/avatar.h"
#include "worker/model/sampler.h"

#define AVATAR_INPUT_RATE 16000   /* Hz of the sound */
#define AVATAR_INPUT_FRAME 640    /* samples of a frame at 25 frames a second */
#define AVATAR_INPUT_SQUASHED 336 /* side of the vision tower's picture */
#define AVATAR_INPUT_MIN_SIDE 64
#define AVATAR_INPUT_MAX_SIDE 4096

/* How many frames there are, counted three ways. */
struct avatar_frames {
    int64_t sound; /* audio frames that the sound has, as the reference counts them */
    int64_t model; /* frames that the networks work on */
    int64_t video; /* frames that are handed out; <= model */
};

struct avatar_input {
    const struct avatar_request *q; /* borrowed */
    int width, height;              /* of the video */
    struct image sized;             /* owned: width x height */
    struct image squashed;          /* owned: 336 x 336 */
    struct avatar_frames frames;
    struct sampler_plan plan; /* checked: windows, schedule */
    char *prompt;             /* owned: with the prefix */
    const char *negative;     /* borrowed */
};

int avatar_input_open(struct avatar_input *in, const struct avatar_request *q,
                      const struct avatar_hooks *hooks, struct err *err);
void avatar_input_done(struct avatar_input *in);

/* n_samples at 16 kHz; asked: the request's n_frames. ERR_INVALID. */
int avatar_input_frames(int64_t n_samples, double fps, int64_t asked, struct avatar_frames *ret,
                        struct err *err);
/* Tells the caller; hooks may be NULL. */
void avatar_input_warn(const struct avatar_hooks *hooks, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
