#include "worker/face/detector.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/ops.h"
#include "worker/face/stretch.h"

#define EPS 1e-3f
#define SHORT_SIDE 416
#define MAX_LAYERS 24
#define MAX_UNITS 32 /* repeated parts of one layer */
#define N_LEVELS 3
#define N_ANCHORS 3

enum kind { STEM, C3, CONV, SPP, SHUFFLE, SHUFFLES, UP, CAT, DETECT };

/* One line of the layout: what it is, its second input (CAT), its stride. The first input is the layer
 * before. */
struct plan {
    enum kind kind;
    int with;
    int stride;
    bool shortcut;
};

static const struct plan plan_c3[] = {
    {STEM, 0, 0, 0}, {C3, 0, 0, 1},   {CONV, 0, 2, 0}, {C3, 0, 0, 1},   {CONV, 0, 2, 0}, {C3, 0, 0, 1},
    {CONV, 0, 2, 0}, {SPP, 0, 0, 0},  {C3, 0, 0, 0},   {CONV, 0, 1, 0}, {UP, 0, 0, 0},   {CAT, 5, 0, 0},
    {C3, 0, 0, 0},   {CONV, 0, 1, 0}, {UP, 0, 0, 0},   {CAT, 3, 0, 0},  {C3, 0, 0, 0},   {CONV, 0, 2, 0},
    {CAT, 13, 0, 0}, {C3, 0, 0, 0},   {CONV, 0, 2, 0}, {CAT, 9, 0, 0},  {C3, 0, 0, 0},   {DETECT, 0, 0, 0},
};
static const struct plan plan_shuffle[] = {
    {STEM, 0, 0, 0},    {SHUFFLE, 0, 2, 0},  {SHUFFLES, 0, 1, 0}, {SHUFFLE, 0, 2, 0}, {SHUFFLES, 0, 1, 0},
    {SHUFFLE, 0, 2, 0}, {SHUFFLES, 0, 1, 0}, {CONV, 0, 1, 0},     {UP, 0, 0, 0},      {CAT, 4, 0, 0},
    {C3, 0, 0, 0},      {CONV, 0, 1, 0},     {UP, 0, 0, 0},       {CAT, 2, 0, 0},     {C3, 0, 0, 0},
    {CONV, 0, 2, 0},    {CAT, 11, 0, 0},     {C3, 0, 0, 0},       {CONV, 0, 2, 0},    {CAT, 7, 0, 0},
    {C3, 0, 0, 0},      {DETECT, 0, 0, 0},
};
static const int levels_c3[N_LEVELS] = {16, 19, 22}, levels_shuffle[N_LEVELS] = {14, 17, 20};
static const int strides[N_LEVELS] = {8, 16, 32};
/* Of YOLOv5-face, in pixels; a file that has its own is believed. */
static const float usual_anchors[N_LEVELS][N_ANCHORS][2] = {
    {{4, 5}, {8, 10}, {13, 16}}, {{23, 29}, {43, 55}, {73, 105}}, {{146, 217}, {231, 300}, {335, 433}}};

/* A convolution and its batch norm. */
struct unit {
    struct tensor w; /* [Co, Ci/groups, 1, kh, kw] */
    struct tensor scale, shift, mean, var;
};

/* Units in a fixed order by kind: STEM 1, 2a, 2b, 3; C3 cv1, cv2, cv3, then m's pairs; SPP cv1, cv2; SHUFFLE
 * branch2's three, then branch1's two when the stride is 2; SHUFFLES three each. */
struct layer {
    struct unit *unit; /* owned */
    int n_units;
};

struct detector {
    struct ckpt *ckpt;
    struct device *device;
    const struct plan *plan;
    const int *level;
    int n_layers;
    struct layer layer[MAX_LAYERS];
    struct tensor head_w[N_LEVELS], head_b[N_LEVELS];
    float anchors[N_LEVELS][N_ANCHORS][2]; /* width, height in pixels of the network's input */
};

/* ---- weights ----------------------------------------------------------------------------------------- */

struct loading {
    struct detector *d;
    struct binder binder;
    struct layer *layer; /* being filled */
    char prefix[64];     /* "model.3" */
};

