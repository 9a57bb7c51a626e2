/* test_image_in.c -- pictures of every kind and damage. Colours are those of Pillow's convert("RGB"). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/str.h"
#include "tests/unit/media_make.h"
#include "worker/media/claim.h"
#include "worker/media/image_in.h"

static const char *golden(const char *name)
{
    static char path[512];
    assert_int_equal(str_format(path, sizeof path, "%s/image/files/%s", getenv("TEST_GOLDEN"), name), 0);
    return path;
}

static const char *kept(const char *name)
{
    static char path[512];
    assert_int_equal(str_path(path, sizeof path, getenv("TEST_MEDIA"), name), 0);
    return path;
}

/* Must fail with this code and a sentence that holds `text`; the result stays as it was. */
static void assert_refused(const char *path, int code, const char *text)
{
    struct image im = {0};
    struct err err = {0};
    int rc = image_in_open(path, true, &im, &err);
    if (rc != code || !strstr(err.text, text))
        print_error("%s: %d %s\n", path, rc, err.text);
    assert_int_equal(rc, code);
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.text, text));
    assert_null(im.pixels);
}

static void refuse_bytes(const void *data, size_t n, int code, const char *text)
{
    const char *path = media_path(0, "bad");
    media_write(path, data, n);
    assert_refused(path, code, text);
}

static struct image opened(const char *path, bool turn)
{
    struct image im = {0};
    struct err err = {0};
    int rc = image_in_open(path, turn, &im, &err);
    if (rc < 0)
        print_error("%s: %s\n", path, err.text);
    assert_int_equal(rc, 0);
    return im;
}

/* ---- PNG ----------------------------------------------------------------------------------------------- */

static void check_png(const struct png_want *o)
{
    struct buf b;
    buf_init(&b, 32 << 20);
    png_make(&b, o);
    media_write(media_path(0, "x.png"), b.data, b.len);
    buf_done(&b);
    struct image im = opened(media_path(0, "x.png"), true);
    assert_int_equal(im.width, o->width);
    assert_int_equal(im.height, o->height);
    for (int y = 0; y < o->height; y++) {
        for (int x = 0; x < o->width; x++) {
            uint8_t want[3];
            const uint8_t *got = im.pixels + ((int64_t)y * o->width + x) * 3;
            png_expect(o, x, y, want);
            if (memcmp(got, want, 3) != 0)
                print_error("colour %d depth %d interlaced %d trns %d at %d,%d: %d %d %d, want %d %d %d\n",
                            o->color, o->depth, o->interlaced, o->has_trns, x, y, got[0], got[1], got[2],
                            want[0], want[1], want[2]);
            assert_memory_equal(got, want, 3);
        }
    }
    image_done(&im);
}

static void test_png_kinds(void **state)
{
    (void)state;
    static const int kind[][2] = {{0, 1}, {0, 2}, {0, 4}, {0, 8}, {0, 16}, {2, 8}, {2, 16}, {3, 1},
                                  {3, 2}, {3, 4}, {3, 8}, {4, 8}, {4, 16}, {6, 8}, {6, 16}};
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++) {
        for (int interlaced = 0; interlaced < 2; interlaced++) {
            check_png(&(struct png_want){37, 21, kind[i][0], kind[i][1], interlaced, false});
            check_png(&(struct png_want){8, 8, kind[i][0], kind[i][1], interlaced, false});
        }
    }
}

static void test_png_transparent(void **state)
{
    (void)state;
    static const int kind[][2] = {{0, 8}, {2, 8}, {2, 16}, {3, 4}, {3, 8}};
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++)
        check_png(&(struct png_want){19, 17, kind[i][0], kind[i][1], false, true});
}

static void test_small(void **state)
{
    (void)state;
    static const int size[][2] = {{1, 1}, {7, 300}, {300, 7}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        struct buf b;
        buf_init(&b, 1 << 20);
        png_make(&b, &(struct png_want){size[i][0], size[i][1], 2, 8, false, false});
        refuse_bytes(b.data, b.len, ERR_INVALID, "too small: at least 8x8");
        buf_done(&b);
    }
    check_png(&(struct png_want){8, 8, 2, 8, false, false});
}

/* ---- EXIF ---------------------------------------------------------------------------------------------- */

