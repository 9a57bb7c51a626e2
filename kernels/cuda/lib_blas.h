/* lib_blas.h -- linear layers by cuBLASLt. The door to that library is lib_blas.c; the module builds and runs without it,
 * and so does the emulation of tests/cudaemu: then every call answers LIB_BLAS_OWN, and so it does for what the library does
 * not take (row strides that differ, no algorithm): the caller goes its own way.
 *
 * What precision is allowed is the device's: f32 multiplies f32 by f32 in f32, no TF32, weights widened exactly; bf16 rounds
 * the activations (and f32 and f16 weights) to bf16 for the tensor cores, which add in f32. fp8 weights are widened to bf16,
 * which is exact, and their scale multiplies the sum: activations are never fp8, no bound of ours allows three bits.
 */
#ifndef KERNELS_CUDA_LIB_BLAS_H
#define KERNELS_CUDA_LIB_BLAS_H

#include "kernels/cuda/cuda.h"

#define LIB_BLAS_OWN 1 /* nothing was done */

#if defined(TROUPE_CUBLASLT)
#ifdef __cplusplus
extern "C" {
#endif
/* As the ops of ops.h; 0, LIB_BLAS_OWN, or the run's failure. */
int lib_blas_linear(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, enum act act);
int lib_blas_linear_add(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b,
                        struct tensor gate);
#ifdef __cplusplus
}
#endif
#else
static inline int lib_blas_linear(struct run *, struct tensor, struct tensor, struct tensor, struct tensor, enum act)
{
    return LIB_BLAS_OWN;
}

static inline int lib_blas_linear_add(struct run *, struct tensor, struct tensor, struct tensor, struct tensor,
                                      struct tensor)
{
    return LIB_BLAS_OWN;
}
#endif

#endif