/* conv and norm are relative to the layer: "cv1.conv", "cv1.bn". Channels are the checkpoint's own. */
static void add_unit(struct loading *l, const char *conv, const char *norm)
{
    char name[128];
    struct unit *u = &l->layer->unit[l->layer->n_units++];
    struct binder *b = &l->binder;
    int64_t shape[4];
    str_format(name, sizeof name, "%s.%s.weight", l->prefix, conv);
    for (int i = 0; i < 4; i++) {
        int64_t n = ckpt_dim(l->d->ckpt, name, i);
        shape[i] = n > 0 ? n : 1;
    }
    binder_bind(b, &u->w, name, 4, shape);
    u->w = tensor_view(u->w, 5, SHAPE(shape[0], shape[1], 1, shape[2], shape[3]));
    binder_bindf(b, &u->scale, 1, shape, "%s.%s.weight", l->prefix, norm);
    binder_bindf(b, &u->shift, 1, shape, "%s.%s.bias", l->prefix, norm);
    binder_bindf(b, &u->mean, 1, shape, "%s.%s.running_mean", l->prefix, norm);
    binder_bindf(b, &u->var, 1, shape, "%s.%s.running_var", l->prefix, norm);
}

/* Conv modules: <name>.conv and <name>.bn. */
static void add_conv(struct loading *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add_conv(struct loading *l, const char *fmt, ...)
{
    char name[64], conv[80], norm[80];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    str_format(conv, sizeof conv, "%sconv", name);
    str_format(norm, sizeof norm, "%sbn", name);
    add_unit(l, conv, norm);
}

/* Sequential modules: convolution and norm are numbers. */
static void add_pair(struct loading *l, const char *branch, int conv, int norm)
{
    char a[64], b[64];
    str_format(a, sizeof a, "%s.%d", branch, conv);
    str_format(b, sizeof b, "%s.%d", branch, norm);
    add_unit(l, a, b);
}

static void add_shuffle(struct loading *l, const char *inner, bool down)
{
    char branch[32];
    str_format(branch, sizeof branch, "%sbranch2", inner);
    add_pair(l, branch, 0, 1);
    add_pair(l, branch, 3, 4);
    add_pair(l, branch, 5, 6);
    if (down) {
        add_pair(l, "branch1", 0, 1);
        add_pair(l, "branch1", 2, 3);
    }
}

static int count_inner(struct loading *l, const char *inner)
{
    char prefix[96];
    str_format(prefix, sizeof prefix, "%s.%s", l->prefix, inner);
    int n = ckpt_count_blocks(l->d->ckpt, prefix);
    return n < MAX_UNITS ? n : MAX_UNITS;
}

static void load_layer(struct loading *l, const struct plan *p)
{
    switch (p->kind) {
    case STEM:
        add_conv(l, "stem_1.");
        add_conv(l, "stem_2a.");
        add_conv(l, "stem_2b.");
        add_conv(l, "stem_3.");
        break;
    case C3:
        for (int i = 1; i <= 3; i++)
            add_conv(l, "cv%d.", i);
        for (int i = 0, n = count_inner(l, "m."); i < n; i++) {
            add_conv(l, "m.%d.cv1.", i);
            add_conv(l, "m.%d.cv2.", i);
        }
        break;
    case CONV:
        add_conv(l, "%s", "");
        break;
    case SPP:
        add_conv(l, "cv1.");
        add_conv(l, "cv2.");
        break;
    case SHUFFLE:
        add_shuffle(l, "", true);
        break;
    case SHUFFLES:
        for (int i = 0, n = count_inner(l, ""); i < n; i++) {
            char inner[16];
            str_format(inner, sizeof inner, "%d.", i);
            add_shuffle(l, inner, false);
        }
        break;
    case UP:
    case CAT:
    case DETECT:
        break;
    }
}

static void load_head(struct loading *l)
{
    char name[96];
    const int64_t n = N_ANCHORS * PICK_ROW;
    for (int i = 0; i < N_LEVELS; i++) {
        str_format(name, sizeof name, "%s.m.%d.weight", l->prefix, i);
        int64_t c = ckpt_dim(l->d->ckpt, name, 1);
        c = c > 0 ? c : 1;
        binder_bind(&l->binder, &l->d->head_w[i], name, 4, SHAPE(n, c, 1, 1));
        l->d->head_w[i] = tensor_view(l->d->head_w[i], 5, SHAPE(n, c, 1, 1, 1));
        binder_bindf(&l->binder, &l->d->head_b[i], 1, SHAPE(n), "%s.m.%d.bias", l->prefix, i);
    }
}

static void load_anchors(struct loading *l)
{
    char name[96];
    struct detector *d = l->d;
    memcpy(d->anchors, usual_anchors, sizeof d->anchors);
    str_format(name, sizeof name, "%s.anchor_grid", l->prefix);
    struct tensor t = ckpt_find(d->ckpt, name);
    if (t.data && tensor_count(t) == N_LEVELS * N_ANCHORS * 2 &&
        (t.dtype == DTYPE_F32 || t.dtype == DTYPE_F16))
        dtype_read_f32(&d->anchors[0][0][0], t.data, t.dtype, N_LEVELS * N_ANCHORS * 2, 1);
}

static int choose_plan(struct detector *d, const char *path, struct err *err)
{
    if (ckpt_dim(d->ckpt, "model.1.cv1.conv.weight", 0) && ckpt_dim(d->ckpt, "model.23.m.0.weight", 0)) {
        d->plan = plan_c3;
        d->n_layers = sizeof plan_c3 / sizeof *plan_c3;
        d->level = levels_c3;
    } else if (ckpt_dim(d->ckpt, "model.1.branch2.0.weight", 0) &&
               ckpt_dim(d->ckpt, "model.21.m.0.weight", 0)) {
        d->plan = plan_shuffle;
        d->n_layers = sizeof plan_shuffle / sizeof *plan_shuffle;
        d->level = levels_shuffle;
    } else {
        return err_set(err, ERR_WEIGHTS, "%s: neither of the two known face networks (C3, ShuffleNetV2)",
                       path);
    }
    return 0;
}

void detector_close(struct detector *d)
{
    if (!d)
        return;
    for (int i = 0; i < MAX_LAYERS; i++)
        mem_free(d->layer[i].unit);
    if (d->ckpt && d->device)
        ckpt_forget(d->ckpt, d->device);
    ckpt_close(d->ckpt);
    mem_free(d);
}

static int load(struct detector *d, const char *path, struct err *err)
{
    int rc = ckpt_open(&d->ckpt, path, err);
    if (rc < 0 || (rc = choose_plan(d, path, err)) < 0)
        return rc;
    struct loading l = {.d = d};
    binder_init(&l.binder, d->ckpt, d->device, "face detector");
    for (int i = 0; i < d->n_layers; i++) {
        l.layer = &d->layer[i];
        l.layer->unit = mem_calloc(3 + 3 * MAX_UNITS, sizeof *l.layer->unit);
        if (!l.layer->unit) {
            err_set(&l.binder.err, ERR_NOMEM, "out of memory");
            break;
        }
        str_format(l.prefix, sizeof l.prefix, "model.%d", i);
        load_layer(&l, &d->plan[i]);
    }
    load_head(&l);
    load_anchors(&l);
    return binder_finish(&l.binder, false, err);
}

int detector_open(struct detector **ret, const char *path, struct device *device, struct err *err)
{
    struct detector *d = mem_zalloc(sizeof *d);
    if (!d)
        return err_set(err, ERR_NOMEM, "out of memory");
    d->device = device;
    int rc = load(d, path, err);
    if (rc < 0) {
        detector_close(d);
        return rc;
    }
    *ret = d;
    return 0;
}

/* ---- network: x is [1, H, W, C] ---------------------------------------------------------------------- */

static struct tensor apply(struct run *r, const struct unit *u, struct tensor x, int stride, enum act act)
{
    int kh = (int)u->w.shape[3], kw = (int)u->w.shape[4];
    struct conv c = {
        .stride = {1, stride, stride},
        .pad_before = {0, kh / 2, kw / 2},
        .pad_after = {0, kh / 2, kw / 2},
        .groups = run_failed(r) ? 1 : (int)(x.shape[3] / u->w.shape[1])}; /* depthwise: one channel each */
    struct tensor y = op_conv(r, x, u->w, TENSOR_NONE, &c);
    return op_batch_norm(r, y, u->scale, u->shift, u->mean, u->var, EPS, act);
}

static struct tensor stem(struct run *r, const struct layer *l, struct tensor x)
{
    struct tensor a = apply(r, &l->unit[0], x, 2, ACT_SILU);
    struct tensor b = apply(r, &l->unit[1], a, 1, ACT_SILU);
    b = apply(r, &l->unit[2], b, 2, ACT_SILU);
    struct tensor both[2] = {b, op_max_pool(r, a, 2, 2, 0, true)};
    return apply(r, &l->unit[3], op_concat(r, both, 2, 3), 1, ACT_SILU);
}

static struct tensor c3(struct run *r, const struct layer *l, struct tensor x, bool shortcut)
{
    struct tensor a = apply(r, &l->unit[0], x, 1, ACT_SILU);
    for (int i = 3; i + 1 < l->n_units; i += 2) {
        struct tensor y = apply(r, &l->unit[i], a, 1, ACT_SILU);
        y = apply(r, &l->unit[i + 1], y, 1, ACT_SILU);
        if (shortcut)
            op_add(r, y, a);
        a = y;
    }
    struct tensor both[2] = {a, apply(r, &l->unit[1], x, 1, ACT_SILU)};
    return apply(r, &l->unit[2], op_concat(r, both, 2, 3), 1, ACT_SILU);
}

static struct tensor spp(struct run *r, const struct layer *l, struct tensor x)
{
    struct tensor a = apply(r, &l->unit[0], x, 1, ACT_SILU);
    struct tensor all[4] = {a, op_max_pool(r, a, 3, 1, 1, false), op_max_pool(r, a, 5, 1, 2, false),
                            op_max_pool(r, a, 7, 1, 3, false)};
    return apply(r, &l->unit[1], op_concat(r, all, 4, 3), 1, ACT_SILU);
}

/* Channels (g, i) -> (i, g): the two halves are interleaved. */
static struct tensor interleave(struct run *r, struct tensor a, struct tensor b)
{
    struct tensor both[2] = {a, b}, x = op_concat(r, both, 2, 3);
    if (run_failed(r))
        return TENSOR_NONE;
    int64_t h = x.shape[1], w = x.shape[2], c = x.shape[3];
    x = tensor_permute(tensor_view(x, 3, SHAPE(h * w, 2, c / 2)), (const int[]){0, 2, 1});
    x = op_copy(r, x, DTYPE_F32);
    return run_failed(r) ? TENSOR_NONE : tensor_view(x, 4, SHAPE(1, h, w, c));
}

static struct tensor shuffle(struct run *r, const struct unit *u, struct tensor x, int stride)
{
    struct tensor a = x, b = x;
    if (stride == 1 && !run_failed(r)) {
        a = tensor_slice(x, 3, 0, x.shape[3] / 2);
        b = tensor_slice(x, 3, x.shape[3] / 2, x.shape[3] / 2);
    } else {
        a = apply(r, &u[3], x, stride, ACT_NONE);
        a = apply(r, &u[4], a, 1, ACT_SILU);
    }
    b = apply(r, &u[0], b, 1, ACT_SILU);
    b = apply(r, &u[1], b, stride, ACT_NONE);
    b = apply(r, &u[2], b, 1, ACT_SILU);
    return interleave(r, a, b);
}

static struct tensor forward_layer(struct detector *d, struct run *r, int i, struct tensor x,
                                   const struct tensor *done)
{
    const struct plan *p = &d->plan[i];
    const struct layer *l = &d->layer[i];
    struct tensor both[2] = {x, TENSOR_NONE};
    switch (p->kind) {
    case STEM:
        return stem(r, l, x);
    case C3:
        return c3(r, l, x, p->shortcut);
    case CONV:
        return apply(r, &l->unit[0], x, p->stride, ACT_SILU);
    case SPP:
        return spp(r, l, x);
    case SHUFFLE:
        return shuffle(r, l->unit, x, p->stride);
    case SHUFFLES:
        for (int k = 0; k + 2 < l->n_units; k += 3)
            x = shuffle(r, &l->unit[k], x, p->stride);
        return x;
    case UP:
        return op_upsample(r, x, 1, 2, 2, false);
    case CAT:
        both[1] = done[p->with];
        return op_concat(r, both, 2, 3);
    case DETECT:
        break;
    }
    return TENSOR_NONE;
}

static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

/* One cell's 16 numbers from raw to pixels of the network's input. */
static void decode(const float *raw, float *row, int x, int y, int stride, const float *anchor)
{
    float at[2] = {(float)x, (float)y};
    for (int k = 0; k < 2; k++) {
        float s = sigmoid(raw[2 + k]) * 2;
        row[k] = (sigmoid(raw[k]) * 2 - 0.5f + at[k]) * (float)stride;
        row[2 + k] = s * s * anchor[k];
    }
    row[4] = sigmoid(raw[4]);
    for (int k = 5; k < 15; k++)
        row[k] = raw[k] * anchor[(k - 5) % 2] + at[(k - 5) % 2] * (float)stride;
    row[15] = sigmoid(raw[15]);
}

/* raw [ny, nx, anchors * 16] of one level -> rows in the order anchor, y, x. */
static float *decode_level(const struct detector *d, const float *raw, float *row, int level, int nx, int ny)
{
    for (int a = 0; a < N_ANCHORS; a++)
        for (int y = 0; y < ny; y++)
            for (int x = 0; x < nx; x++, row += PICK_ROW)
                decode(raw + (((size_t)y * (size_t)nx + (size_t)x) * N_ANCHORS + (size_t)a) * PICK_ROW, row,
                       x, y, strides[level], d->anchors[level][a]);
    return row;
}

static void forward(struct detector *d, struct run *r, const uint8_t *rgb, int w, int h,
                    struct tensor head[N_LEVELS])
{
    static const float zero[3], one[3] = {1, 1, 1};
    struct tensor done[MAX_LAYERS] = {0};
    const struct conv plain = {0};
    struct tensor x = run_write(r, rgb, DTYPE_U8, 4, SHAPE(1, h, w, 3));
    x = op_normalize(r, x, 255, zero, one);
    for (int i = 0; i + 1 < d->n_layers && !run_failed(r); i++)
        done[i] = x = forward_layer(d, r, i, x, done);
    for (int k = 0; k < N_LEVELS; k++)
        head[k] = op_conv(r, done[d->level[k]], d->head_w[k], d->head_b[k], &plain);
}

int detector_rows(struct detector *d, struct run *r, const uint8_t *rgb, int w, int h, float **ret,
                  size_t *ret_n, struct err *err)
{
    struct tensor head[N_LEVELS];
    size_t n = 0, mark = run_mark(r), cells = ((size_t)w / 8) * ((size_t)h / 8) * N_ANCHORS;
    if (w < 32 || h < 32 || w % 32 || h % 32)
        return err_set(err, ERR_SHAPE, "face detector: %d x %d, multiples of 32 are wanted", w, h);
    for (int k = 0; k < N_LEVELS; k++)
        n += ((size_t)w / (size_t)strides[k]) * ((size_t)h / (size_t)strides[k]) * N_ANCHORS;
    float *rows = mem_calloc(n * PICK_ROW, sizeof *rows), *raw = mem_calloc(cells * PICK_ROW, sizeof *raw),
          *at = rows;
    int rc = rows && raw ? 0 : err_set(err, ERR_NOMEM, "face detector: out of memory");
    run_push(r, "face");
    if (rc == 0)
        forward(d, r, rgb, w, h, head);
    for (int k = 0; rc == 0 && k < N_LEVELS; k++) {
        rc = run_failed(r) ? r->err.code : run_read(r, head[k], raw);
        if (rc == 0)
            at = decode_level(d, raw, at, k, w / strides[k], h / strides[k]);
        else
            err_set(err, rc, "%s", r->err.text);
    }
    run_pop(r);
    run_rewind(r, mark);
    mem_free(raw);
    if (rc < 0) {
        mem_free(rows);
        return rc;
    }
    *ret = rows;
    *ret_n = n;
    return 0;
}

void detector_size(int width, int height, int *ret_w, int *ret_h)
{
    double scale = (double)SHORT_SIDE / (width < height ? width : height);
    *ret_w = (int)(width * scale + 31) / 32 * 32;
    *ret_h = (int)(height * scale + 31) / 32 * 32;
}

int detector_find(struct detector *d, struct run *r, const uint8_t *rgb, int width, int height,
                  struct face_box *ret, float (*points)[10], struct err *err)
{
    int w, h, n = 0;
    size_t n_rows = 0;
    float *rows = NULL;
    detector_size(width, height, &w, &h);
    uint8_t *sized = mem_alloc((size_t)w * (size_t)h * 3);
    float *kept = mem_calloc(DETECTOR_MAX * PICK_ROW, sizeof *kept);
    int rc = sized && kept ? stretch_linear(rgb, width, height, 3, sized, w, h) : ERR_NOMEM;
    if (rc == 0)
        rc = detector_rows(d, r, sized, w, h, &rows, &n_rows, err);
    if (rc == 0)
        rc = n = pick_nms(rows, n_rows, kept, DETECTOR_MAX);
    double sx = (double)width / w, sy = (double)height / h;
    for (int i = 0; i < n; i++) {
        const float *k = kept + (size_t)i * PICK_ROW;
        double x1 = k[0] * sx, y1 = k[1] * sy, x2 = k[2] * sx, y2 = k[3] * sy;
        ret[i] = (struct face_box){(float)x1, (float)y1, (float)(x2 - x1), (float)(y2 - y1), k[4]};
        for (int p = 0; points && p < 10; p++)
            points[i][p] = (float)(k[5 + p] * (p % 2 ? sy : sx));
    }
    mem_free(rows);
    mem_free(kept);
    mem_free(sized);
    return rc < 0 ? err_set(err, rc, "face detector: out of memory") : n;
}
