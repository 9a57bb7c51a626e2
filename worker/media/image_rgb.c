#include "worker/media/image_rgb.h"

#include <libavutil/frame.h>
#include <libavutil/pixdesc.h>
#include <stdbool.h>
#include <string.h>

/* One row of packed or grey pixels to RGB. */
typedef void row_fn(uint8_t *dst, const uint8_t *src, int width, const AVFrame *f);

static void row_grey(uint8_t *dst, const uint8_t *src, int width, const AVFrame *f)
{
    (void)f;
    for (int x = 0; x < width; x++)
        memset(dst + 3 * x, src[x], 3);
}

static void row_ya8(uint8_t *dst, const uint8_t *src, int width, const AVFrame *f)
{
    (void)f;
    for (int x = 0; x < width; x++)
        memset(dst + 3 * x, src[2 * x], 3);
}

/* Pillow opens 16-bit grey as integers and clips them: anything over 255 is white. */
static void row_grey16be(uint8_t *dst, const uint8_t *src, int width, const AVFrame *f)
{
    (void)f;
    for (int x = 0; x < width; x++)
        memset(dst + 3 * x, src[2 * x] ? 255 : src[2 * x + 1], 3);
}

static void row_grey16le(uint8_t *dst, const uint8_t *src, int width, const AVFrame *f)
{
    (void)f;
    for (int x = 0; x < width; x++)
        memset(dst + 3 * x, src[2 * x + 1] ? 255 : src[2 * x], 3);
}

static void row_ya16be(uint8_t *dst, const uint8_t *src, int width, const AVFrame *f)
{
    (void)f;
    for (int x = 0; x < width; x++)
        memset(dst + 3 * x, src[4 * x], 3);
}

static void row_bits(uint8_t *dst, const uint8_t *src, int width, const AVFrame *f)
{
    for (int x = 0; x < width; x++) {
        int bit = src[x / 8] >> (7 - x % 8) & 1;
        memset(dst + 3 * x, (f->format == AV_PIX_FMT_MONOWHITE) != bit ? 255 : 0, 3);
    }
}

static void row_palette(uint8_t *dst, const uint8_t *src, int width, const AVFrame *f)
{
    const uint32_t *palette = (const uint32_t *)(const void *)f->data[1];
    for (int x = 0; x < width; x++) {
        uint32_t v = palette[src[x]];
        dst[3 * x] = (uint8_t)(v >> 16);
        dst[3 * x + 1] = (uint8_t)(v >> 8);
        dst[3 * x + 2] = (uint8_t)v;
    }
}

static void packed(uint8_t *dst, const uint8_t *src, int width, int step, int r, int g, int b)
{
    for (int x = 0; x < width; x++) {
        dst[3 * x] = src[step * x + r];
        dst[3 * x + 1] = src[step * x + g];
        dst[3 * x + 2] = src[step * x + b];
    }
}

static void row_packed(uint8_t *dst, const uint8_t *src, int width, const AVFrame *f)
{
    static const struct {
        int format, step, r, g, b;
    } row[] = {
        {AV_PIX_FMT_RGB24, 3, 0, 1, 2},    {AV_PIX_FMT_BGR24, 3, 2, 1, 0},
        {AV_PIX_FMT_RGBA, 4, 0, 1, 2},     {AV_PIX_FMT_BGRA, 4, 2, 1, 0},
        {AV_PIX_FMT_ARGB, 4, 1, 2, 3},     {AV_PIX_FMT_ABGR, 4, 3, 2, 1},
        {AV_PIX_FMT_RGB0, 4, 0, 1, 2},     {AV_PIX_FMT_BGR0, 4, 2, 1, 0},
        {AV_PIX_FMT_0RGB, 4, 1, 2, 3},     {AV_PIX_FMT_RGB48BE, 6, 0, 2, 4},
        {AV_PIX_FMT_RGBA64BE, 8, 0, 2, 4}, {AV_PIX_FMT_RGB48LE, 6, 1, 3, 5},
        {AV_PIX_FMT_RGBA64LE, 8, 1, 3, 5},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (row[i].format == f->format)
            packed(dst, src, width, row[i].step, row[i].r, row[i].g, row[i].b);
    }
}

static row_fn *row_for(int format)
{
    switch (format) {
    case AV_PIX_FMT_GRAY8:
        return row_grey;
    case AV_PIX_FMT_YA8:
        return row_ya8;
    case AV_PIX_FMT_GRAY16BE:
        return row_grey16be;
    case AV_PIX_FMT_GRAY16LE:
        return row_grey16le;
    case AV_PIX_FMT_YA16BE:
        return row_ya16be;
    case AV_PIX_FMT_MONOBLACK:
    case AV_PIX_FMT_MONOWHITE:
        return row_bits;
    case AV_PIX_FMT_PAL8:
        return row_palette;
    default:
        return NULL;
    }
}

