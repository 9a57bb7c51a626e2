/* lib_dnn.h -- attention and convolution by cuDNN 9, through its backend API in C. The door to that library is lib_dnn.c;
 * without it, in the emulation of tests/cudaemu, and for what the library does not take, every call answers LIB_DNN_OWN and
 * the caller goes its own way.
 *
 * Not on devices of precision f32: what it rounds is outside those bounds. bf16: 16 bits in, f32 sums, 16 bits out; f16 in
 * convolutions whose weights are stored so, where what does not fit becomes +-65504 and not infinite, else bf16. fp8: the
 * same, but attention on sm_90 and later multiplies e4m3 by e4m3 with f32 sums and a bf16 result: q, k without its mean,
 * and v with a scale each (e4m3.h), weights of keys times 256. An engine for it is not promised: bf16 is the way back.
 */
#ifndef KERNELS_CUDA_LIB_DNN_H
#define KERNELS_CUDA_LIB_DNN_H

#include "kernels/cuda/cuda.h"

#define LIB_DNN_OWN 1 /* nothing was done */

#if defined(TROUPE_CUDNN)
#ifdef __cplusplus
extern "C" {
#endif
/* For the device's life, before its first op: handles allocate. Closed by c->dnn_close, also after a failure. */
int lib_dnn_open(struct cuda_impl *c, struct err *err);
/* As the ops of ops.h; 0, LIB_DNN_OWN, or the run's failure. Attention: where every query sees every key. */
int lib_dnn_attention(struct run *r, struct tensor y, struct tensor q, struct tensor k, struct tensor v, struct attn a);
int lib_dnn_conv(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, const struct conv *c);
/* Kernels that it needs, in conv.cu: dst (bf16, or f16 clamped to +-65504; contiguous) = x from `from` on, and beyond its
 * edges their value or zero; y = act(x + b[C]), x as dst, its infinities clamped in f16. Channels are multiples of 4. */
int lib_dnn_padded(struct run *r, struct tensor dst, struct tensor x, const int64_t from[3], bool replicate);
int lib_dnn_finish(struct run *r, struct tensor y, struct tensor x, struct tensor b, enum act act);
#ifdef __cplusplus
}
#endif
#else
static inline int lib_dnn_open(struct cuda_impl *, struct err *)
{
    return 0;
}

static inline int lib_dnn_attention(struct run *, struct tensor, struct tensor, struct tensor, struct tensor, struct attn)
{
    return LIB_DNN_OWN;
}

static inline int lib_dnn_conv(struct run *, struct tensor, struct tensor, struct tensor, struct tensor, const struct conv *)
{
    return LIB_DNN_OWN;
}
#endif

#endif
