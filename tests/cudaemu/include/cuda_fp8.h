/* cuda_fp8.h -- __nv_fp8_e4m3 for the emulation: storage and conversions, half to even, saturating. */
#ifndef TESTS_CUDAEMU_INCLUDE_CUDA_FP8_H
#define TESTS_CUDAEMU_INCLUDE_CUDA_FP8_H

#include "cuda_runtime.h"

typedef uint8_t __nv_fp8_storage_t;

struct __nv_fp8_e4m3 {
    __nv_fp8_storage_t __x;
    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float v)
    {
        uint8_t sign = std::signbit(v) ? 0x80 : 0;
        float a = fabsf(v);
        if (a != a) {
            __x = 0x7f;
            return;
        }
        a = a > 448 ? 448 : a;
        int e = a < 0x1p-6f ? -6 : ilogbf(a);
        uint32_t units = (uint32_t)nearbyintf(ldexpf(a, 3 - e)); /* of 2^(e-3): up to 16 */
        __x = (uint8_t)(sign | (units + ((uint32_t)(e + 6) << 3)));
    }
    explicit operator float() const
    {
        int e = __x >> 3 & 15, m = __x & 7;
        if ((__x & 0x7f) == 0x7f)
            return cudaemu_float(0x7fc00000u);
        float v = e ? ldexpf((float)(m + 8), e - 10) : ldexpf((float)m, -9);
        return __x & 0x80 ? -v : v;
    }
};

#endif