/* ---- planes: GBR and YCbCr ---- */

static void from_gbr(const AVFrame *f, struct image *im)
{
    for (int y = 0; y < im->height; y++) {
        for (int x = 0; x < im->width; x++) {
            uint8_t *p = im->pixels + ((int64_t)y * im->width + x) * 3;
            for (int c = 0; c < 3; c++) {
                static const int plane[] = {2, 0, 1};
                p[c] = f->data[plane[c]][(int64_t)y * f->linesize[plane[c]] + x];
            }
        }
    }
}

static int clamp_index(int i, int n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

/* Chroma at pixel (x, y) of a plane that is half as wide (and half as high): 3/4 of the nearer sample and 1/4
 * of the farther one along each halved axis, rounded once, as libjpeg's "fancy" upsampling does. */
static int chroma_at(const uint8_t *plane, int line, int w, int h, int x, int y, int sx, int sy)
{
    int x0 = x >> sx, y0 = y >> sy;
    int x1 = sx ? clamp_index(x0 + (x & 1 ? 1 : -1), w) : x0,
        y1 = sy ? clamp_index(y0 + (y & 1 ? 1 : -1), h) : y0;
    if (sx && sy) {
        int near_row = 3 * plane[y0 * line + x0] + plane[y1 * line + x0];
        int far_row = 3 * plane[y0 * line + x1] + plane[y1 * line + x1];
        return (3 * near_row + far_row + (x & 1 ? 7 : 8)) >> 4;
    }
    if (sx)
        return (3 * plane[y0 * line + x0] + plane[y0 * line + x1] + (x & 1 ? 2 : 1)) >> 2;
    if (sy)
        return (3 * plane[y0 * line + x0] + plane[y1 * line + x0] + (y & 1 ? 2 : 1)) >> 2;
    return plane[y0 * line + x0];
}

static uint8_t clip8(double v)
{
    return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)(v + 0.5);
}

static void from_yuv(const AVFrame *f, const AVPixFmtDescriptor *d, struct image *im)
{
    bool full = f->color_range == AVCOL_RANGE_JPEG || strncmp(d->name, "yuvj", 4) == 0;
    int sx = d->log2_chroma_w, sy = d->log2_chroma_h;
    int cw = AV_CEIL_RSHIFT(f->width, sx), ch = AV_CEIL_RSHIFT(f->height, sy);
    double ys = full ? 1 : 255.0 / 219, cs = full ? 1 : 255.0 / 224, y0 = full ? 0 : 16;
    for (int y = 0; y < im->height; y++) {
        for (int x = 0; x < im->width; x++) {
            double l = (f->data[0][(int64_t)y * f->linesize[0] + x] - y0) * ys;
            double cb = (chroma_at(f->data[1], f->linesize[1], cw, ch, x, y, sx, sy) - 128) * cs;
            double cr = (chroma_at(f->data[2], f->linesize[2], cw, ch, x, y, sx, sy) - 128) * cs;
            uint8_t *p = im->pixels + ((int64_t)y * im->width + x) * 3;
            p[0] = clip8(l + 1.402 * cr);
            p[1] = clip8(l - 0.344136286 * cb - 0.714136286 * cr);
            p[2] = clip8(l + 1.772 * cb);
        }
    }
}

static bool is_yuv8(const AVPixFmtDescriptor *d)
{
    return (d->flags & AV_PIX_FMT_FLAG_PLANAR) && !(d->flags & AV_PIX_FMT_FLAG_RGB) &&
           d->nb_components >= 3 && d->comp[0].depth == 8 && d->log2_chroma_w <= 1 && d->log2_chroma_h <= 1 &&
           d->comp[1].step == 1;
}

int image_rgb_from(const AVFrame *f, struct image *ret)
{
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(f->format);
    row_fn *row = row_for(f->format);
    if (!d)
        return ERR_UNSUPPORTED;
    if (f->format == AV_PIX_FMT_GBRP || f->format == AV_PIX_FMT_GBRAP) {
        from_gbr(f, ret);
        return 0;
    }
    if (!row && is_yuv8(d)) {
        from_yuv(f, d, ret);
        return 0;
    }
    if (!row && (d->flags & AV_PIX_FMT_FLAG_RGB) && !(d->flags & AV_PIX_FMT_FLAG_PLANAR) &&
        d->comp[0].depth >= 8)
        row = row_packed;
    if (!row)
        return ERR_UNSUPPORTED;
    for (int y = 0; y < ret->height; y++)
        row(ret->pixels + (int64_t)y * ret->width * 3, f->data[0] + (int64_t)y * f->linesize[0], ret->width,
            f);
    return 0;
}
