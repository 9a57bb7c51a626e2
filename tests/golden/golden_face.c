/* golden_face.c -- face.*: the detector's network, its boxes, the choice of a face, masks, the cascade. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/mem.h"
#include "common/str.h"
#include "kernels/ops.h"
#include "tests/golden/golden.h"
#include "worker/face/cascade.h"
#include "worker/face/detector.h"
#include "worker/face/mask.h"
#include "worker/face/pick.h"
#include "worker/face/stretch.h"
#include "worker/media/image_in.h"
#include "worker/media/resize.h"
#include "worker/media/size.h"

#define MAX_BOXES 4096

static void case_raw(struct golden *g)
{
    char path[2048];
    struct detector *d = NULL;
    float *rows = NULL;
    size_t n = 0;
    struct tensor rgb = golden_host(g, "in.rgb_u8");
    const char *weights = json_string_value(json_object_get(g->twin, "weights"));
    if (tensor_is_none(rgb) || !weights)
        return;
    str_format(path, sizeof path, "%s/../%s", g->dir, weights);
    if (detector_open(&d, path, g->device, &g->err) < 0)
        return;
    if (detector_rows(d, g->run, rgb.data, (int)rgb.shape[1], (int)rgb.shape[0], &rows, &n, &g->err) == 0)
        golden_check_host(g, "out.rows", rows, (int64_t)n * PICK_ROW);
    mem_free(rows);
    detector_close(d);
}

/* The stored picture, or the sample brought to the size that the twin names ("... sizing rule at 384"). */
static bool open_picture(struct golden *g, struct image *ret)
{
    char path[2048];
    struct image im = {0};
    int64_t size = 0;
    int w, h;
    if (golden_has(g, "in.rgb_u8")) {
        struct tensor t = golden_host(g, "in.rgb_u8");
        *ret = (struct image){mem_dup(t.data, tensor_bytes(t)), (int)t.shape[1], (int)t.shape[0]};
        return ret->pixels != NULL;
    }
    const char *text = json_string_value(json_object_get(g->twin, "picture"));
    const char *number = text ? strrchr(text, ' ') : NULL;
    if (!number || str_parse_i64(number + 1, 16, 4096, &size) < 0) {
        golden_fail(g, "the twin names no size");
        return false;
    }
    str_format(path, sizeof path, "%s/../samples/face.png", g->dir);
    if (image_in_open(path, false, &im, &g->err) < 0)
        return false;
    size_rule(im.width, im.height, (int)size, &w, &h);
    int rc = resize_image(&im, w, h, RESIZE_LANCZOS, ret, &g->err);
    image_done(&im);
    return rc == 0;
}

static void check_stretch(struct golden *g, const struct image *im)
{
    int w, h, n = 0;
    detector_size(im->width, im->height, &w, &h);
    uint8_t *sized = mem_alloc((size_t)w * (size_t)h * 3);
    int64_t *got = mem_calloc((size_t)w * 3 * ((size_t)h / 16 + 1), sizeof *got);
    if (sized && got && stretch_linear(im->pixels, im->width, im->height, 3, sized, w, h) == 0) {
        golden_check_exact(g, "mid.resized_size", (const int64_t[]){w, h}, 2);
        for (int y = 0; y < h; y += 16)
            for (int x = 0; x < w * 3; x++)
                got[n++] = sized[(size_t)y * (size_t)w * 3 + (size_t)x];
        golden_check_exact(g, "mid.resized_rows", got, n);
    }
    mem_free(sized);
    mem_free(got);
}

static void check_boxes(struct golden *g, const struct face_box *list, float (*points)[10], int n)
{
    float *box = mem_calloc((size_t)n * 4 + 1, sizeof *box),
          *score = mem_calloc((size_t)n + 1, sizeof *score);
    for (int i = 0; box && score && i < n; i++) {
        memcpy(box + 4 * i, (const float[]){list[i].x, list[i].y, list[i].w, list[i].h}, 4 * sizeof *box);
        score[i] = list[i].score;
    }
    golden_bound(g, 0.05, 0);
    golden_check_host(g, "mid.boxes", box, (int64_t)n * 4);
    golden_check_host(g, "mid.points", &points[0][0], (int64_t)n * 10);
    golden_bound(g, 1e-3, 0);
    golden_check_host(g, "mid.scores", score, n);
    mem_free(box);
    mem_free(score);
}

