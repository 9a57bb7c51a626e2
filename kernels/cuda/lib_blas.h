/* lib_blas.h -- linear layers by cuBLASLt. The door to that library is lib_blas.c; the module builds and runs without it,
 * and so does the emulation of tests/cudaemu: then every call answers LIB_BLAS_OWN, and so it does for what the library does
 * not take (row strides that differ, no algorithm): the caller goes its own way.
 *
 * What precision is allowed is the device's, sums are f32 in all of them:
 * - f32 multiplies f32 by f32, no TF32 (CUBLAS_COMPUTE_32F allows none), weights widened exactly;
 * - bf16 multiplies f16 by f16 where the weights are stored so (activations are clamped to +-65504, never infinite), else
 *   bf16 by bf16; fp8 weights are widened to bf16, which is exact, and their scale multiplies the sum;
 * - fp8 multiplies e4m3 by e4m3 in large layers (BLAS_E4M3_LEAST in and out features), all others as bf16. Stored e4m3
 *   weights are taken as they are, with their scale; everything else gets scales by e4m3.h, by
 *   row of x and of w on sm_90, by tensor elsewhere, found on the device before the product.
 *
 * What NVIDIA's documentation of cublasLtMatmul (13.0) allows, and is kept to here: D in f32 with a bias of f32 beside f32,
 * f16 and bf16 operands, of bf16 beside e4m3; GELU and bias in the epilogue for all of these, as D lies in columns; C in
 * place of D; alpha and beta on the host. e4m3: W transposed and X not, pointers and dimensions multiples of 16 bytes, no
 * fast accumulation (the default), scales of f32 in device memory, one (from sm_89 on) or a vector each (sm_90 alone),
 * never set with other types. The work buffer is aligned to 256 bytes. A heuristic looks at the bias' alignment, so it is
 * part of an algorithm's key. That a card has an algorithm for each of these nobody promises: hence the ways back.
 */
#ifndef KERNELS_CUDA_LIB_BLAS_H
#define KERNELS_CUDA_LIB_BLAS_H

#include "kernels/cuda/cuda.h"

#define LIB_BLAS_OWN 1 /* nothing was done */

#if defined(TROUPE_CUBLASLT)
#ifdef __cplusplus
extern "C" {
#endif
/* For the device's life, before its first op: handles allocate. Closed by c->blas_close, also after a failure. */
int lib_blas_open(struct cuda_impl *c, struct err *err);
/* As the ops of ops.h; 0, LIB_BLAS_OWN, or the run's failure. */
int lib_blas_linear(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, enum act act);
int lib_blas_linear_add(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b,
                        struct tensor gate);
/* Kernels that it needs, in linear.cu. x [m, k] with one stride between rows, dst contiguous:
 * dst (f16) = x (f32), clamped to +-65504;
 * y = act(y + b[n]) in place, b of any float type or none. */
int lib_blas_f16(struct run *r, struct tensor dst, struct tensor x);
int lib_blas_finish(struct run *r, struct tensor y, struct tensor b, enum act act);
#ifdef __cplusplus
}
#endif
#else
static inline int lib_blas_open(struct cuda_impl *, struct err *)
{
    return 0;
}

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
