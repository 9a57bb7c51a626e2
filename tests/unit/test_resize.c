/* test_resize.c -- the size rule, resizing and the length rule of resampling. Their exact numbers against the
 * reference are golden cases (image/, audio/); here are the edges. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "worker/media/resample.h"
#include "worker/media/resize.h"
#include "worker/media/size.h"

/* ---- size rule ------------------------------------------------------------------------------------------
 */

static void assert_size(int w, int h, int size, int want_w, int want_h)
{
    int got_w = -1, got_h = -1;
    size_rule(w, h, size, &got_w, &got_h);
    assert_int_equal(got_w, want_w);
    assert_int_equal(got_h, want_h);
}

static void test_size_rule(void **state)
{
    (void)state;
    assert_size(512, 512, 512, 512, 512);
    assert_size(1, 1, 512, 512, 512);       /* enlarged */
    assert_size(704, 1216, 704, 704, 1216); /* just the area allowed */
    assert_size(1216, 704, 704, 1216, 704);
    assert_size(1000, 500, 256, 448, 192); /* 512x256 is over 256x384: shrunk to that area */
    assert_size(64, 64, 96, 128, 128);     /* 96 / 64 = 1.5 goes to the even 2 */
    assert_size(64, 64, 160, 128, 128);    /* 2.5 to the even 2 */
    assert_size(40000, 10, 512, 39680, 0); /* a line: no height, the caller refuses */
}

static void test_size_multiples(void **state)
{
    (void)state;
    for (int w = 8; w < 3000; w += 61) {
        for (int h = 8; h < 3000; h += 97) {
            int got_w, got_h;
            size_rule(w, h, 704, &got_w, &got_h);
            assert_int_equal(got_w % 64, 0);
            assert_int_equal(got_h % 64, 0);
            assert_true((double)got_w * got_h <= 704.0 * 1216 * 1.35);
        }
    }
}

/* ---- resize ---------------------------------------------------------------------------------------------
 */

static struct image painted(int w, int h)
{
    struct image im = {mem_alloc((size_t)w * (size_t)h * 3), w, h};
    assert_non_null(im.pixels);
    for (int64_t i = 0; i < (int64_t)w * h * 3; i++)
        im.pixels[i] = (uint8_t)(i * 2654435761u >> 13);
    return im;
}

static struct image flat(int w, int h, uint8_t r, uint8_t g, uint8_t b)
{
    struct image im = painted(w, h);
    for (int64_t i = 0; i < (int64_t)w * h; i++)
        memcpy(im.pixels + 3 * i, (uint8_t[]){r, g, b}, 3);
    return im;
}

static void test_identity(void **state)
{
    (void)state;
    struct image im = painted(37, 23), out = {0};
    struct err err = {0};
    assert_int_equal(resize_image(&im, 37, 23, RESIZE_LANCZOS, &out, &err), 0);
    assert_memory_equal(im.pixels, out.pixels, 37 * 23 * 3);
    assert_ptr_not_equal(im.pixels, out.pixels);
    image_done(&im);
    image_done(&out);
}

/* A flat colour stays it, whatever the sizes: the weights of a pixel add up to 1. */
static void test_flat(void **state)
{
    (void)state;
    static const int size[][4] = {{1, 1, 640, 480}, {640, 480, 1, 1},   {1, 300, 300, 1}, {3, 2, 1000, 999},
                                  {2000, 10, 9, 2}, {4000, 3000, 8, 6}, {7, 7, 8, 7}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        for (int f = RESIZE_BILINEAR; f <= RESIZE_LANCZOS; f++) {
            struct image im = flat(size[i][0], size[i][1], 255, 1, 77), out = {0};
            struct err err = {0};
            assert_int_equal(resize_image(&im, size[i][2], size[i][3], f, &out, &err), 0);
            assert_int_equal(out.width, size[i][2]);
            assert_int_equal(out.height, size[i][3]);
            for (int64_t p = 0; p < (int64_t)out.width * out.height; p++)
                assert_memory_equal(out.pixels + 3 * p, ((uint8_t[]){255, 1, 77}), 3);
            image_done(&im);
            image_done(&out);
        }
    }
}

/* Halving with the triangle filter over 4 columns: weights 1/8 3/8 3/8 1/8 inside. */
static void test_halving(void **state)
{
    (void)state;
    struct image im = flat(8, 1, 0, 0, 0), out = {0};
    struct err err = {0};
    for (int x = 0; x < 8; x++)
        im.pixels[3 * x] = (uint8_t)(x * x * 3);
    assert_int_equal(resize_image(&im, 4, 1, RESIZE_BILINEAR, &out, &err), 0);
    for (int i = 1; i < 3; i++) {
        const uint8_t *p = im.pixels + 3 * (2 * i - 1);
        assert_int_equal(out.pixels[3 * i], (int)floor((p[0] + 3 * p[3] + 3 * p[6] + p[9]) / 8.0 + 0.5));
    }
    image_done(&im);
    image_done(&out);
}

