#include "worker/face/stretch.h"

#include <math.h>

#include "common/mem.h"

/* Where one output sample comes from: two neighbours and their integer weights. */
struct tap {
    int a, b;
    int wa, wb;
};

/* 11-bit weights; positions in f32. Columns outside lose their fraction, rows only repeat the edge: the first
 * pass of OpenCV does the former, its row cache the latter. */
static struct tap tap_linear(int i, int n, int dst_n, bool rows)
{
    float f = (float)((i + 0.5) * ((double)n / dst_n) - 0.5);
    int at = (int)floorf(f);
    f -= (float)at;
    if (!rows && (at < 0 || at >= n - 1)) {
        at = at < 0 ? 0 : n - 1;
        f = 0;
    }
    struct tap t = {at < 0 ? 0 : at, at + 1 < n ? at + 1 : n - 1, (int)lrintf((1.0f - f) * 2048),
                    (int)lrintf(f * 2048)};
    if (t.a >= n)
        t.a = n - 1;
    return t;
}

/* 8-bit weights; positions in f64. */
static struct tap tap_exact(int i, int n, int dst_n)
{
    double f = (i + 0.5) * ((double)n / dst_n) - 0.5;
    int at = (int)floor(f);
    int w = (int)lrint((f - at) * 256);
    if (at < 0)
        return (struct tap){0, 0, 256, 0};
    if (at >= n - 1)
        return (struct tap){n - 1, n - 1, 256, 0};
    return (struct tap){at, at + 1, 256 - w, w};
}

static void blend_row(const uint8_t *src, int channels, const struct tap *col, int dst_w, int *row)
{
    for (int x = 0; x < dst_w; x++)
        for (int c = 0; c < channels; c++)
            row[x * channels + c] =
                src[col[x].a * channels + c] * col[x].wa + src[col[x].b * channels + c] * col[x].wb;
}

static int stretch(const uint8_t *src, int w, int h, int channels, uint8_t *dst, int dst_w, int dst_h,
                   bool exact)
{
    size_t row_n = (size_t)dst_w * (size_t)channels, pitch = (size_t)w * (size_t)channels;
    struct tap *col = mem_calloc((size_t)dst_w, sizeof *col);
    int *a = mem_calloc(row_n * 2, sizeof *a), *b = a ? a + row_n : NULL;
    int rc = col && a ? 0 : ERR_NOMEM;
    for (int x = 0; rc == 0 && x < dst_w; x++)
        col[x] = exact ? tap_exact(x, w, dst_w) : tap_linear(x, w, dst_w, false);
    for (int y = 0; rc == 0 && y < dst_h; y++) {
        struct tap t = exact ? tap_exact(y, h, dst_h) : tap_linear(y, h, dst_h, true);
        uint8_t *out = dst + (size_t)y * row_n;
        blend_row(src + (size_t)t.a * pitch, channels, col, dst_w, a);
        blend_row(src + (size_t)t.b * pitch, channels, col, dst_w, b);
        for (size_t i = 0; i < row_n; i++) {
            int v = exact ? (a[i] * t.wa + b[i] * t.wb + 32768) >> 16
                          : (((t.wa * (a[i] >> 4)) >> 16) + ((t.wb * (b[i] >> 4)) >> 16) + 2) >> 2;
            out[i] = (uint8_t)(v > 255 ? 255 : v);
        }
    }
    mem_free(col);
    mem_free(a);
    return rc;
}

int stretch_linear(const uint8_t *src, int w, int h, int channels, uint8_t *dst, int dst_w, int dst_h)
{
    return stretch(src, w, h, channels, dst, dst_w, dst_h, false);
}

int stretch_exact(const uint8_t *src, int w, int h, int channels, uint8_t *dst, int dst_w, int dst_h)
{
    return stretch(src, w, h, channels, dst, dst_w, dst_h, true);
}
