#include "tests/unit/media_make.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/str.h"

/* ---- files ------------------------------------------------------------------------------------------- */

static char folder[64];

int media_make_folder(void **state)
{
    (void)state;
    str_copy(folder, sizeof folder, "/tmp/troupe-media-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

int media_drop_folder(void **state)
{
    (void)state;
    DIR *d = opendir(folder);
    const struct dirent *e;
    while (d && (e = readdir(d)) != NULL) {
        if (e->d_name[0] != '.')
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
    return rmdir(folder);
}

const char *media_path(int slot, const char *name)
{
    static char path[4][160];
    assert_int_equal(str_path(path[slot], sizeof path[slot], folder, name), 0);
    return path[slot];
}

void media_write(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

void media_read(const char *path, struct buf *ret)
{
    char block[4096];
    size_t n;
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    buf_init(ret, 64 << 20);
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        assert_int_equal(buf_add(ret, block, n), 0);
    fclose(f);
}

bool media_ffmpeg(const char *words)
{
    char line[1024];
    if (system("command -v ffmpeg >/dev/null 2>&1") != 0)
        return false;
    assert_int_equal(str_format(line, sizeof line, "cd %s && ffmpeg -nostdin -v error -y %s", folder, words),
                     0);
    assert_int_equal(system(line), 0);
    return true;
}

/* ---- PNG --------------------------------------------------------------------------------------------- */

static void add_number(struct buf *b, uint64_t v, int bytes, bool big)
{
    for (int i = 0; i < bytes; i++)
        buf_add(b, &(uint8_t){(uint8_t)(v >> 8 * (big ? bytes - 1 - i : i))}, 1);
}

static uint32_t crc_of(const uint8_t *p, size_t n)
{
    uint32_t c = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
    }
    return ~c;
}

void png_chunk(struct buf *b, const char *name, const void *data, size_t n)
{
    add_number(b, n, 4, true);
    size_t at = b->len;
    buf_add(b, name, 4);
    buf_add(b, data, n);
    add_number(b, crc_of((const uint8_t *)b->data + at, b->len - at), 4, true);
}

static int channels_of(int color)
{
    return color == 2 ? 3 : color == 6 ? 4 : color == 4 ? 2 : 1;
}

/* 16-bit values are small at every third pixel, so that clipping shows. */
static uint32_t sample(const struct png_want *o, int x, int y, int c)
{
    uint32_t v = (uint32_t)(x * 517 + y * 1031 + c * 9973 + x * y * 7);
    if (o->depth == 16 && x % 3 == 0)
        v &= 0xff;
    return v & ((1u << o->depth) - 1);
}

static void palette_at(uint32_t i, uint8_t rgb[3])
{
    rgb[0] = (uint8_t)(37 * i);
    rgb[1] = (uint8_t)(91 * i + 5);
    rgb[2] = (uint8_t)(255 - 13 * i);
}

void png_expect(const struct png_want *o, int x, int y, uint8_t rgb[3])
{
    if (o->color == 3) {
        palette_at(sample(o, x, y, 0), rgb);
        return;
    }
    for (int c = 0; c < 3; c++) {
        uint32_t v = sample(o, x, y, o->color & 2 ? c : 0);
        if (o->color == 0 && o->depth == 16)
            v = v > 255 ? 255 : v;
        else if (o->depth == 16)
            v >>= 8;
        else
            v = v * 255 / ((1u << o->depth) - 1);
        rgb[c] = (uint8_t)v;
    }
}

/* The pixels x0, x0 + dx, ... of every dy-th row as filter 0 rows. */
static void add_pass(struct buf *b, const struct png_want *o, int x0, int y0, int dx, int dy)
{
    int channels = channels_of(o->color);
    for (int y = y0; y < o->height && x0 < o->width; y += dy) {
        uint32_t bits = 0;
        int have = 0;
        buf_add(b, "", 1);
        for (int x = x0; x < o->width; x += dx) {
            for (int c = 0; c < channels; c++) {
                bits = bits << o->depth | sample(o, x, y, c);
                for (have += o->depth; have >= 8; have -= 8)
                    add_number(b, bits >> (have - 8) & 255, 1, true);
            }
        }
        if (have)
            add_number(b, bits << (8 - have) & 255, 1, true);
    }
}

/* zlib's container with stored blocks only. */
static void add_zlib(struct buf *b, const uint8_t *p, size_t n)
{
    uint32_t a = 1, c = 0;
    buf_add(b, "\x78\x01", 2);
    for (size_t at = 0; at < n;) {
        size_t step = n - at < 65535 ? n - at : 65535;
        add_number(b, at + step == n, 1, false);
        add_number(b, step, 2, false);
        add_number(b, ~step & 0xffff, 2, false);
        buf_add(b, p + at, step);
        at += step;
    }
    for (size_t i = 0; i < n; i++) {
        a = (a + p[i]) % 65521;
        c = (c + a) % 65521;
    }
    add_number(b, c << 16 | a, 4, true);
}

static void add_colors(struct buf *b, const struct png_want *o)
{
    struct buf t;
    buf_init(&t, 4096);
    if (o->color == 3) {
        for (uint32_t i = 0; i < 1u << o->depth; i++) {
            uint8_t rgb[3];
            palette_at(i, rgb);
            buf_add(&t, rgb, 3);
        }
        png_chunk(b, "PLTE", t.data, t.len);
        buf_clear(&t);
    }
    for (int c = 0; c < channels_of(o->color); c++)
        add_number(&t, sample(o, 1, 1, c), o->color == 3 ? 1 : 2, true);
    if (o->has_trns)
        png_chunk(b, "tRNS", t.data, t.len);
    buf_done(&t);
}

void png_make(struct buf *b, const struct png_want *o)
{
    static const int adam7[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                    {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
    struct buf head, rows, packed;
    buf_init(&head, 64);
    buf_init(&rows, 16 << 20);
    buf_init(&packed, 17 << 20);
    buf_add(b, "\x89PNG\r\n\x1a\n", 8);
    add_number(&head, (uint64_t)o->width, 4, true);
    add_number(&head, (uint64_t)o->height, 4, true);
    buf_add(&head, (uint8_t[]){(uint8_t)o->depth, (uint8_t)o->color, 0, 0, o->interlaced}, 5);
    png_chunk(b, "IHDR", head.data, head.len);
    add_colors(b, o);
    for (int i = 0; i < 7 && o->interlaced; i++)
        add_pass(&rows, o, adam7[i][0], adam7[i][1], adam7[i][2], adam7[i][3]);
    if (!o->interlaced)
        add_pass(&rows, o, 0, 0, 1, 1);
    add_zlib(&packed, (const uint8_t *)rows.data, rows.len);
    png_chunk(b, "IDAT", packed.data, packed.len);
    png_chunk(b, "IEND", "", 0);
    buf_done(&head);
    buf_done(&rows);
    buf_done(&packed);
}

/* ---- WAV --------------------------------------------------------------------------------------------- */

double wav_sine(int64_t i, int c)
{
    return 0.5 * sin((double)i * 0.05 + c);
}

static void add_sample(struct buf *b, const struct wav_want *o, double v)
{
    union {
        float f;
        double d;
        uint32_t u32;
        uint64_t u64;
    } u = {0};
    if (o->format == 3 && o->bits == 32) {
        u.f = (float)v;
        add_number(b, u.u32, 4, false);
    } else if (o->format == 3) {
        u.d = v;
        add_number(b, u.u64, 8, false);
    } else {
        int64_t whole = (int64_t)floor(v * (double)((int64_t)1 << (o->bits - 1)));
        add_number(b, (uint64_t)(o->bits == 8 ? whole + 128 : whole), o->bits / 8, false);
    }
}

void wav_make(struct buf *b, const struct wav_want *o)
{
    int frame = o->channels * o->bits / 8;
    uint64_t n_data = (uint64_t)o->n * (uint64_t)frame, claim = n_data + o->more;
    buf_add(b, "RIFF", 4);
    add_number(b, 36 + claim, 4, false);
    buf_add(b, "WAVEfmt ", 8);
    add_number(b, 16, 4, false);
    add_number(b, (uint64_t)o->format, 2, false);
    add_number(b, (uint64_t)o->channels, 2, false);
    add_number(b, (uint64_t)o->rate, 4, false);
    add_number(b, (uint64_t)o->rate * (uint64_t)frame, 4, false);
    add_number(b, (uint64_t)frame, 2, false);
    add_number(b, (uint64_t)o->bits, 2, false);
    buf_add(b, "data", 4);
    add_number(b, claim, 4, false);
    for (int64_t i = 0; i < o->n; i++) {
        for (int c = 0; c < o->channels; c++)
            add_sample(b, o, o->at(i, c));
    }
}