static void check_mask(struct golden *g, const struct face_box *b, int width, int height)
{
    int rect[4];
    golden_bound(g, 0.05, 0);
    golden_check_host(g, "out.box", (const float[]){b->x, b->y, b->w, b->h}, 4);
    mask_rect(b->x, b->y, b->w, b->h, MASK_AREA, width, height, rect);
    golden_check_exact(g, "out.mask_rect", (const int64_t[]){rect[0], rect[1], rect[2], rect[3]}, 4);
    golden_bound(g, 0, 0);
    struct tensor m = mask_latent(g->run, rect, width, height);
    golden_check(g, "out.latent_mask", m);
    if (!run_failed(g->run))
        golden_check(g, "out.token_mask", tensor_every(tensor_every(m, 0, 0, 2), 1, 0, 2));
}

static void case_detect(struct golden *g)
{
    char path[2048];
    struct detector *d = NULL;
    struct image im = {0};
    struct face_box *list = mem_calloc(DETECTOR_MAX, sizeof *list);
    float(*points)[10] = mem_calloc(DETECTOR_MAX, sizeof *points);
    str_path(path, sizeof path, g->ckpts, "det_align/detface.pt");
    if (list && points && open_picture(g, &im) && detector_open(&d, path, g->device, &g->err) == 0) {
        check_stretch(g, &im);
        int n = detector_find(d, g->run, im.pixels, im.width, im.height, list, points, &g->err);
        if (n > 0) {
            check_boxes(g, list, points, n);
            check_mask(g, &list[pick_reference(list, (size_t)n)], im.width, im.height);
        }
    }
    detector_close(d);
    image_done(&im);
    mem_free(list);
    mem_free(points);
}

static void case_nms(struct golden *g)
{
    struct tensor rows = golden_host(g, "in.rows");
    if (tensor_is_none(rows))
        return;
    float *out = mem_calloc((size_t)tensor_count(rows), sizeof *out);
    int n = out ? pick_nms(rows.data, (size_t)rows.shape[0], out, (size_t)rows.shape[0]) : ERR_NOMEM;
    if (n < 0)
        golden_fail(g, "out of memory");
    else
        golden_check_host(g, "out.rows", out, (int64_t)n * PICK_ROW);
    mem_free(out);
}

static void case_pick(struct golden *g)
{
    struct tensor wh = golden_host(g, "in.wh"), count = golden_host(g, "in.count");
    int64_t out[64], at = 0;
    if (tensor_is_none(wh) || tensor_is_none(count) || tensor_count(count) > 64)
        return;
    const float *size = wh.data;
    for (int64_t i = 0; i < tensor_count(count); i++) {
        struct face_box list[64];
        int32_t n = ((const int32_t *)count.data)[i];
        if (n < 1 || n > 64 || at + n > wh.shape[0]) {
            golden_fail(g, "in.count[%lld] is %d", (long long)i, n);
            return;
        }
        for (int32_t k = 0; k < n; k++, at++)
            list[k] = (struct face_box){0, 0, size[2 * at], size[2 * at + 1], 1};
        out[i] = (int64_t)pick_reference(list, (size_t)n);
    }
    golden_check_exact(g, "out.index", out, tensor_count(count));
}

static void case_mask(struct golden *g)
{
    json_t *picture = golden_param_json(g, "picture");
    int w = (int)json_integer_value(json_array_get(picture, 0)),
        h = (int)json_integer_value(json_array_get(picture, 1));
    struct tensor boxes = golden_host(g, "in.boxes");
    if (tensor_is_none(boxes) || boxes.shape[0] > 64 || w < 8 || h < 8) {
        golden_fail(g, "the twin is not as expected");
        return;
    }
    int64_t out[64 * 4], n = boxes.shape[0];
    struct tensor all = run_new(g->run, DTYPE_F32, 3, SHAPE(n, h / 8, w / 8));
    for (int64_t i = 0; i < n && !run_failed(g->run); i++) {
        const float *b = (const float *)boxes.data + 4 * i;
        int rect[4];
        mask_rect(b[0], b[1], b[2], b[3], golden_param(g, "area", MASK_AREA), w, h, rect);
        for (int k = 0; k < 4; k++)
            out[4 * i + k] = rect[k];
        op_copy_into(g->run, tensor_at(all, 0, i), mask_latent(g->run, rect, w, h));
    }
    golden_check_exact(g, "out.rects", out, n * 4);
    golden_check(g, "out.latent", all);
}

