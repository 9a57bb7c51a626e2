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

/* c[mr][ISA_NR] (row distance c_pitch) = or += a[mr][kc] (row distance ISA_PITCH) b[kc][ISA_NR]. */
ISA_INLINE void isa_tile(const int mr, float *c, int64_t c_pitch, const float *a, const float *b, int64_t kc,
                         bool first)
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
            s[i][0] += a[i * ISA_PITCH + k] * b0;
            s[i][1] += a[i * ISA_PITCH + k] * b1;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        isa_store(c + i * c_pitch, s[i][0]);
        isa_store(c + i * c_pitch + ISA_LANES, s[i][1]);
    }
}

/* The same for n rows, any number. */
static __attribute__((unused)) void isa_product(int64_t n, float *c, int64_t c_pitch, const float *a,
                                                const float *b, int64_t kc, bool first)
{
    for (; n >= ISA_MR; n -= ISA_MR, c += ISA_MR * c_pitch, a += ISA_MR * ISA_PITCH)
        isa_tile(ISA_MR, c, c_pitch, a, b, kc, first);
    switch (n) {
#if ISA_MR > 6
    case 13:
        isa_tile(13, c, c_pitch, a, b, kc, first);
        break;
    case 12:
        isa_tile(12, c, c_pitch, a, b, kc, first);
        break;
    case 11:
        isa_tile(11, c, c_pitch, a, b, kc, first);
        break;
    case 10:
        isa_tile(10, c, c_pitch, a, b, kc, first);
        break;
    case 9:
        isa_tile(9, c, c_pitch, a, b, kc, first);
        break;
    case 8:
        isa_tile(8, c, c_pitch, a, b, kc, first);
        break;
    case 7:
        isa_tile(7, c, c_pitch, a, b, kc, first);
        break;
    case 6:
        isa_tile(6, c, c_pitch, a, b, kc, first);
        break;
#endif
    case 5:
        isa_tile(5, c, c_pitch, a, b, kc, first);
        break;
    case 4:
        isa_tile(4, c, c_pitch, a, b, kc, first);
        break;
    case 3:
        isa_tile(3, c, c_pitch, a, b, kc, first);
        break;
    case 2:
        isa_tile(2, c, c_pitch, a, b, kc, first);
        break;
    case 1:
        isa_tile(1, c, c_pitch, a, b, kc, first);
        break;
    default:
        break;
    }
}

#endif