/* Pillow's own bytes (13.0, FNV-1a over them) for pictures where either pass comes first, and at the edge of
 * the rule: 6 rows and 3 columns less go across first, 7 and 3 down. */
static void test_order_of_passes(void **state)
{
    (void)state;
    static const struct {
        int w, h, to_w, to_h;
        enum resize_filter filter;
        uint32_t hash;
    } row[] = {
        {90, 120, 64, 64, RESIZE_LANCZOS, 0x5f5c0bd5u},   {120, 90, 64, 64, RESIZE_LANCZOS, 0x4e374be3u},
        {61, 57, 58, 51, RESIZE_LANCZOS, 0x16dfc70au},    {61, 58, 58, 51, RESIZE_LANCZOS, 0x70b1dd32u},
        {100, 160, 64, 128, RESIZE_LANCZOS, 0xb32bb1fau}, {30, 40, 60, 80, RESIZE_BILINEAR, 0x49701149u},
        {33, 70, 50, 20, RESIZE_BILINEAR, 0x59ac3dd3u},   {70, 33, 20, 50, RESIZE_BILINEAR, 0x218e9409u},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct image im = painted(row[i].w, row[i].h), out = {0};
        struct err err = {0};
        uint32_t hash = 2166136261u;
        assert_int_equal(resize_image(&im, row[i].to_w, row[i].to_h, row[i].filter, &out, &err), 0);
        for (int64_t p = 0; p < (int64_t)out.width * out.height * 3; p++)
            hash = (hash ^ out.pixels[p]) * 16777619u;
        assert_int_equal(hash, row[i].hash);
        image_done(&im);
        image_done(&out);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    struct image im = flat(4, 4, 1, 2, 3), none = {0}, out = {0};
    static const int bad[][2] = {{0, 4}, {4, 0}, {-1, 4}, {4, -5}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        assert_int_equal(resize_image(&im, bad[i][0], bad[i][1], RESIZE_LANCZOS, &out, &err), ERR_INVALID);
        assert_null(out.pixels);
    }
    struct err err = {0};
    assert_int_equal(resize_image(&none, 4, 4, RESIZE_LANCZOS, &out, &err), ERR_INVALID);
    image_done(&im);
}

static void test_no_memory(void **state)
{
    (void)state;
    struct image im = painted(30, 20), out = {0};
    long n = 1;
    for (int rc = ERR_NOMEM; rc != 0; n++) {
        struct err err = {0};
        mem_fail_at(n);
        rc = resize_image(&im, 11, 13, RESIZE_LANCZOS, &out, &err);
        mem_fail_at(0);
        assert_true(rc == 0 || rc == ERR_NOMEM);
        assert_true(rc == 0 || (out.pixels == NULL && err.text[0]));
        assert_true(n < 100);
    }
    assert_true(n > 8); /* two axes of three arrays and two pictures were walked */
    image_done(&im);
    image_done(&out);
}

/* ---- resample -------------------------------------------------------------------------------------------
 */

static void test_resample_length(void **state)
{
    (void)state;
    static const int rates[] = {8000, 11000, 11025, 16000, 22050, 44100, 48000, 96000, 192000};
    static const int64_t counts[] = {1, 2, 3, 7, 1000, 16001};
    float x[16001];
    for (int i = 0; i < 16001; i++)
        x[i] = 0.25f * sinf((float)i * 0.02f);
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            struct err err = {0};
            float *y = NULL;
            int64_t n = -1;
            assert_int_equal(resample_16k(x, counts[c], rates[r], &y, &n, &err), 0);
            assert_int_equal(n, (int64_t)ceil((double)counts[c] * 16000 / rates[r]));
            for (int64_t i = 0; i < n; i++)
                assert_true(fabsf(y[i]) < 0.5f);
            mem_free(y);
        }
    }
}

static void test_resample_same(void **state)
{
    (void)state;
    const float x[5] = {0.1f, -0.2f, 0.3f, -0.4f, 0.5f};
    struct err err = {0};
    float *y = NULL;
    int64_t n = 0;
    assert_int_equal(resample_16k(x, 5, 16000, &y, &n, &err), 0);
    assert_int_equal(n, 5);
    assert_memory_equal(x, y, sizeof x);
    mem_free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_rule),       cmocka_unit_test(test_size_multiples),
        cmocka_unit_test(test_identity),        cmocka_unit_test(test_flat),
        cmocka_unit_test(test_halving),         cmocka_unit_test(test_order_of_passes),
        cmocka_unit_test(test_refusals),        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_resample_length), cmocka_unit_test(test_resample_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
