/* avatar_parts.h -- the generator's components: where their files are, loading each on first use, status and
 * time.
 *
 *     struct avatar_parts p;
 *     if ((rc = avatar_parts_init(&p, device, "ckpts", false, err)) < 0) ...    one error lists all that is
 * missing if ((rc = avatar_parts_need(&p, AVATAR_PART_VAE, err)) < 0) ... vae_encode(r, p.vae, ...);
 *     avatar_parts_done(&p);
 *
 * A component that fails to load stays failed with its reason, and the others work. device NULL: for
 * planning, weights are mapped but not uploaded; root NULL: the published model's sizes, without files, on a
 * device with random weights (ckpt_random.h: for timing).
 * Status may be read from another thread.
 */
#ifndef WORKER_MODEL_AVATAR_PARTS_H
#define WORKER_MODEL_AVATAR_PARTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "kernels/device.h"
#include "kernels/run.h"
#include "worker/model/avatar_mode.h"
#include "worker/model/ckpt.h"

struct clip_text;
struct dit;
struct face_finder;
struct llava;
struct tokenizer_clip;
struct tokenizer_llama;
struct vae;
struct whisper;

/* id, name. The text encoder and its vision tower come from one checkpoint, so loading one loads both. */
#define AVATAR_PARTS(X)                                                                                      \
    X(TEXT, "text_encoder")                                                                                  \
    X(VISION, "vision_tower")                                                                                \
    X(CLIP, "clip")                                                                                          \
    X(AUDIO, "audio_encoder")                                                                                \
    X(FACE, "face_detector")                                                                                 \
    X(VAE, "vae")                                                                                            \
    X(DIT, "dit")

enum avatar_part {
#define X(id, name) AVATAR_PART_##id,
    AVATAR_PARTS(X)
#undef X
        AVATAR_PART_COUNT
};

enum avatar_part_status { AVATAR_PART_ABSENT, AVATAR_PART_LOADING, AVATAR_PART_READY, AVATAR_PART_FAILED };

struct avatar_part_state {
    atomic_int status; /* enum avatar_part_status */
    double seconds;    /* of loading; valid when ready */
    struct err err;    /* valid when failed */
};

struct avatar_parts {
    struct device *device; /* borrowed; NULL: planning */
    char *root;            /* owned; NULL: the published sizes */
    bool fp8;
    struct avatar_mode mode;
    size_t pool_bytes; /* of the device; set before the first component is loaded (0 while planning) */
    struct pool *pool; /* owned; NULL: resident, or nothing is loaded */
    int room[2];       /* of the pool, for the arena: of all stages but the last, and of that; < 0: not yet made */
    struct avatar_part_state state[AVATAR_PART_COUNT];
    double load_seconds; /* all loading so far */

    struct ckpt *llava_ckpt, *clip_ckpt, *audio_ckpt, *vae_ckpt, *dit_ckpt; /* owned, NULL until needed */
    struct llava *llava;                                                    /* owned, as all below */
    struct tokenizer_llama *tokenizer_llama; /* NULL while planning the published sizes */
    struct tokenizer_clip *tokenizer_clip;   /* the same */
    struct clip_text *clip;
    struct whisper *whisper;
    struct face_finder *face; /* NULL while planning the published sizes */
    struct vae *vae;
    struct dit *dit;
};

/* Resident. ERR_WEIGHTS that lists every file that is missing and says how the tree should look. */
int avatar_parts_init(struct avatar_parts *p, struct device *device, const char *root, bool fp8,
                      struct err *err);
void avatar_parts_done(struct avatar_parts *p);
/* All components are closed, to be loaded anew in that mode. */
void avatar_parts_set_mode(struct avatar_parts *p, const struct avatar_mode *mode);
/* Loads the component unless it is there. */
int avatar_parts_need(struct avatar_parts *p, enum avatar_part part, struct err *err);
const char *avatar_parts_name(enum avatar_part part);
const char *avatar_parts_status(const struct avatar_parts *p,
                                enum avatar_part part); /* "not loaded", "ready", ... */
/* Bytes of the device that a component's weights take, in a pool those from its start to their end; 0 before it is loaded. The
 * vision tower's are within the text encoder's. */
size_t avatar_parts_bytes(const struct avatar_parts *p, enum avatar_part part);
/* What the rounding up of all weights' allocations adds, on a GPU, without a pool. */
size_t avatar_parts_rounding(const struct avatar_parts *p);
/* And of what is small and always there: face detector, mel filters. */
size_t avatar_parts_small_bytes(const struct avatar_parts *p);
/* Where weights come and go: they are there for the ops between these two. For CLIP and sound; the others see to it
 * themselves. */
void avatar_parts_take(const struct avatar_parts *p, struct run *r, enum avatar_part part);
void avatar_parts_leave(const struct avatar_parts *p, struct run *r, enum avatar_part part);
/* SHA-256 over the digests of all loaded checkpoints, in the order of the list. */
int avatar_parts_digest(struct avatar_parts *p, char hex[65], struct err *err);

#endif
