/* table.h -- what a device implements: one function an op, after ops.c has checked the arguments and taken the result.
 *
 * Only ops.c calls these. y is the result (allocated, contiguous unless the op says "into"); the other arguments are as
 * in ops.h. Return 0 or an ERR_*; for a failure with a sentence call run_fail and return its code.
 */
#ifndef KERNELS_TABLE_H
#define KERNELS_TABLE_H

#include "kernels/device.h"
#include "kernels/ops.h"

/* member, arguments after (struct run *r) */
#define OP_TABLE(X)                                                                                                  \
    X(linear, struct tensor y, struct tensor x, struct tensor w, struct tensor b, enum act act)                      \
    X(linear_add, struct tensor x, struct tensor h, struct tensor w, struct tensor b, struct tensor gate)            \
    X(layer_norm, struct tensor y, struct tensor x, struct tensor w, struct tensor b, float eps)                     \
    X(layer_norm_mod, struct tensor y, struct tensor x, struct tensor shift, struct tensor scale, float eps)         \
    X(rms_norm, struct tensor y, struct tensor x, struct tensor w, float eps)                                        \
    X(group_norm, struct tensor y, struct tensor x, struct tensor w, struct tensor b, int groups, float eps,         \
      enum act act)                                                                                                  \
    X(group_stats, struct tensor y, struct tensor x, int groups)                                                     \
    X(group_apply, struct tensor y, struct tensor x, struct tensor stats, struct tensor w, struct tensor b,          \
      float eps, enum act act)                                                                                       \
    X(batch_norm, struct tensor y, struct tensor x, struct tensor w, struct tensor b, struct tensor mean,            \
      struct tensor var, float eps, enum act act)                                                                    \
    X(attention, struct tensor y, struct tensor q, struct tensor k, struct tensor v, struct attn a)                  \
    X(rope_table, struct tensor cos, struct tensor sin, int64_t n_frames, int64_t h, int64_t w, const int *dims,     \
      float theta, int64_t t_first)                                                                                  \
    X(norm_rope, struct tensor x, struct tensor w, float eps, struct tensor cos, struct tensor sin)                  \
    X(rope_halves, struct tensor x, struct tensor pos, float theta)                                                  \
    X(conv, struct tensor y, struct tensor x, struct tensor w, struct tensor b, const struct conv *c)                \
    X(max_pool, struct tensor y, struct tensor x, int k, int stride, int pad)                                        \
    X(upsample, struct tensor y, struct tensor x, int ft, int fh, int fw, bool first_once)                           \
    X(normalize, struct tensor y, struct tensor x, float div, const float *mean, const float *std)                   \
    X(to_u8, struct tensor y, struct tensor x)                                                                       \
    X(to_yuv420, struct tensor y, struct tensor x)                                                                   \
    X(mask_down, struct tensor y, struct tensor mask)                                                                \
    X(act, struct tensor x, enum act act)                                                                            \
    X(act_mul, struct tensor a, struct tensor b, enum act act)                                                       \
    X(add, struct tensor x, struct tensor y)                                                                         \
    X(add_gated, struct tensor x, struct tensor y, struct tensor gate)                                               \
    X(add_masked, struct tensor x, struct tensor y, struct tensor mask)                                              \
    X(scale, struct tensor x, float mul, float add)                                                                  \
    X(fill, struct tensor x, float value)                                                                            \
    X(round, struct tensor x, enum dtype dtype)                                                                      \
    X(timestep, struct tensor y, const float *t, int n, int dim)                                                     \
    X(mean_rows, struct tensor y, struct tensor x, struct tensor mask)                                               \
    X(copy, struct tensor dst, struct tensor x)                                                                      \
    X(gather, struct tensor y, struct tensor x, int dim, struct tensor idx)                                          \
    X(scatter_add, struct tensor dst, int dim, struct tensor idx, struct tensor src)                                 \
    X(patchify, struct tensor y, struct tensor x)                                                                    \
    X(unpatchify, struct tensor y, struct tensor x)                                                                  \
    X(randn, struct tensor y, uint64_t seed, uint32_t stream)                                                        \
    X(euler, struct tensor x, struct tensor v0, struct tensor v1, float g, float dt)                                 \
    X(gauss, struct tensor y, struct tensor mean, struct tensor logvar, struct tensor noise, float scale)            \
    X(blend, struct tensor b, struct tensor a, int dim, int64_t n)                                                   \
    X(log_mel, struct tensor y, struct tensor wave, struct tensor filters)

struct op_table {
    const char *name;
#define X(member, ...) int (*member)(struct run *r, __VA_ARGS__);
    OP_TABLE(X)
#undef X
};

/* The tables of this build. cpu_table starts as a copy of cpu_ref_table and overrides upward. */
const struct op_table *cpu_ref_table(void);
const struct op_table *cpu_table(void);

#endif
