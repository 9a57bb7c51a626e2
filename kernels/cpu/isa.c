/* isa.c -- the ops of one instruction set, put into the table. */
#include "kernels/cpu/isa.h"

#define OVERRIDES(X)                                                                                                 \
    X(linear) X(linear_add) X(layer_norm) X(layer_norm_mod) X(rms_norm) X(group_norm) X(batch_norm) X(attention)      \
    X(group_stats) X(group_apply) X(rope_table) X(norm_rope) X(rope_halves) X(max_pool) X(upsample) X(normalize)      \
    X(to_u8) X(act) X(act_mul) X(add)                                                                                 \
    X(to_yuv420) X(add_gated) X(add_masked) X(scale) X(fill) X(mean_rows) X(copy) X(gather) X(patchify) X(unpatchify) \
    X(randn) X(euler) X(gauss) X(blend) X(log_mel)

void ISA_FN(isa)(struct op_table *table)
{
#define X(member) table->member = ISA_FN(member);
    OVERRIDES(X)
#undef X
}
