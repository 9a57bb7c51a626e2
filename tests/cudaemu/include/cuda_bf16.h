/* cuda_bf16.h -- __nv_bfloat16 for the emulation: storage and conversions, half to even. */
#ifndef TESTS_CUDAEMU_INCLUDE_CUDA_BF16_H
#define TESTS_CUDAEMU_INCLUDE_CUDA_BF16_H

#include "cuda_runtime.h"

struct __nv_bfloat16 {
    uint16_t x;
};
struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 v) { return cudaemu_float((uint32_t)v.x << 16); }

static inline __nv_bfloat16 __float2bfloat16_rn(float v)
{
    uint32_t u = cudaemu_bits(v);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return {0x7fff}; /* as the hardware's */
    return {(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

static inline __nv_bfloat16 __float2bfloat16(float v) { return __float2bfloat16_rn(v); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16_rn(a), __float2bfloat16_rn(b)}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }

#endif
