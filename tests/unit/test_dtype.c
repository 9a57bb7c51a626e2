/* dtype: every 16- and 8-bit pattern there and back, rounding at the halves, limits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/err.h"
#include "kernels/dtype.h"

static void test_names(void **state)
{
    (void)state;
    enum dtype t = DTYPE_I8;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        assert_int_equal(dtype_parse(dtype_name((enum dtype)i), &t), 0);
        assert_int_equal(t, i);
    }
    assert_int_equal(dtype_parse("f32", &t), ERR_INVALID);
    assert_int_equal(dtype_parse("", &t), ERR_INVALID);
    assert_int_equal(t, DTYPE_COUNT - 1);
    assert_int_equal(dtype_bytes(DTYPE_F8E4M3), 1);
    assert_int_equal(dtype_bytes(DTYPE_I64), 8);
}

static void test_round_trips(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 65536; i++) {
        float b = dtype_bf16_to_f32((uint16_t)i), h = dtype_f16_to_f32((uint16_t)i);
        if (b == b)
            assert_int_equal(dtype_bf16_from_f32(b), i);
        else
            assert_true(isnan(dtype_bf16_to_f32(dtype_bf16_from_f32(b))));
        if (h == h)
            assert_int_equal(dtype_f16_from_f32(h), i);
        else
            assert_true(isnan(dtype_f16_to_f32(dtype_f16_from_f32(h))));
    }
    for (unsigned i = 0; i < 256; i++) {
        float v = dtype_e4m3_to_f32((uint8_t)i);
        assert_int_equal(isnan(v) != 0, (i & 0x7f) == 0x7f);
        assert_int_equal(dtype_e4m3_from_f32(v), i);
    }
}

/* Between neighbours a < b of a grid: just below the middle gives a, just above b, the middle the even one.
 */
static void check_halves(unsigned first, unsigned last, float (*to)(unsigned), unsigned (*from)(float))
{
    for (unsigned i = first; i < last; i++) {
        float a = to(i), b = to(i + 1), mid = (float)(((double)a + (double)b) / 2);
        assert_int_equal(from(mid), i % 2 ? i + 1 : i);
        assert_int_equal(from(nextafterf(mid, 0)), i);
        assert_int_equal(from(nextafterf(mid, INFINITY)), i + 1);
    }
}

static float bf16_to(unsigned v)
{
    return dtype_bf16_to_f32((uint16_t)v);
}
static unsigned bf16_from(float v)
{
    return dtype_bf16_from_f32(v);
}
static float f16_to(unsigned v)
{
    return dtype_f16_to_f32((uint16_t)v);
}
static unsigned f16_from(float v)
{
    return dtype_f16_from_f32(v);
}
static float e4m3_to(unsigned v)
{
    return dtype_e4m3_to_f32((uint8_t)v);
}
static unsigned e4m3_from(float v)
{
    return dtype_e4m3_from_f32(v);
}

static void test_half_to_even(void **state)
{
    (void)state;
    check_halves(0x0100, 0x7f7f, bf16_to, bf16_from);
    check_halves(0, 0x7bff, f16_to, f16_from);
    check_halves(0, 0x7e, e4m3_to, e4m3_from);
}

static void test_known(void **state)
{
    (void)state;
    assert_true(dtype_f16_to_f32(0x3c01) == 1 + 0x1p-10f);
    assert_true(dtype_f16_to_f32(0x7bff) == 65504);
    assert_int_equal(dtype_f16_from_f32(65519.996f), 0x7bff);
    assert_int_equal(dtype_f16_from_f32(65520), 0x7c00);
    assert_int_equal(dtype_f16_from_f32(-1e30f), 0xfc00);
    assert_int_equal(dtype_f16_from_f32(0x1p-25f), 0); /* half of the smallest: to even */
    assert_int_equal(dtype_f16_from_f32(-0x1.8p-25f), 0x8001);
    assert_int_equal(dtype_bf16_from_f32(3.4028235e38f), 0x7f80);
    assert_true(dtype_e4m3_to_f32(0x7e) == 448);
    assert_true(dtype_e4m3_to_f32(0x01) == 0x1p-9f);
    assert_int_equal(dtype_e4m3_from_f32(1e9f), 0x7e);
    assert_int_equal(dtype_e4m3_from_f32(-INFINITY), 0xfe);
    assert_int_equal(dtype_e4m3_from_f32(0.9f), 0x36); /* 0.875 below, 0.9375 above */
}

static void test_arrays(void **state)
{
    (void)state;
    float got[4], v[4] = {-1.5f, 300, NAN, 1e20f};
    uint8_t u8[4];
    int64_t i64[4];
    dtype_write_f32(u8, DTYPE_U8, v, 4);
    assert_memory_equal(u8, ((uint8_t[]){0, 255, 0, 255}), 4);
    dtype_write_f32(i64, DTYPE_I64, v, 4);
    assert_int_equal(i64[0], -1);
    assert_int_equal(i64[1], 300);
    assert_true(i64[3] == INT64_MAX);
    dtype_read_f32(got, (uint8_t[]){0x38, 0xb8, 0x40, 0x7e}, DTYPE_F8E4M3, 4, 0.5f);
    assert_memory_equal(got, ((float[]){0.5f, -0.5f, 1, 224}), sizeof got);
    dtype_read_f32(got, (uint8_t[]){0, 1, 7, 255}, DTYPE_BOOL, 4, 1);
    assert_memory_equal(got, ((float[]){0, 1, 1, 1}), sizeof got);
    for (int t = 0; t < DTYPE_COUNT; t++) {
        char bytes[4 * 8];
        float whole[4] = {0, 1, 1, 0};
        dtype_write_f32(bytes, (enum dtype)t, whole, 4);
        dtype_read_f32(got, bytes, (enum dtype)t, 4, 1);
        assert_memory_equal(got, whole, sizeof got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names), cmocka_unit_test(test_round_trips), cmocka_unit_test(test_half_to_even),
        cmocka_unit_test(test_known), cmocka_unit_test(test_arrays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
