/* cuda_fp16.h -- __half for the emulation: storage and conversions, half to even. */
#ifndef TESTS_CUDAEMU_INCLUDE_CUDA_FP16_H
#define TESTS_CUDAEMU_INCLUDE_CUDA_FP16_H

#include "cuda_runtime.h"

struct __half {
    uint16_t x;
};
struct __attribute__((aligned(4))) __half2 {
    __half x, y;
};

static inline float __half2float(__half h)
{
    uint32_t sign = (uint32_t)(h.x & 0x8000) << 16, e = h.x >> 10 & 31, m = h.x & 0x3ff;
    if (e == 31)
        return cudaemu_float(sign | 0x7f800000u | m << 13);
    float v = e ? ldexpf((float)(m + 1024), (int)e - 25) : ldexpf((float)m, -24);
    return sign ? -v : v;
}

static inline __half __float2half_rn(float v)
{
    uint16_t sign = std::signbit(v) ? 0x8000 : 0;
    float a = fabsf(v);
    if (a != a)
        return {0x7fff};
    if (a >= 65520)
        return {(uint16_t)(sign | 0x7c00)};
    int e = a < 0x1p-14f ? -14 : ilogbf(a);
    uint32_t units = (uint32_t)nearbyintf(ldexpf(a, 10 - e)); /* of 2^(e-10): up to 2048 */
    return {(uint16_t)(sign | (units + ((uint32_t)(e + 14) << 10)))};
}

static inline __half __float2half(float v) { return __float2half_rn(v); }
static inline __half2 __floats2half2_rn(float a, float b) { return {__float2half_rn(a), __float2half_rn(b)}; }
static inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }

#endif
