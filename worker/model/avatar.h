/* avatar.h -- the whole generator as one object: components, plan, generate. The wall that pipeline.c sees:
 * pictures, sound and text go in, latents and frames come out; no tensors, no op, no device word on the other
 * side.
 *
 * Source: HunyuanVideo-Avatar; the order of stages and what differs from the reference are in MODEL.md.
 */
#ifndef WORKER_MODEL_AVATAR_H
#define WORKER_MODEL_AVATAR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "worker/media/media.h"
#include "worker/model/avatar_mode.h"

struct avatar;
struct comm_degrees;
struct comm_group;
struct device;

/* Stages in order; progress is reported as (stage, done, total). */
#define AVATAR_STAGES(X)                                                                                     \
    X(LOAD, "load")                                                                                          \
    X(CONDITION, "condition")                                                                                \
    X(DENOISE, "denoise")                                                                                    \
    X(DECODE, "decode")

enum avatar_stage {
#define X(name, text) AVATAR_##name,
    AVATAR_STAGES(X)
#undef X
        AVATAR_STAGE_COUNT
};
const char *avatar_stage_name(enum avatar_stage s);

enum avatar_face { AVATAR_FACE_AUTO, AVATAR_FACE_NONE, AVATAR_FACE_BOX, AVATAR_FACE_INDEX };

struct avatar_request {
    struct image image;          /* borrowed: as opened, not resized */
    struct wave wave;            /* borrowed: mono, 16 kHz */
    const char *prompt;          /* UTF-8, without the reference's prefix; "" allowed */
    const char *negative_prompt; /* NULL: the reference's */
    int size;                    /* area class, 704 real */
    int width, height;           /* both > 0: exactly these (multiples of 16) instead of size */
    double fps;                  /* 25 or 12.5 */
    int64_t n_frames;            /* 0: from the sound's length */
    int steps;
    double guidance, shift;
    uint64_t seed;
    enum avatar_face face;
    double box[4];      /* x, y, w, h in pixels of the image as opened */
    int face_index;     /* by size, 0 = largest */
    bool face_required; /* no face found is an error instead of a warning */
    bool round_bf16;    /* latents rounded to bf16 after each window, as the reference does. Default true */
    const char *noise_path; /* safetensors with noise and vae_noise, or NULL */
    const char *dump_path;  /* safetensors to write intermediate tensors to, or NULL */
};

struct avatar_hooks {
    void *arg;
    const atomic_int *cancel; /* non-zero: stop within one step with ERR_CANCEL. May be NULL */
    void (*progress)(void *arg, enum avatar_stage stage, int done, int total);
    void (*warn)(void *arg, const char *text);
    /* Frames in order, as they are decoded: I420 u8 [n][height * 3/2][width] (op_to_yuv420); only lent. Non-zero (an
     * ERR_*) stops. */
    int (*frames)(void *arg, const uint8_t *yuv, int64_t n, int width, int height);
    /* The first n_pictures of them, before that, as RGB u8 [n][height][width][3]. */
    int (*pictures)(void *arg, const uint8_t *rgb, int64_t n, int width, int height);
    int64_t n_pictures;
    /* The ranks that share the job (kernels/comm/comm.h); NULL: alone. All of them call with the same request; rank 0 alone is
     * given frames. One rank's cancel stops all, at the next step. */
    const struct comm_group *group;
};

struct avatar_result {
    int width, height;
    int64_t n_frames;
    double seconds[AVATAR_STAGE_COUNT];
    double flops;
    double brought_bytes; /* weights that were copied to the device for it */
    size_t arena_peak;
    int face[4];     /* x1, y1, x2, y2 in pixels of the sized picture; all -1: whole picture */
    char digest[65]; /* of the weights in use */
};

/* What is planned: a job's sizes. */
struct avatar_ask {
    int width, height;
    int64_t n_frames;
    int steps;
    double fps;                         /* 0: 25 */
    const struct comm_degrees *degrees; /* of the group whose rank this is; NULL: alone */
    int rank;
};

/* What a job of these sizes needs, by stage; from the planning table, weights not needed. */
struct avatar_cost {
    size_t weight_bytes; /* on the device; of stage load: as long as the process runs */
    size_t arena_bytes, staging_bytes;
    size_t arena_at; /* where in the pool the arena begins: behind the stage's weights; 0 where there is no pool */
    double brought_bytes; /* weights that are copied to the device for it, each time that they are */
    double flops;
    double traffic_bytes; /* sent to the other ranks of a group */
};
struct avatar_plan {
    struct avatar_mode mode;
    int width, height;
    int64_t n_frames, n_latents;
    struct avatar_cost stage[AVATAR_STAGE_COUNT];
    size_t memory_bytes; /* one piece of the device's memory: the pool of weights and the arena behind them, where there is a
                          * pool; else the arena alone, the largest of all stages' */
    size_t peak_bytes;  /* of the device, all that is alive at one time: weights, arena, staging where it is host memory too,
                         * and what the device takes for itself, as far as it is known (device.h) */
    double flops;
    double brought_bytes;
};

/* ckpts: folder of the published layout, or NULL with dims "full": the real sizes without weights (planning
 * only). */
int avatar_open(struct avatar **ret, struct device *device, const char *ckpts, bool fp8, struct err *err);
void avatar_close(struct avatar *a);
/* Initially resident. What is loaded is dropped, if it is another mode, and loaded anew when it is needed. */
void avatar_set_mode(struct avatar *a, const struct avatar_mode *mode);
const struct avatar_mode *avatar_get_mode(const struct avatar *a);
/* Bytes of the device that its weights take now. */
size_t avatar_held_bytes(const struct avatar *a);
/* Loads every component now (otherwise each on first use). */
int avatar_load(struct avatar *a, struct err *err);
int avatar_component(const struct avatar *a, int i, const char **ret_name, const char **ret_status,
                     double *ret_seconds, const char **ret_error); /* ERR_NOTFOUND past the last */

/* The picture of width x height sized as the reference sizes it; a side that would be 0 is 64. ERR_INVALID
 * below 1. */
int avatar_size(int width, int height, int size, int *ret_w, int *ret_h);
int avatar_make_mode_plan(struct avatar *a, const struct avatar_mode *mode, const struct avatar_ask *q, struct avatar_plan *ret,
                          struct err *err);
/* The first of n modes whose peak is within room: its number, *ret its plan. n: none is, *ret is the plan that needs least. */
int avatar_first_plan(struct avatar *a, const struct avatar_mode *modes, int n, const struct avatar_ask *q, size_t room,
                      struct avatar_plan *ret, struct err *err);
/* In the present mode, alone. */
int avatar_make_plan(struct avatar *a, int width, int height, int64_t n_frames, int steps,
                     struct avatar_plan *ret, struct err *err);
/* And for one rank of a group that shares the work so; d NULL: alone. */
int avatar_make_rank_plan(struct avatar *a, int width, int height, int64_t n_frames, int steps, const struct comm_degrees *d,
                          int rank, struct avatar_plan *ret, struct err *err);
/* Fills defaults: 25 fps, 50 steps, guidance 7.5, shift 5, round_bf16. */
void avatar_request_init(struct avatar_request *q);
int avatar_run(struct avatar *a, const struct avatar_request *q, const struct avatar_hooks *hooks,
               struct avatar_result *ret, struct err *err);

#endif