static void swap_pixel(uint8_t *a, uint8_t *b)
{
    for (int c = 0; c < 3; c++) {
        uint8_t t = a[c];
        a[c] = b[c];
        b[c] = t;
    }
}

static void mirror(struct image *im, bool across)
{
    for (int y = 0; y < im->height; y++) {
        for (int x = 0; x < im->width; x++) {
            int64_t to_x = across ? im->width - 1 - x : x, to_y = across ? y : im->height - 1 - y;
            int64_t from = (int64_t)y * im->width + x, to = to_y * im->width + to_x;
            if (from < to)
                swap_pixel(im->pixels + from * 3, im->pixels + to * 3);
        }
    }
}

static void transpose(struct image *im)
{
    struct image t = {mem_alloc((size_t)im->width * (size_t)im->height * 3), im->height, im->width};
    assert_non_null(t.pixels);
    for (int y = 0; y < im->height; y++) {
        for (int x = 0; x < im->width; x++)
            memcpy(t.pixels + ((int64_t)x * t.width + y) * 3, im->pixels + ((int64_t)y * im->width + x) * 3,
                   3);
    }
    image_done(im);
    *im = t;
}

static void test_exif(void **state)
{
    (void)state;
    /* transposed, then mirrored left-right, then top-bottom */
    static const bool step[9][3] = {{0},       {0, 0, 0}, {0, 1, 0}, {0, 1, 1}, {0, 0, 1},
                                    {1, 0, 0}, {1, 1, 0}, {1, 1, 1}, {1, 0, 1}};
    struct buf b;
    media_read(golden("exif6.jpg"), &b);
    uint8_t *tag = memmem(b.data, b.len, "\x01\x12\x00\x03\x00\x00\x00\x01", 8);
    assert_non_null(tag);
    for (int o = 0; o <= 9; o++) {
        tag[9] = (uint8_t)o;
        media_write(media_path(0, "turn.jpg"), b.data, b.len);
        struct image want = opened(media_path(0, "turn.jpg"), false),
                     got = opened(media_path(0, "turn.jpg"), true);
        assert_int_not_equal(want.width, want.height);
        if (o < 9 && step[o][0]) /* 0 and 9 mean nothing: as it is */
            transpose(&want);
        if (o < 9 && step[o][1])
            mirror(&want, true);
        if (o < 9 && step[o][2])
            mirror(&want, false);
        assert_int_equal(got.width, want.width);
        assert_int_equal(got.height, want.height);
        assert_memory_equal(got.pixels, want.pixels, (size_t)want.width * (size_t)want.height * 3);
        image_done(&want);
        image_done(&got);
    }
    buf_done(&b);
}

/* ---- other kinds --------------------------------------------------------------------------------------- */

static void assert_close(const uint8_t *p, int r, int g, int b, int within)
{
    if (abs(p[0] - r) > within || abs(p[1] - g) > within || abs(p[2] - b) > within)
        fail_msg("%d %d %d, want %d %d %d within %d", p[0], p[1], p[2], r, g, b, within);
}

/* Every kept file shows the first frame: red with a green rectangle. */
static void test_first_frame(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int within;
    } file[] = {{"anim.gif", 0},         {"anim.png", 0},   {"anim_lossless.webp", 0},
                {"anim_lossy.webp", 12}, {"still.webp", 0}, {"palette.bmp", 1},
                {"lzw.tif", 0}};
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        struct image im = opened(kept(file[i].name), true);
        assert_int_equal(im.width, 32);
        assert_int_equal(im.height, 24);
        assert_close(im.pixels, 200, 30, 30, file[i].within);
        assert_close(im.pixels + (10 * 32 + 8) * 3, 40, 220, 40, file[i].within);
        assert_close(im.pixels + (10 * 32 + 20) * 3, 200, 30, 30, file[i].within);
        image_done(&im);
    }
}

static void test_grey_tiff(void **state)
{
    (void)state;
    struct image im = opened(kept("grey.tif"), true);
    assert_close(im.pixels, 81, 81, 81, 0); /* (299 * 200 + 587 * 30 + 114 * 30) / 1000 */
    image_done(&im);
}

