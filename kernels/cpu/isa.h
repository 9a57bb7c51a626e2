/* isa.h -- vectors of the instruction set this file is compiled for, and the small product they make.
 *
 * Sources that include this are compiled once per instruction set (-DCPU_ISA=base|v3|v4: plain, AVX2 with
 * FMA, AVX-512) and export their ops as cpu_NAME_ISA through isa.c. Nothing here may have external linkage.
 *
 * Element-wise loops are plain C under "#pragma omp simd"; only the matrix product names vectors. It computes
 * tiles of ISA_MR rows and ISA_NR columns, summing over k in order with one accumulator an element: the
 * result of an element does not depend on how the work was cut, nor on the number of threads.
 */
#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H

#include <stdint.h>
#include <string.h>
#if defined __AVX2__
#include <immintrin.h>
#endif

#include "kernels/cpu/cpu.h"

#define ISA_PASTE2(a, b, c) a##b##_##c
#define ISA_PASTE(a, b, c) ISA_PASTE2(a, b, c)
#define ISA_FN(name) ISA_PASTE(cpu_, name, CPU_ISA) /* ISA_FN(act) is cpu_act_v4 */

#define X(member, ...) int ISA_FN(member)(struct run * r, __VA_ARGS__);
OP_TABLE(X)
#undef X

#if defined __AVX512F__
#define ISA_LANES 16
#define ISA_MR 14 /* 28 sums, 2 columns of b, 1 broadcast: 31 of 32 registers */
#elif defined __AVX2__
#define ISA_LANES 8
#define ISA_MR 6 /* 12 sums of 16 registers */
#else
#define ISA_LANES 4
#define ISA_MR 6
#endif
#define ISA_NR (2 * ISA_LANES)
#define ISA_KC 256              /* k taken at once: 32 KiB of b at most */
#define ISA_PITCH (ISA_KC + 16) /* row distance of a: off the powers of two, and an immediate in the code */

typedef float isa_vec __attribute__((vector_size(4 * ISA_LANES)));
typedef float isa_vec_u
    __attribute__((vector_size(4 * ISA_LANES), aligned(4), may_alias)); /* at any address */
typedef int32_t isa_int __attribute__((vector_size(4 * ISA_LANES)));

#define ISA_INLINE static inline __attribute__((always_inline, unused))

ISA_INLINE isa_vec isa_load(const float *p)
{
    return *(const isa_vec_u *)p;
}

ISA_INLINE void isa_store(float *p, isa_vec v)
{
    *(isa_vec_u *)p = v;
}

ISA_INLINE isa_vec isa_max(isa_vec a, isa_vec b)
{
#if defined __AVX512F__
    return (isa_vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined __AVX2__
    return (isa_vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    isa_int larger = a > b;
    return (isa_vec)(((isa_int)a & larger) | ((isa_int)b & ~larger));
#endif
}

/* Lanes added pairwise. */
ISA_INLINE float isa_sum(isa_vec v)
{
    float p[ISA_LANES];
    isa_store(p, v);
    for (int n = ISA_LANES / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++)
            p[i] += p[i + n];
    }
    return p[0];
}

/* Half to even, as dtype_bf16_from_f32 but for NaN, which stays some NaN. */
ISA_INLINE uint16_t isa_to_bf16(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    return (uint16_t)(v != v ? u >> 16 | 0x40 : rounded);
}

/* s + a b by lanes; half: every lane of a and b is a pair of bf16, and both products are added. */
ISA_INLINE isa_vec isa_multiply(isa_vec s, float a, isa_vec b, const bool half)
{
#if defined __AVX512BF16__
    if (half)
        return (isa_vec)_mm512_dpbf16_ps((__m512)s, (__m512bh)((isa_vec){0} + a), (__m512bh)b);
#endif
    (void)half;
    return s + a * b;
}

/* c[mr][ISA_NR] (row distance c_pitch) = or += a[mr][kc] (row distance ISA_PITCH) b[kc][ISA_NR]. */
ISA_INLINE void isa_tile(const int mr, float *c, int64_t c_pitch, const float *a, const float *b, int64_t kc,
                         bool first, const bool half)
{
    isa_vec s[ISA_MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        s[i][0] = first ? (isa_vec){0} : isa_load(c + i * c_pitch);
        s[i][1] = first ? (isa_vec){0} : isa_load(c + i * c_pitch + ISA_LANES);
    }
    for (int64_t k = 0; k < kc; k++) {
        isa_vec b0 = isa_load(b + k * ISA_NR), b1 = isa_load(b + k * ISA_NR + ISA_LANES);
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) {
            s[i][0] = isa_multiply(s[i][0], a[i * ISA_PITCH + k], b0, half);
            s[i][1] = isa_multiply(s[i][1], a[i * ISA_PITCH + k], b1, half);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        isa_store(c + i * c_pitch, s[i][0]);
        isa_store(c + i * c_pitch + ISA_LANES, s[i][1]);
    }
}

/* The same for n rows, any number. */
ISA_INLINE void isa_rows(int64_t n, float *c, int64_t c_pitch, const float *a, const float *b, int64_t kc,
                         bool first, const bool half)
{
    for (; n >= ISA_MR; n -= ISA_MR, c += ISA_MR * c_pitch, a += ISA_MR * ISA_PITCH)
        isa_tile(ISA_MR, c, c_pitch, a, b, kc, first, half);
#define ISA_REST(mr)                                                                                         \
    case mr:                                                                                                 \
        isa_tile(mr, c, c_pitch, a, b, kc, first, half);                                                     \
        break;
    switch (n) {
#if ISA_MR > 6
        ISA_REST(13)
        ISA_REST(12)
        ISA_REST(11)
        ISA_REST(10)
        ISA_REST(9)
        ISA_REST(8)
        ISA_REST(7)
        ISA_REST(6)
#endif
        ISA_REST(5)
        ISA_REST(4)
        ISA_REST(3)
        ISA_REST(2)
        ISA_REST(1)
    default:
        break;
    }
#undef ISA_REST
}

static __attribute__((unused)) void isa_product(int64_t n, float *c, int64_t c_pitch, const float *a,
                                                const float *b, int64_t kc, bool first)
{
    isa_rows(n, c, c_pitch, a, b, kc, first, false);
}

#endif
