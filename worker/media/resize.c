#include "worker/media/resize.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/mem.h"

#define BITS 22 /* of the integer weights */

static double lanczos(double x)
{
    double t = fabs(x) * M_PI;
    if (fabs(x) >= 3)
        return 0;
    return t == 0 ? 1 : sin(t) / t * (sin(t / 3) / (t / 3));
}

static double triangle(double x)
{
    return fabs(x) < 1 ? 1 - fabs(x) : 0;
}

/* For every output position the first input, the count and the integer weights (taps a position). */
struct axis {
    int *first, *count;
    int32_t *weight;
    int taps;
};

static void axis_done(struct axis *a)
{
    mem_free(a->first);
    mem_free(a->count);
    mem_free(a->weight);
}

static void axis_weights(struct axis *a, int i, int in, double scale, double fs, double support,
                         double (*f)(double))
{
    double c = (i + 0.5) * scale, sum = 0;
    int lo = (int)(c - support + 0.5), hi = (int)(c + support + 0.5);
    lo = lo < 0 ? 0 : lo;
    hi = hi > in ? in : hi;
    for (int x = lo; x < hi; x++)
        sum += f((x - c + 0.5) / fs);
    for (int x = lo; x < hi; x++) {
        double w = f((x - c + 0.5) / fs) / sum * (1 << BITS);
        a->weight[(int64_t)i * a->taps + x - lo] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
    }
    a->first[i] = lo;
    a->count[i] = hi - lo;
}

static int axis_init(struct axis *a, int in, int out, enum resize_filter filter)
{
    double scale = (double)in / out, fs = scale > 1 ? scale : 1;
    double support = (filter == RESIZE_LANCZOS ? 3.0 : 1.0) * fs;
    a->taps = (int)ceil(support) * 2 + 2;
    a->first = mem_calloc((size_t)out, sizeof *a->first);
    a->count = mem_calloc((size_t)out, sizeof *a->count);
    a->weight = mem_calloc((size_t)out * (size_t)a->taps, sizeof *a->weight);
    if (!a->first || !a->count || !a->weight)
        return ERR_NOMEM;
    for (int i = 0; i < out; i++)
        axis_weights(a, i, in, scale, fs, support, filter == RESIZE_LANCZOS ? lanczos : triangle);
    return 0;
}

static uint8_t clip8(int64_t sum)
{
    sum >>= BITS;
    return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

/* One output byte: inputs `step` bytes apart. */
static uint8_t weigh(const struct axis *a, int i, const uint8_t *src, int64_t step)
{
    const int32_t *w = a->weight + (int64_t)i * a->taps;
    int64_t sum = (int64_t)1 << (BITS - 1);
    for (int k = 0; k < a->count[i]; k++)
        sum += (int64_t)src[(a->first[i] + k) * step] * w[k];
    return clip8(sum);
}

static void pass_x(const struct axis *a, const struct image *src, struct image *dst)
{
    for (int y = 0; y < dst->height; y++) {
        for (int x = 0; x < dst->width; x++) {
            for (int c = 0; c < 3; c++)
                dst->pixels[((int64_t)y * dst->width + x) * 3 + c] =
                    weigh(a, x, src->pixels + (int64_t)y * src->width * 3 + c, 3);
        }
    }
}

static void pass_y(const struct axis *a, const struct image *src, struct image *dst)
{
    int64_t row = (int64_t)dst->width * 3;
    for (int y = 0; y < dst->height; y++) {
        for (int64_t x = 0; x < row; x++)
            dst->pixels[y * row + x] = weigh(a, y, src->pixels + x, row);
    }
}

static int image_new(struct image *im, int width, int height)
{
    *im = (struct image){.width = width, .height = height};
    im->pixels = mem_alloc((size_t)width * (size_t)height * 3);
    return im->pixels ? 0 : ERR_NOMEM;
}

static int pass(const struct image *src, int width, int height, enum resize_filter filter, struct image *ret)
{
    struct axis a = {0};
    bool across = width != src->width;
    int rc = axis_init(&a, across ? src->width : src->height, across ? width : height, filter);
    if (rc == 0)
        rc = image_new(ret, width, height);
    if (rc == 0)
        (across ? pass_x : pass_y)(&a, src, ret);
    axis_done(&a);
    return rc;
}

static int copy(const struct image *src, struct image *ret)
{
    int rc = image_new(ret, src->width, src->height);
    if (rc == 0)
        memcpy(ret->pixels, src->pixels, (size_t)src->width * (size_t)src->height * 3);
    return rc;
}

/* Which pass comes first shows in the last bit. Pillow 13 begins with the vertical one where that removes
 * more than twice as many rows as the other one would remove columns. */
static bool rows_first(const struct image *src, int width, int height)
{
    return src->height > height && (int64_t)src->height - height > 2 * ((int64_t)src->width - width);
}

/* Both passes, in order; a pass whose size stays is skipped. */
static int passes(const struct image *src, int width, int height, enum resize_filter filter,
                  struct image *ret)
{
    struct image mid = {0};
    bool rows = rows_first(src, width, height);
    int w = rows ? src->width : width, h = rows ? height : src->height;
    if (w == src->width && h == src->height)
        return pass(src, width, height, filter, ret);
    int rc = pass(src, w, h, filter, &mid);
    if (rc == 0 && (w != width || h != height)) {
        rc = pass(&mid, width, height, filter, ret);
        image_done(&mid);
    } else if (rc == 0) {
        *ret = mid;
    }
    return rc;
}

int resize_image(const struct image *src, int width, int height, enum resize_filter filter, struct image *ret,
                 struct err *err)
{
    struct image out = {0};
    int rc;
    if (width < 1 || height < 1 || src->width < 1 || src->height < 1)
        return err_set(err, ERR_INVALID, "resize: %dx%d to %dx%d has no pixels", src->width, src->height,
                       width, height);
    if (width == src->width && height == src->height)
        rc = copy(src, &out);
    else
        rc = passes(src, width, height, filter, &out);
    if (rc < 0) {
        image_done(&out);
        return err_set(err, rc, "resize: no memory for %dx%d pixels", width, height);
    }
    *ret = out;
    return 0;
}
