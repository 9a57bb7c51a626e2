/* e4m3.h -- numbers to e4m3 with a scale that is found on the device, for lib_blas.c and lib_dnn.c.
 *
 *     rc = e4m3_rows(r, dst, x, none, scale, true);      x[i][k] is nearly scale[i] * dst[i][k]
 *
 * A scale is the least power of two that brings the largest magnitude to 448 or less, 2^-100 at least: e4m3 has an
 * exponent of its own, so a power of two costs no precision, multiplying by it is exact, and numbers that were e4m3 times
 * another power of two come back as they were. The largest of all rows is found without the host and does not depend on
 * who is first. A NaN stays one and does not count for the scale; an infinity makes its row NaN.
 */
#ifndef KERNELS_CUDA_E4M3_H
#define KERNELS_CUDA_E4M3_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif
/* x [m, n] with one stride between rows, of any float type but e4m3, n a multiple of 4; dst [m, n] contiguous; less f32 [n]
 * is subtracted first, or none; scale f32 [m] (each_row) or [1]. */
int e4m3_rows(struct run *r, struct tensor dst, struct tensor x, struct tensor less, struct tensor scale, bool each_row);
/* dst f32 [n] = the mean of E4M3_MEAN_ROWS rows of x [m, n] (f32) at equal distances, or of all when there are fewer. */
#define E4M3_MEAN_ROWS 1024
int e4m3_mean(struct run *r, struct tensor dst, struct tensor x);
#ifdef __cplusplus
}
#endif

#endif