/* ---- cascade ----------------------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const struct cascade_box *x = a, *y = b;
    const int p[4] = {x->x, x->y, x->w, x->h}, q[4] = {y->x, y->y, y->w, y->h};
    for (int i = 0; i < 4; i++)
        if (p[i] != q[i])
            return p[i] < q[i] ? -1 : 1;
    return 0;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Boxes in order of place, and how many windows each holds in order of number: the way the case stores them.
 */
static void check_found(struct golden *g, const char *picture, const char *what, struct cascade_box *list,
                        int n)
{
    char name[96];
    int64_t *v = mem_calloc((size_t)n * 4 + 1, sizeof *v);
    if (!v)
        return;
    if (n)
        qsort(list, (size_t)n, sizeof *list, by_place);
    for (int i = 0; i < n; i++) {
        v[4 * i] = list[i].x;
        v[4 * i + 1] = list[i].y;
        v[4 * i + 2] = list[i].w;
        v[4 * i + 3] = list[i].h;
    }
    str_format(name, sizeof name, "out.%s.%s", picture, what);
    golden_check_exact(g, name, v, (int64_t)n * 4);
    if (strcmp(what, "boxes") == 0) {
        for (int i = 0; i < n; i++)
            v[i] = list[i].hits;
        if (n)
            qsort(v, (size_t)n, sizeof *v, by_value);
        str_format(name, sizeof name, "out.%s.neighbours", picture);
        golden_check_exact(g, name, v, n);
    }
    mem_free(v);
}

static void check_picture(struct golden *g, const struct cascade *c, const char *picture)
{
    char path[2048];
    struct image im = {0};
    str_format(path, sizeof path, "%s/cascade_%s.png", g->dir, picture);
    if (image_in_open(path, false, &im, &g->err) < 0)
        return;
    size_t n_pixels = (size_t)im.width * (size_t)im.height;
    uint8_t *grey = mem_alloc(n_pixels);
    struct cascade_box *list = mem_calloc(MAX_BOXES, sizeof *list);
    for (size_t i = 0; grey && i < n_pixels; i++)
        grey[i] = im.pixels[3 * i]; /* a grey picture, opened as colour */
    int small = (im.width < im.height ? im.width : im.height) / 8;
    for (int raw = 0; raw < 2 && grey && list; raw++) {
        int n = cascade_find(c, grey, im.width, im.height, small > 24 ? small : 24,
                             raw ? 0 : (int)golden_param(g, "minNeighbors", 4), list, MAX_BOXES);
        check_found(g, picture, raw ? "raw" : "boxes", list, n > 0 ? n : 0);
    }
    mem_free(grey);
    mem_free(list);
    image_done(&im);
}

static bool read_text(struct golden *g, const char *path, struct buf *b)
{
    char piece[4096];
    size_t n;
    FILE *f = fopen(path, "rb");
    if (!f) {
        golden_fail(g, "%s cannot be opened", path);
        return false;
    }
    while ((n = fread(piece, 1, sizeof piece, f)) > 0)
        buf_add(b, piece, n);
    fclose(f);
    return true;
}

static void case_cascade(struct golden *g)
{
    static const char *const pictures[] = {"portrait", "portrait_small", "two", "noface"};
    char path[2048];
    struct buf xml;
    struct cascade *c = NULL;
    const char *name = json_string_value(json_object_get(g->twin, "cascade"));
    buf_init(&xml, 1 << 20);
    name = name ? strrchr(name, '/') : NULL;
    str_format(path, sizeof path, "%s%s",
               strstr(g->name, "improved") ? GOLDEN_SOURCE "/tests/data/lbpcascades"
                                           : GOLDEN_SOURCE "/worker/face",
               name ? name : "");
    if (read_text(g, path, &xml) && cascade_open(&c, xml.data, xml.len, &g->err) == 0)
        for (size_t i = 0; i < sizeof pictures / sizeof *pictures; i++)
            check_picture(g, c, pictures[i]);
    cascade_close(c);
    buf_done(&xml);
}

const struct golden_kind golden_face_kinds[] = {
    {"face.raw", case_raw},
    {"face.detect", case_detect},
    {"face.nms", case_nms},
    {"face.pick", case_pick},
    {"face.mask", case_mask},
    {"face.cascade", case_cascade},
    {NULL, NULL},
};
