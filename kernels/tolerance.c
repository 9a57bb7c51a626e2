/* tolerance.c -- the rows, and why their units are what they are.
 *
 * linear, linear_add, conv: a dot product in f32 is off by a few roundings of the sum of magnitudes, growing like the root
 * of its length; 10 holds for 2560 terms with at least 8 partial sums, with room for bias, gate and the activation's own two.
 *
 * attention: a weight e^score is off by the score's own error. For scores up to 8, of sums of up to 1024 terms, that is
 * 8 * sqrt(8) roundings at most, twice (numerator and sum of the weights).
 *
 * Norms: sums are in double; what remains are the roundings of mean, 1/root and four operations. They are of the largest
 * value of a row because x - mean is off by a rounding of x, not of the difference.
 *
 * act, act_mul: kernels/cpu/isa_math.h, in units of |x|. The other element-wise ones: two or three roundings each.
 */
#include "kernels/tolerance.h"

const struct tolerance tolerance_of[TOLERANCE_OPS] = {
#define X(member, args, units, flags) {#member, args, units, flags},
    TOLERANCE_MAP(X)
#undef X
};

/* A number of p significant bits is off by 2^-p of itself at most: two factors by 2^-8 each in bf16. f16: the weights stay,
 * activations are off by 2^-11, and below 2^-14 by 2^-25 (of inputs that reach 1). e4m3: both off by 2^-4, and where the
 * scaled value is below 2^-6 by 2^-10 of a scale, which is twice the largest / 448 at most. No activation is steeper than
 * STEEP (GELU at 1.41). What rounds in bf16 alone does so in fp8 too, and its sums a third time. */
#define STEEP 1.13
struct tolerance_room tolerance_room(const struct tolerance *t, const struct device *d, enum dtype weight)
{
    static const struct tolerance_room rooms[] = {
        [DEVICE_F32] = {0, 0},
        [DEVICE_BF16] = {STEEP * (2 * 0x1p-8 + 0x1p-16), 0},
        [DEVICE_FP8] = {STEEP * (2 * 0x1p-4 + 0x1p-8), STEEP * 4 * 0x1p-10 / 448}};
    bool here = d->precision == DEVICE_BF16 && !d->is_host;
    if (t->flags & TOLERANCE_ROUNDS && here && weight == DTYPE_F16)
        return (struct tolerance_room){STEEP * 0x1p-11, STEEP * 0x1p-25};
    if (t->flags & TOLERANCE_ROUNDS)
        return rooms[d->precision];
    if (t->flags & TOLERANCE_BF16 && !d->is_host && d->precision != DEVICE_F32)
        return (struct tolerance_room){STEEP * (3 * 0x1p-8 + 0x1p-14), 0};
    return rooms[DEVICE_F32];
}
