/* isa_math.h -- exp, erfc and the activations in f32, written so that compilers turn loops of them into
 * vector code.
 *
 * Bounds against double, measured over all f32 where the result is normal: isa_exp 1.2e-7 relative (below
 * 2^-126 the result is 0), activations 3e-7 of |x| (silu family) and of max(|x|, 1) 2e-7 (erf). NaN stays
 * NaN.
 */
#ifndef KERNELS_CPU_ISA_MATH_H
#define KERNELS_CPU_ISA_MATH_H

#include "kernels/cpu/isa.h"

/* 2^i for i in [-127, 128]: 0 and infinity at the ends. */
ISA_INLINE float isa_pow2(float i)
{
    int32_t bits = ((int32_t)i + 127) << 23;
    float p;
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* Nearest whole number for |x| < 2^22. */
ISA_INLINE float isa_round(float x)
{
    return (x + 12582912.0f) - 12582912.0f;
}

/* 2^x for x <= 127: x = i + f with |f| <= 1/2, and a minimax polynomial (2e-9) of 2^f. */
ISA_INLINE float isa_exp2(float x)
{
    x = x < -127.0f ? -127.0f : x;
    float i = isa_round(x), f = x - i;
    float p = 1.5353362e-4f;
    p = p * f + 1.3398874e-3f;
    p = p * f + 9.6184369e-3f;
    p = p * f + 5.5503324e-2f;
    p = p * f + 2.4022648e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    return p * isa_pow2(i);
}

/* e^x with ln 2 in two parts, so that large x lose nothing. */
ISA_INLINE float isa_exp(float x)
{
    x = x < -88.0f ? -88.0f : x;
    x = x > 88.8f ? 88.8f : x;
    float i = isa_round(x * 1.44269504f);
    float f = (x - i * 0.693359375f) + i * 2.12194440e-4f;
    float p = 1.9875691e-4f; /* minimax on +-ln(2)/2, Cephes' expf */
    p = p * f + 1.3981999e-3f;
    p = p * f + 8.3334519e-3f;
    p = p * f + 4.1665796e-2f;
    p = p * f + 1.6666666e-1f;
    p = p * f + 5.0000001e-1f;
    p = p * (f * f) + f + 1.0f;
    return p * isa_pow2(i);
}

/* erfc(x) for x >= 0: Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most. */
ISA_INLINE float isa_erfc(float x)
{
    float t = 1.0f / (1.0f + 0.3275911f * x);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    return p * t * isa_exp(-x * x);
}

ISA_INLINE float isa_sigmoid(float x)
{
    return 1.0f / (1.0f + isa_exp(-x));
}

ISA_INLINE float isa_gelu_tanh(float x)
{
    float u = 1.5957691216f * (x + 0.044715f * x * x * x); /* x/2 (1 + tanh(u/2)) = x / (1 + e^-u) */
    return x * isa_sigmoid(u);
}

ISA_INLINE float isa_gelu_erf(float x)
{
    float a = x < 0 ? -x : x;
    float tail = 0.5f * a * isa_erfc(a * 0.70710678f);
    return (x > 0 ? x : 0) - tail + (x != x ? x : 0);
}

#if defined _OPENMP
#define ISA_SIMD _Pragma("omp simd")
#else
#define ISA_SIMD
#endif

#define ISA_ACT_LOOP(value)                                                                                  \
    do {                                                                                                     \
        ISA_SIMD for (int64_t i = 0; i < n; i++)                                                             \
        {                                                                                                    \
            float x = p[i];                                                                                  \
            p[i] = (value);                                                                                  \
        }                                                                                                    \
    } while (0)

/* p[i] = act(p[i]). */
static __attribute__((unused)) void isa_act_row(float *p, int64_t n, enum act act)
{
    switch (act) {
    case ACT_RELU:
        ISA_ACT_LOOP(x < 0 ? 0 : x);
        break;
    case ACT_SILU:
        ISA_ACT_LOOP(x * isa_sigmoid(x));
        break;
    case ACT_GELU_TANH:
        ISA_ACT_LOOP(isa_gelu_tanh(x));
        break;
    case ACT_GELU_ERF:
        ISA_ACT_LOOP(isa_gelu_erf(x));
        break;
    case ACT_QUICK_GELU:
        ISA_ACT_LOOP(x * isa_sigmoid(1.702f * x));
        break;
    case ACT_SIGMOID:
        ISA_ACT_LOOP(isa_sigmoid(x));
        break;
    default:
        break;
    }
}

#endif