/* A still picture that libav writes, any kind: comes back. */
static void test_written_by_ffmpeg(void **state)
{
    (void)state;
    static const char *const name[] = {"a.bmp", "a.tif", "a.jpg", "a.gif", "a.webp", "a.png"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        char words[128];
        str_format(words, sizeof words, "-f lavfi -i color=c=0x20a040:s=62x46 -frames:v 1 %s", name[i]);
        if (!media_ffmpeg(words))
            skip();
        struct image im = opened(media_path(0, name[i]), true);
        assert_int_equal(im.width, 62);
        assert_int_equal(im.height, 46);
        assert_close(im.pixels + (20 * 62 + 30) * 3, 0x20, 0xa0, 0x40,
                     str_ends(name[i], ".gif") ? 64 : 6); /* 3-3-2 bits */
        image_done(&im);
    }
}

/* ---- damage -------------------------------------------------------------------------------------------- */

static void test_not_a_picture(void **state)
{
    (void)state;
    refuse_bytes("", 0, ERR_MEDIA, "empty (0 bytes)");
    refuse_bytes("a", 1, ERR_MEDIA, "not a picture");
    refuse_bytes("#EXTM3U\nfile:///etc/passwd\n", 27, ERR_MEDIA, "not a picture (first bytes 23 45 58 54)");
    refuse_bytes("<svg xmlns='http://www.w3.org/2000/svg'/>", 41, ERR_MEDIA, "not a picture");
    refuse_bytes("\x89PNG\r\n\x1a\n", 8, ERR_MEDIA, "damaged");
    refuse_bytes("\xff\xd8\xff", 3, ERR_MEDIA, "damaged");
    refuse_bytes("GIF89a", 6, ERR_MEDIA, "damaged");
    refuse_bytes("BM", 2, ERR_MEDIA, "damaged");
    refuse_bytes("II*\0", 4, ERR_MEDIA, "damaged");
    refuse_bytes("RIFF\0\0\0\0WEBP", 12, ERR_MEDIA, "damaged");
}

static void test_places(void **state)
{
    (void)state;
    assert_refused(media_path(0, "absent.png"), ERR_NOTFOUND, "absent.png");
    assert_refused("/tmp", ERR_MEDIA, "not a regular file");
    assert_int_equal(mkfifo(media_path(0, "pipe"), 0600), 0);
    assert_refused(media_path(0, "pipe"), ERR_MEDIA,
                   "not a regular file"); /* and does not wait for a writer */
    const char *path = media_path(0, "huge");
    media_write(path, "BM", 2);
    assert_int_equal(truncate(path, IMAGE_IN_MAX_BYTES + 1), 0);
    assert_refused(path, ERR_TOOBIG, "33554433 bytes, the limit is 33554432");
}

static void cut(const char *path, bool must_fail)
{
    struct buf b;
    media_read(path, &b);
    for (size_t k = 0; k < 8; k++) {
        struct image im = {0};
        struct err err = {0};
        media_write(media_path(0, "cut"), b.data, (b.len - 12) * k / 8); /* PNG: IEND alone may go */
        int rc = image_in_open(media_path(0, "cut"), true, &im, &err);
        if (must_fail && rc != ERR_MEDIA)
            print_error("%s cut at %zu/8: %d %s\n", path, k, rc, err.text);
        assert_true(rc == ERR_MEDIA || (rc == 0 && !must_fail));
        assert_true(rc == 0 || err.text[0]);
        image_done(&im);
    }
    buf_done(&b);
}

static void test_cut(void **state)
{
    (void)state;
    static const char *const all[] = {"bilevel.png", "cmyk.jpg",       "exif6.jpg",
                                      "gray.jpg",    "gray.png",       "gray16.png",
                                      "palette.png", "gray_alpha.png", "palette_transparent.png",
                                      "rgb.png",     "rgba.png"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cut(golden(all[i]), true);
    /* of these the first frame may be whole before the cut */
    static const char *const frames[] = {"anim.gif", "anim.png", "anim_lossless.webp", "anim_lossy.webp"};
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++)
        cut(kept(frames[i]), false);
    static const char *const still[] = {"still.webp", "palette.bmp", "lzw.tif", "grey.tif"};
    for (size_t i = 0; i < sizeof still / sizeof *still; i++)
        cut(kept(still[i]), true);
}

/* ---- claims -------------------------------------------------------------------------------------------- */

