/* shadow_bound.h -- the part of a bound that follows the data: shadow.c's own. tests/checkop makes data for which the plain
 * units of tolerance.h hold; real activations have outliers, means far from 0 and large scores. */
#ifndef KERNELS_SHADOW_BOUND_H
#define KERNELS_SHADOW_BOUND_H

#include "kernels/shadow.h"

/* For all elements of a row of the result (all dimensions but the last). */
struct shadow_bound {
    double units;   /* of 2^-24 */
    double more;    /* added to |reference| + peak + magnitude */
    double rounded; /* of the magnitude */
    double floor;   /* added as it is */
};

/* The same for every row of the op. t: its tensors by argument, on the host; where is the device's. */
struct shadow_bound shadow_bound(enum tolerance_op op, const struct tensor *t, const struct device *d);
/* rows[0 .. rows of the result): for ops whose rows differ. False: they do not. */
bool shadow_bound_rows(enum tolerance_op op, const struct tensor *t, const struct shadow_arg *args, const struct device *d,
                       struct shadow_bound same, struct shadow_bound *rows);

#endif
