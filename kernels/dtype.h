/* dtype.h -- element types of tensors: sizes and exact conversions. */
#ifndef KERNELS_DTYPE_H
#define KERNELS_DTYPE_H

#include <stddef.h>
#include <stdint.h>

/* name, bytes, text (as safetensors spells it) */
#define DTYPE_MAP(X)                                                                                                 \
    X(F32, 4, "F32")                                                                                                 \
    X(F64, 8, "F64")                                                                                                 \
    X(BF16, 2, "BF16")                                                                                               \
    X(F16, 2, "F16")                                                                                                 \
    X(F8E4M3, 1, "F8_E4M3")                                                                                          \
    X(U8, 1, "U8")                                                                                                   \
    X(BOOL, 1, "BOOL")                                                                                               \
    X(I8, 1, "I8")                                                                                                   \
    X(I16, 2, "I16")                                                                                                 \
    X(I32, 4, "I32")                                                                                                 \
    X(I64, 8, "I64")

enum dtype {
#define X(name, bytes, text) DTYPE_##name,
    DTYPE_MAP(X)
#undef X
        DTYPE_COUNT
};

size_t dtype_bytes(enum dtype t);
const char *dtype_name(enum dtype t);
int dtype_parse(const char *name, enum dtype *ret); /* ERR_INVALID for an unknown one */

/* Exact widening; narrowing rounds half to even. e4m3 is the "fn" form: no infinity, 0x7f and 0xff are NaN;
 * dtype_e4m3_from_f32 clamps to +-448 first, as the reference's quantiser does. */
float dtype_bf16_to_f32(uint16_t v);
uint16_t dtype_bf16_from_f32(float v);
float dtype_f16_to_f32(uint16_t v);
uint16_t dtype_f16_from_f32(float v);
float dtype_e4m3_to_f32(uint8_t v);
uint8_t dtype_e4m3_from_f32(float v);

/* n elements of any type to f32 and back, contiguous. scale multiplies (fp8 weights), 1 otherwise. */
void dtype_read_f32(float *dst, const void *src, enum dtype t, int64_t n, float scale);
void dtype_write_f32(void *dst, enum dtype t, const float *src, int64_t n);

#endif
