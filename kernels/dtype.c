#include "kernels/dtype.h"

#include <math.h>
#include <string.h>

#include "common/err.h"

static const struct {
    const char *name;
    size_t bytes;
} table[DTYPE_COUNT] = {
#define X(name, bytes, text) {text, bytes},
    DTYPE_MAP(X)
#undef X
};

size_t dtype_bytes(enum dtype t)
{
    return (unsigned)t < DTYPE_COUNT ? table[t].bytes : 0;
}

const char *dtype_name(enum dtype t)
{
    return (unsigned)t < DTYPE_COUNT ? table[t].name : "UNKNOWN";
}

int dtype_parse(const char *name, enum dtype *ret)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(table[i].name, name) == 0) {
            *ret = (enum dtype)i;
            return 0;
        }
    }
    return ERR_INVALID;
}

static uint32_t bits_of(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

float dtype_bf16_to_f32(uint16_t v)
{
    return float_of((uint32_t)v << 16);
}

uint16_t dtype_bf16_from_f32(float v)
{
    uint32_t u = bits_of(v);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40); /* a NaN stays one: rounding could carry it to infinity */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float dtype_f16_to_f32(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000) << 16, e = v >> 10 & 31, m = v & 0x3ff;
    if (e == 31)
        return float_of(sign | 0x7f800000u | m << 13);
    if (e == 0)
        return float_of(sign | bits_of((float)m * 0x1p-24f));
    return float_of(sign | (e + 127 - 15) << 23 | m << 13);
}

uint16_t dtype_f16_from_f32(float v)
{
    uint32_t u = bits_of(v), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= bits_of(65520.0f)) /* half way between the largest number and what would be the next */
        return (uint16_t)(sign | 0x7c00);
    if (a < bits_of(0x1p-14f)) /* the grid is even below the smallest normal number */
        return (uint16_t)(sign | (uint32_t)nearbyintf(float_of(a) * 0x1p24f));
    return (uint16_t)(sign | (((a + 0xfff + (a >> 13 & 1)) >> 13) - ((127u - 15) << 10)));
}

float dtype_e4m3_to_f32(uint8_t v)
{
    uint32_t sign = (uint32_t)(v & 0x80) << 24, e = v >> 3 & 15, m = v & 7;
    if ((v & 0x7f) == 0x7f)
        return float_of(sign | 0x7fc00000u);
    if (e == 0)
        return float_of(sign | bits_of((float)m * 0x1p-9f));
    return float_of(sign | (e + 127 - 7) << 23 | m << 20);
}

uint8_t dtype_e4m3_from_f32(float v)
{
    uint32_t u = bits_of(v), sign = u >> 24 & 0x80, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint8_t)(sign | 0x7f);
    if (a >= bits_of(448.0f))
        return (uint8_t)(sign | 0x7e);
    if (a < bits_of(0x1p-6f))
        return (uint8_t)(sign | (uint32_t)nearbyintf(float_of(a) * 0x1p9f));
    return (uint8_t)(sign | (((a + 0x7ffff + (a >> 20 & 1)) >> 20) - ((127u - 7) << 3)));
}

/* One loop a type; v[i] is element i of src. */
#define READ(type, expr)                                                                                             \
    {                                                                                                                \
        const type *v = src;                                                                                         \
        for (int64_t i = 0; i < n; i++)                                                                              \
            dst[i] = (float)(expr) * scale;                                                                          \
    }                                                                                                                \
    break

void dtype_read_f32(float *dst, const void *src, enum dtype t, int64_t n, float scale)
{
    switch (t) {
    case DTYPE_F32: READ(float, v[i]);
    case DTYPE_F64: READ(double, v[i]);
    case DTYPE_BF16: READ(uint16_t, dtype_bf16_to_f32(v[i]));
    case DTYPE_F16: READ(uint16_t, dtype_f16_to_f32(v[i]));
    case DTYPE_F8E4M3: READ(uint8_t, dtype_e4m3_to_f32(v[i]));
    case DTYPE_U8: READ(uint8_t, v[i]);
    case DTYPE_BOOL: READ(uint8_t, v[i] != 0);
    case DTYPE_I8: READ(int8_t, v[i]);
    case DTYPE_I16: READ(int16_t, v[i]);
    case DTYPE_I32: READ(int32_t, v[i]);
    case DTYPE_I64: READ(int64_t, v[i]);
    case DTYPE_COUNT: break;
    }
}

/* Towards zero, saturating; NaN gives 0: a cast of such a value would be undefined. */
static int64_t whole(float v, double min, double max)
{
    if (v != v)
        return 0;
    if (v <= min)
        return (int64_t)min;
    if (v >= max)
        return max >= 0x1p63 ? INT64_MAX : (int64_t)max;
    return (int64_t)v;
}

#define WRITE(type, expr)                                                                                            \
    {                                                                                                                \
        type *v = dst;                                                                                               \
        for (int64_t i = 0; i < n; i++)                                                                              \
            v[i] = (type)(expr);                                                                                     \
    }                                                                                                                \
    break

void dtype_write_f32(void *dst, enum dtype t, const float *src, int64_t n)
{
    switch (t) {
    case DTYPE_F32: WRITE(float, src[i]);
    case DTYPE_F64: WRITE(double, src[i]);
    case DTYPE_BF16: WRITE(uint16_t, dtype_bf16_from_f32(src[i]));
    case DTYPE_F16: WRITE(uint16_t, dtype_f16_from_f32(src[i]));
    case DTYPE_F8E4M3: WRITE(uint8_t, dtype_e4m3_from_f32(src[i]));
    case DTYPE_U8: WRITE(uint8_t, whole(src[i], 0, UINT8_MAX));
    case DTYPE_BOOL: WRITE(uint8_t, src[i] != 0);
    case DTYPE_I8: WRITE(int8_t, whole(src[i], INT8_MIN, INT8_MAX));
    case DTYPE_I16: WRITE(int16_t, whole(src[i], INT16_MIN, INT16_MAX));
    case DTYPE_I32: WRITE(int32_t, whole(src[i], INT32_MIN, INT32_MAX));
    case DTYPE_I64: WRITE(int64_t, whole(src[i], -0x1p63, 0x1p63));
    case DTYPE_COUNT: break;
    }
}
