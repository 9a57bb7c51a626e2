/* golden.h -- the golden runner: finds cases (a JSON twin beside a safetensors file), runs the function registered for
 * the twin's `kind`, compares what it made with the stored tensors at the twin's tolerance.
 *
 *     static void case_final(struct golden *g)
 *     {
 *         struct tensor x = golden_in(g, "in.img");              into the run's arena, f32 (integers as stored)
 *         ...
 *         golden_check(g, "out.x", y);
 *     }
 *     const struct golden_kind golden_dit_kinds[] = { {"dit.final", case_final}, ..., {NULL, NULL} };
 *
 * Failing ops are seen by the runner through the run's sticky error. An expected out.* tensor that no one checked is a
 * failure; mid.* tensors may be checked. A tensor passes when |a - b| <= atol + rtol |a| everywhere (a the stored one) and nothing
 * is NaN. One line a case: kind, name, worst tensor, its error as a share of the bound.
 */
#ifndef TESTS_GOLDEN_GOLDEN_H
#define TESTS_GOLDEN_GOLDEN_H

#include "common/json.h"
#include "kernels/device.h"
#include "kernels/run.h"
#include "kernels/pool.h"
#include "worker/model/avatar_mode.h"
#include "worker/model/ckpt.h"

struct golden {
    const char *dir;    /* folder of the case */
    const char *name;   /* stem */
    json_t *twin;       /* the JSON twin */
    const char *ckpts;  /* checkpoint tree, resolved ("" if none found) */
    struct device *device;
    struct run *run;    /* fresh for every case */
    struct ckpt *file;  /* the case's safetensors */
    struct err err;     /* set it (err_set) for failures outside ops */
    bool compact;       /* networks open in their compact mode */
    enum avatar_weights weights; /* where theirs go */
    struct pool *pool;           /* of golden_pool */
    /* private to golden.c: */
    struct golden_report *report;
};

typedef void golden_fn(struct golden *g);
struct golden_kind {
    const char *kind;
    golden_fn *fn;
    bool shares; /* ranks share its work: what --ranks runs. There run->group says who this is */
};

/* Stored tensor as f32 (floats) or i32 (integers, bools) in the arena; missing: sticky failure and an empty tensor. */
struct tensor golden_in(struct golden *g, const char *name);
bool golden_has(struct golden *g, const char *name);
/* The stored tensor in host memory, as stored (borrowed). */
struct tensor golden_host(struct golden *g, const char *name);
/* Value of twin["params"][key]. */
double golden_param(struct golden *g, const char *key, double otherwise);
json_t *golden_param_json(struct golden *g, const char *key);

/* Compares t (device tensor of the run, any strides; shape must have the same number of elements) with the stored one. */
void golden_check(struct golden *g, const char *name, struct tensor t);
void golden_check_host(struct golden *g, const char *name, const float *values, int64_t n);
void golden_check_exact(struct golden *g, const char *name, const int64_t *values, int64_t n);
void golden_fail(struct golden *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Records a check that has no tensor of its own (text in the twin): error as a share of its bound, <= 1 passes. */
void golden_note(struct golden *g, const char *what, double share);

/* Where c's weights go when it is bound to the device, if --weights says so: into a pool of the size that bind comes to, which opens
 * the network on c without a device and closes it. Freed before c. */
typedef void golden_bind_fn(struct golden *g, struct ckpt *c, const void *arg);
int golden_pool(struct golden *g, struct ckpt *c, golden_bind_fn *bind, const void *arg);
void golden_pool_free(struct golden *g);

/* Bounds for the checks that follow, in place of the twin's. Where the twin's tolerance is a sentence golden_check takes
 * the number of the phrase that names the tensor, or of the first phrase; cases whose sentence says more set it here. */
void golden_bound(struct golden *g, double atol, double rtol);

/* Another case's file in the same tree ("dit/forward_early" from fp8/): opened for the life of the case. */
struct ckpt *golden_other(struct golden *g, const char *relative_stem);

extern const struct golden_kind golden_dit_kinds[];      /* dit.*, fp8.*, in golden_dit.c */
extern const struct golden_kind golden_sampler_kinds[];  /* sampler.*, in golden_sampler.c */
extern const struct golden_kind golden_vae_kinds[];      /* vae.*, in golden_vae.c */
extern const struct golden_kind golden_text_kinds[];     /* tokenizer.*, llava.*, clip.*, in golden_text.c */
extern const struct golden_kind golden_sound_kinds[];    /* whisper.*, audio.*, in golden_sound.c */
extern const struct golden_kind golden_picture_kinds[];  /* image.*, in golden_picture.c */
extern const struct golden_kind golden_face_kinds[];     /* face.*, in golden_face.c */
extern const struct golden_kind golden_pipeline_kinds[]; /* pipeline, conditioning, in golden_pipeline.c */

#endif