static long peak_kib(void)
{
    char line[128];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmHWM: %ld", &kib) == 1)
            break;
    }
    if (f)
        fclose(f);
    return kib;
}

static void refuse_claim(const void *data, size_t n, const char *size)
{
    long before = peak_kib();
    refuse_bytes(data, n, ERR_TOOBIG, size);
    refuse_bytes(data, n, ERR_TOOBIG, "the limit is 40 megapixels: send a smaller picture");
    assert_true(before > 0 && peak_kib() - before < 16 << 10);
}

static void test_claims(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    buf_add(&b, "\x89PNG\r\n\x1a\n", 8);
    png_chunk(&b, "IHDR", "\0\0\xea\x60\0\0\xea\x60\x08\x06\0\0\0", 13);
    png_chunk(&b, "IDAT", "\x78\x01", 2);
    refuse_claim(b.data, b.len, "60000x60000 pixels");
    buf_done(&b);
    refuse_claim("GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;", 29, "65535x65535");
    refuse_claim("RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff", 30, "16777216x16777216");
    refuse_claim("RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\x0f\0\0\0\0\0", 30, "16384x16384");
    refuse_claim("RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f", 30, "16383x16383");
    refuse_claim(
        "BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x60\xea\0\0\xa0\x15\xff\xff\1\0\x18\0\0\0\0\0\0\0\0\0"
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        54, "60000x60000"); /* rows from the top: a negative height */
    refuse_claim("II*\0\x08\0\0\0\2\0\0\1\3\0\1\0\0\0\x60\xea\0\0\1\1\4\0\1\0\0\0\x60\xea\0\0\0\0\0\0", 38,
                 "60000x60000");
    refuse_claim("MM\0*\0\0\0\x08\0\2\1\0\0\3\0\0\0\1\xea\x60\0\0\1\1\0\4\0\0\0\1\0\0\xea\x60\0\0\0\0", 38,
                 "60000x60000");
}

static void test_claim_jpeg(void **state)
{
    (void)state;
    struct buf b;
    media_read(golden("gray.jpg"), &b);
    uint8_t *frame = memmem(b.data, b.len, "\xff\xc0\x00\x0b\x08", 5);
    assert_non_null(frame);
    memcpy(frame + 5, "\xff\xdc\xff\xdc", 4);
    refuse_claim(b.data, b.len, "65500x65500");
    buf_done(&b);
}

/* The claim of a good file is its size, and any head of it gives that or less, never a wild read. */
static void test_claim_size(void **state)
{
    (void)state;
    static const char *const name[] = {"anim.gif",        "anim.png",   "anim_lossless.webp",
                                       "anim_lossy.webp", "still.webp", "palette.bmp",
                                       "lzw.tif",         "grey.tif"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        struct buf b;
        uint64_t w, h;
        media_read(kept(name[i]), &b);
        claim_size((const uint8_t *)b.data, b.len, &w, &h);
        assert_int_equal(w, 32);
        assert_int_equal(h, 24);
        for (size_t n = 0; n < b.len; n++) {
            uint8_t *exact = mem_dup(b.data, n ? n : 1);
            claim_size(exact, n, &w, &h);
            assert_true(w <= 32 && h <= 24);
            mem_free(exact);
        }
        buf_done(&b);
    }
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static void test_no_memory(void **state)
{
    (void)state;
    struct image im = {0};
    long n = 1;
    for (int rc = ERR_NOMEM; rc != 0; n++) {
        struct err err = {0};
        mem_fail_at(n);
        rc = image_in_open(golden("exif6.jpg"), true, &im, &err);
        mem_fail_at(0);
        assert_true(rc == 0 || (rc == ERR_NOMEM && strstr(err.text, "no memory") && !im.pixels));
        assert_true(n < 100);
    }
    assert_true(n > 3); /* the pixels, and the turned ones */
    image_done(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_png_kinds),
        cmocka_unit_test(test_png_transparent),
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_exif),
        cmocka_unit_test(test_first_frame),
        cmocka_unit_test(test_grey_tiff),
        cmocka_unit_test(test_written_by_ffmpeg),
        cmocka_unit_test(test_not_a_picture),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_claim_jpeg),
        cmocka_unit_test(test_claim_size),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, media_make_folder, media_drop_folder);
}
