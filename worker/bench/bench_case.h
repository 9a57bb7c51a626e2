/* bench_case.h -- one op with its operands, for bench_ops.c: what each kind of row makes and calls.
 *
 * Extents e are the numbers of a row in the order in which they are halved; what they are is said beside each kind. Weights
 * are uploaded as the networks' are (bf16, of sensible size) and gone after bench_case_done. While planning nothing has
 * data.
 */
#ifndef WORKER_BENCH_BENCH_CASE_H
#define WORKER_BENCH_BENCH_CASE_H

#include "kernels/ops.h"
#include "worker/model/ckpt.h"

enum { BENCH_CASE_EXTENTS = 6 };

struct bench_case {
    const int64_t *e;                 /* borrowed */
    int flag;                         /* an enum act, enum attn_kind, or what the kind says */
    struct tensor x, y, z, w, b, idx; /* operands; w and b are weights */
    struct attn attn;
    struct conv conv;
    struct ckpt *weights; /* owned */
    char shape[64];       /* for people */
};

struct bench_kind {
    const char *op;
    void (*make)(struct run *r, struct bench_case *c);
    void (*call)(struct run *r, void *c);
    int64_t least[BENCH_CASE_EXTENTS]; /* an extent is not halved below it; 0: never */
    int unit;                          /* the first two stay multiples of it; 0: 1 */
    bool is_heavy;                     /* multiplies in the device's precision */
    bool refreshes;                    /* works in place towards zeros: drawn again before each sample */
};

extern const struct bench_kind bench_case_linear, bench_case_linear_add, bench_case_attention, bench_case_conv;
extern const struct bench_kind bench_case_layer_norm, bench_case_layer_norm_mod, bench_case_rms_norm, bench_case_group_norm,
    bench_case_group_stats, bench_case_group_apply, bench_case_batch_norm, bench_case_rope_table, bench_case_norm_rope,
    bench_case_rope_halves;
extern const struct bench_kind bench_case_max_pool, bench_case_upsample, bench_case_normalize, bench_case_to_u8,
    bench_case_to_yuv420, bench_case_mask_down, bench_case_act, bench_case_act_mul, bench_case_add, bench_case_add_gated,
    bench_case_add_masked, bench_case_scale, bench_case_fill, bench_case_round, bench_case_timestep, bench_case_mean_rows;
extern const struct bench_kind bench_case_copy, bench_case_gather, bench_case_scatter_add, bench_case_patchify,
    bench_case_unpatchify, bench_case_randn, bench_case_euler, bench_case_gauss, bench_case_blend, bench_case_log_mel;

/* Standard normal. */
struct tensor bench_case_draw(struct run *r, int n_dims, const int64_t *shape);
/* w of that shape, and b of its first dimension. Failures are the run's. */
void bench_case_weights(struct run *r, struct bench_case *c, int n_dims, const int64_t *shape);
/* Numbers 0, step, 2 step, ... below `below`, wrapping. */
struct tensor bench_case_indices(struct run *r, int64_t n, int64_t step, int64_t below);
void bench_case_done(struct run *r, struct bench_case *c);

#endif
