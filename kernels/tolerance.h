/* tolerance.h -- how far an op's result may be from cpu_ref's, on any device: one row an op, for tests/checkop and shadow.h.
 *
 * An element may be off by
 *
 *     units * 2^-24 * (|reference| + peak + magnitude) + room.rounded * magnitude + room.steps * largest
 *
 * magnitude: what the op gives for the absolute values of its inputs and no activation, the sum that rounding errors are
 * proportional to. peak: the largest value of the result, for what is divided by a root mean square. room: what a precision
 * rounds away beforehand. Units are counted from the roundings of f32 (kernels/README.md, "What a tolerance is") for numbers
 * as tests/checkop makes them (shadow_bound.h adds what others need); 0 is bit for bit. Where the reasons are longer than a
 * word they stand in tolerance.c.
 *
 * An op's arguments, as table.h has them, a letter each, say what they are when the magnitude is wanted:
 *
 *     y  the result, not read before        x  read and written: its absolute value
 *     |  its absolute value                 -  minus that (what is subtracted)
 *     =  as it is                           0  an activation: none
 *     2  its absolute value and twice that of the argument before it
 */
#ifndef KERNELS_TOLERANCE_H
#define KERNELS_TOLERANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/device.h"

enum {
    TOLERANCE_MAGNITUDE = 1,
    TOLERANCE_PEAK = 2,
    TOLERANCE_ROUNDS = 4, /* factors are rounded in every precision below f32 */
    TOLERANCE_BF16 = 8,   /* in bf16 alone, and not on a host */
};

#define TOLERANCE_LINEAR (TOLERANCE_MAGNITUDE | TOLERANCE_ROUNDS)
#define TOLERANCE_CONV (TOLERANCE_MAGNITUDE | TOLERANCE_BF16)

/* member, arguments, units, flags */
#define TOLERANCE_MAP(X)                                                                            \
    X(linear, "y|||0", 10, TOLERANCE_LINEAR)                                                        \
    X(linear_add, "x||||", 10, TOLERANCE_LINEAR)                                                    \
    X(layer_norm, "y====", 8, TOLERANCE_PEAK)                                                       \
    X(layer_norm_mod, "y====", 8, TOLERANCE_PEAK)                                                   \
    X(rms_norm, "y===", 8, 0)                                                                       \
    X(group_norm, "y======", 8, TOLERANCE_PEAK)                                                     \
    X(group_stats, "y|=", 4, TOLERANCE_MAGNITUDE)                                                   \
    X(group_apply, "y======", 8, TOLERANCE_PEAK)                                                    \
    X(batch_norm, "y|||-==0", 8, TOLERANCE_MAGNITUDE)                                               \
    X(attention, "y==|=", 48, TOLERANCE_CONV)                                                       \
    X(rope_table, "yy======", 0, 0)                                                                 \
    X(norm_rope, "x====", 10, TOLERANCE_PEAK)                                                       \
    X(rope_halves, "x==", 4, TOLERANCE_PEAK)                                                        \
    X(conv, "y|||0", 10, TOLERANCE_CONV)                                                            \
    X(max_pool, "y====", 0, 0)                                                                      \
    X(upsample, "y=====", 0, 0)                                                                     \
    X(normalize, "y====", 0, 0)                                                                     \
    X(to_u8, "y=", 0, 0)                                                                            \
    X(to_yuv420, "y=", 0, 0)                                                                        \
    X(mask_down, "y|", 3, TOLERANCE_MAGNITUDE)                                                      \
    X(act, "x0", 6, TOLERANCE_MAGNITUDE)                                                            \
    X(act_mul, "x|0", 7, TOLERANCE_MAGNITUDE)                                                       \
    X(add, "x|", 1, TOLERANCE_MAGNITUDE)                                                            \
    X(add_gated, "x||", 2, TOLERANCE_MAGNITUDE)                                                     \
    X(add_masked, "x||", 2, TOLERANCE_MAGNITUDE)                                                    \
    X(scale, "x||", 2, TOLERANCE_MAGNITUDE)                                                         \
    X(fill, "x=", 0, 0)                                                                             \
    X(round, "x=", 0, 0)                                                                            \
    X(timestep, "y===", 1, TOLERANCE_PEAK)                                                          \
    X(mean_rows, "y==", 1, 0)                                                                       \
    X(copy, "y=", 0, 0)                                                                             \
    X(gather, "y===", 0, 0)                                                                         \
    X(scatter_add, "x===", 0, 0)                                                                    \
    X(patchify, "y=", 0, 0)                                                                         \
    X(unpatchify, "y=", 0, 0)                                                                       \
    X(randn, "y==", 0, 0)                                                                           \
    X(euler, "x|2||", 4, TOLERANCE_MAGNITUDE)                                                       \
    X(gauss, "y|=||", 6, TOLERANCE_MAGNITUDE)                                                       \
    X(blend, "x|==", 2, TOLERANCE_MAGNITUDE)                                                        \
    X(log_mel, "y==", 2, TOLERANCE_PEAK)

enum tolerance_op {
#define X(member, args, units, flags) TOLERANCE_##member,
    TOLERANCE_MAP(X)
#undef X
        TOLERANCE_OPS
};

struct tolerance {
    const char *op; /* the table's member */
    const char *args;
    double units;
    unsigned flags;
};

extern const struct tolerance tolerance_of[TOLERANCE_OPS];

/* What a precision adds: of the magnitude, and of what the op gives when every input is its tensor's largest. */
struct tolerance_room {
    double rounded, steps;
};

struct tolerance_room tolerance_room(const struct tolerance *t, const struct device *d, enum dtype weight);

#endif
