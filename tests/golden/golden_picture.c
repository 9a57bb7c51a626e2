/* image.*: opening, sizing and resizing of pictures. All exact (JPEG: at most 2 of 255). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "tests/golden/golden.h"
#include "worker/media/image_in.h"
#include "worker/media/resize.h"
#include "worker/media/size.h"

/* Largest difference over `most` is a failure; a different size too. */
static void compare_u8(struct golden *g, const char *name, const struct image *got, int most)
{
    struct tensor want = golden_host(g, name);
    int64_t n = tensor_count(want);
    int worst = 0;
    if (tensor_is_none(want) || n != (int64_t)got->width * got->height * 3) {
        golden_fail(g, "%s: %dx%d pixels made, %lld bytes stored", name, got->width, got->height, (long long)n);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int d = abs((int)((const uint8_t *)want.data)[i] - got->pixels[i]);
        worst = d > worst ? d : worst;
    }
    golden_note(g, name, most ? (double)worst / most : worst);
}

static void case_modes(struct golden *g)
{
    json_t *files = json_object_get(g->twin, "files");
    size_t i;
    json_t *file;
    json_array_foreach(files, i, file) {
        const char *name = json_string_value(file);
        char path[1024], out[256];
        struct image im = {0};
        str_format(path, sizeof path, "%s/files/%s", g->dir, name);
        str_format(out, sizeof out, "out.%s", name);
        if (image_in_open(path, false, &im, &g->err) < 0)
            return;
        compare_u8(g, out, &im, str_ends(name, ".jpg") ? 2 : 0);
        image_done(&im);
    }
}

static void case_sizes(struct golden *g)
{
    struct tensor base = golden_host(g, "in.base"), size = golden_host(g, "in.size");
    int64_t n = tensor_dim(size, 0), m = tensor_dim(base, 0);
    int64_t *got = mem_calloc((size_t)(n * m * 2), sizeof *got);
    const int32_t *wh = size.data, *s = base.data;
    for (int64_t i = 0; got && i < n; i++) {
        for (int64_t j = 0; j < m; j++) {
            int w, h;
            size_rule(wh[2 * i], wh[2 * i + 1], s[j], &w, &h);
            bool fails = w == 0 || h == 0;
            got[(i * m + j) * 2] = fails ? 0 : w;
            got[(i * m + j) * 2 + 1] = fails ? 0 : h;
        }
    }
    golden_check_exact(g, "out.size", got, n * m * 2);
    mem_free(got);
}

static struct image image_of(struct tensor t)
{
    return (struct image){.pixels = t.data, .width = (int)tensor_dim(t, 1), .height = (int)tensor_dim(t, 0)};
}

static void resize_to(struct golden *g, const char *out, const struct image *src, enum resize_filter f)
{
    struct tensor want = golden_host(g, out);
    struct image im = {0};
    if (resize_image(src, (int)tensor_dim(want, 1), (int)tensor_dim(want, 0), f, &im, &g->err) == 0)
        compare_u8(g, out, &im, 0);
    image_done(&im);
}

#define ROW_FIRST 100 /* the cases hold rows 100 to 103 */

/* Squashed to 336 x 336, channels first, and a few rows normalised as the vision tower gets them. */
static void compare_llava(struct golden *g, const struct image *sized)
{
    static const float mean[3] = {0.48145466f, 0.4578275f, 0.4082107f}, std[3] = {0.26862954f, 0.26130258f, 0.27577711f};
    struct image sq = {0};
    if (resize_image(sized, 336, 336, RESIZE_BILINEAR, &sq, &g->err) < 0)
        return;
    struct tensor u8 = golden_host(g, "out.llava_u8"), rows = golden_host(g, "out.llava_rows");
    int64_t plane = 336 * 336, n_rows = tensor_dim(rows, 1), wrong = 0;
    double worst = 0;
    for (int64_t i = 0; i < 3 * plane; i++)
        wrong += ((const uint8_t *)u8.data)[i] != sq.pixels[i % plane * 3 + i / plane];
    golden_note(g, "out.llava_u8", (double)wrong);
    for (int64_t c = 0; c < 3; c++) {
        for (int64_t k = 0; k < n_rows * 336; k++) {
            int64_t row = ROW_FIRST + k / 336;
            float v = ((float)sq.pixels[(row * 336 + k % 336) * 3 + c] / 255.0f - mean[c]) / std[c];
            worst = fmax(worst, fabs((double)v - ((const float *)rows.data)[c * n_rows * 336 + k]));
        }
    }
    golden_note(g, "out.llava_rows", worst / 1e-6);
    image_done(&sq);
}

static void case_resize_file(struct golden *g, const char *source)
{
    char path[1024];
    struct image im = {0}, sized = {0};
    struct tensor want = golden_host(g, "out.u8");
    str_format(path, sizeof path, "%s/../%s", g->dir, source);
    if (image_in_open(path, false, &im, &g->err) == 0 &&
        resize_image(&im, (int)tensor_dim(want, 1), (int)tensor_dim(want, 0), RESIZE_LANCZOS, &sized, &g->err) == 0) {
        compare_u8(g, "out.u8", &sized, 0);
        compare_llava(g, &sized);
    }
    image_done(&im);
    image_done(&sized);
}

static void case_resize(struct golden *g)
{
    const char *source = json_string_value(json_object_get(g->twin, "source"));
    if (source) {
        case_resize_file(g, source);
        return;
    }
    struct image src = image_of(golden_host(g, "in.u8"));
    if (golden_has(g, "out.bilinear"))
        resize_to(g, "out.bilinear", &src, RESIZE_BILINEAR);
    if (golden_has(g, "out.lanczos"))
        resize_to(g, "out.lanczos", &src, RESIZE_LANCZOS);
}

const struct golden_kind golden_picture_kinds[] = {
    {"image.modes", case_modes}, {"image.sizes", case_sizes}, {"image.resize", case_resize}, {NULL, NULL}};
