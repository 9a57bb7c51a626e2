#include "worker/face/cascade.h"

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/face/stretch.h"

#define MAX_STAGES 64
#define MAX_WEAK 4096
#define MAX_FEATURES 4096
#define MAX_DEPTH 12
#define MAX_HITS 20000 /* raw windows of one picture; merging is quadratic. A face gives a few dozen */
#define SCALE 1.1
#define EPS 0.2

struct feature {
    int x, y, w, h; /* one cell of the 3 x 3 */
};

/* A stump: the pattern's bit in `subset` chooses the value. */
struct weak {
    int feature;
    uint32_t subset[8];
    float in, out;
};

struct stage {
    int first, n; /* in weak */
    float threshold;
};

struct cascade {
    int size; /* of the window, both sides */
    struct stage stage[MAX_STAGES];
    struct weak *weak;       /* owned */
    struct feature *feature; /* owned */
    int n_stages, n_weak, n_features;
};

/* ---- reading ----------------------------------------------------------------------------------------- */

/* A pass over OpenCV's XML: tags, text and comments; no attributes are read, no entities exist in these
 * files. */
struct reader {
    const char *p, *end;
    const char *text; /* behind the last tag */
    char path[MAX_DEPTH][32];
    int depth;
    int n_stages; /* as the file says */
    int width, height;
    bool lbp;
    struct cascade *c;
    struct err *err;
};

static int bad(struct reader *r, const char *what)
{
    return err_set(r->err, ERR_FORMAT, "cascade, in <%s>: %s", r->depth > 0 ? r->path[r->depth - 1] : "",
                   what);
}

/* n numbers between r->text and stop, and nothing else. */
static int read_numbers(struct reader *r, const char *stop, double *ret, int n)
{
    const char *p = r->text;
    for (int i = 0;; i++) {
        char word[64];
        while (p < stop && isspace((unsigned char)*p))
            p++;
        if (p == stop)
            return i == n ? 0 : bad(r, "fewer numbers than wanted");
        size_t len = 0;
        while (p + len < stop && !isspace((unsigned char)p[len]))
            len++;
        if (i == n || len >= sizeof word)
            return bad(r, "more numbers than wanted");
        str_format(word, sizeof word, "%.*s", (int)len, p);
        if (str_parse_f64(word, -4294967296.0, 4294967296.0, &ret[i]) < 0)
            return bad(r, "a number is wanted");
        p += len;
    }
}

static int read_int(struct reader *r, const char *stop, int *ret)
{
    double v = 0;
    int rc = read_numbers(r, stop, &v, 1);
    if (rc == 0 && (v < 0 || v > 1e6 || v != floor(v)))
        return bad(r, "a count is wanted");
    if (rc == 0)
        *ret = (int)v;
    return rc;
}

static int add_stage(struct reader *r, const char *stop)
{
    double v = 0;
    struct cascade *c = r->c;
    int rc = read_numbers(r, stop, &v, 1);
    if (rc < 0)
        return rc;
    if (c->n_stages == MAX_STAGES)
        return bad(r, "too many stages");
    c->stage[c->n_stages++] = (struct stage){c->n_weak, 0, (float)v - 1e-5f}; /* OpenCV's own slack */
    return 0;
}

/* "0 -1 feature s0 ... s7": left is leaf 0, right leaf 1. */
static int add_weak(struct reader *r, const char *stop)
{
    double v[11];
    struct cascade *c = r->c;
    int rc = read_numbers(r, stop, v, 11);
    if (rc < 0)
        return rc;
    if (v[0] != 0 || v[1] != -1 || v[2] < 0 || v[2] >= MAX_FEATURES || c->n_stages == 0 ||
        c->n_weak == MAX_WEAK)
        return bad(r, "not a stump, outside a stage, or too many");
    struct weak *k = &c->weak[c->n_weak++];
    k->feature = (int)v[2];
    for (int i = 0; i < 8; i++)
        k->subset[i] = (uint32_t)(int64_t)v[3 + i];
    c->stage[c->n_stages - 1].n++;
    return 0;
}

static int add_leaves(struct reader *r, const char *stop)
{
    double v[2];
    int rc = read_numbers(r, stop, v, 2);
    if (rc < 0)
        return rc;
    if (r->c->n_weak == 0)
        return bad(r, "leaves without a node");
    r->c->weak[r->c->n_weak - 1].in = (float)v[0];
    r->c->weak[r->c->n_weak - 1].out = (float)v[1];
    return 0;
}

static int add_feature(struct reader *r, const char *stop)
{
    double v[4];
    int rc = read_numbers(r, stop, v, 4);
    if (rc < 0)
        return rc;
    for (int i = 0; i < 4; i++)
        if (v[i] < 0 || v[i] > 1000 || v[i] != floor(v[i]))
            return bad(r, "a rectangle outside the window");
    if (r->c->n_features == MAX_FEATURES)
        return bad(r, "too many features");
    r->c->feature[r->c->n_features++] = (struct feature){(int)v[0], (int)v[1], (int)v[2], (int)v[3]};
    return 0;
}

static int add_type(struct reader *r, const char *stop)
{
    r->lbp = stop - r->text == 3 && memcmp(r->text, "LBP", 3) == 0;
    return 0;
}

/* An element has ended; its text lies between r->text and stop. */
static int element(struct reader *r, const char *name, const char *stop)
{
    static const struct {
        const char *name;
        int (*fn)(struct reader *r, const char *stop);
    } parts[] = {{"stageThreshold", add_stage},
                 {"internalNodes", add_weak},
                 {"leafValues", add_leaves},
                 {"rect", add_feature},
                 {"featureType", add_type}};
    if (strcmp(name, "height") == 0)
        return read_int(r, stop, &r->height);
    if (strcmp(name, "width") == 0)
        return read_int(r, stop, &r->width);
    if (strcmp(name, "stageNum") == 0)
        return read_int(r, stop, &r->n_stages);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strcmp(name, parts[i].name) == 0)
            return parts[i].fn(r, stop);
    return 0;
}

static const char *find(struct reader *r, const char *text)
{
    size_t n = strlen(text);
    return memmem(r->p, (size_t)(r->end - r->p), text, n);
}

/* "<!-- ... -->" or "<? ... ?>" at r->p. */
static int skip_comment(struct reader *r)
{
    const char *tail = r->p[1] == '!' ? "-->" : "?>", *at = find(r, tail);
    if (!at)
        return bad(r, "a comment without an end");
    r->p = r->text = at + strlen(tail);
    return 0;
}

static int open_tag(struct reader *r, const char *name, size_t n)
{
    if (r->depth == MAX_DEPTH)
        return bad(r, "nested too deep");
    str_format(r->path[r->depth++], sizeof r->path[0], "%.*s", (int)n, name);
    r->text = r->p;
    return 0;
}

/* stop: where the element's text ends. */
static int close_tag(struct reader *r, const char *name, size_t n, const char *stop)
{
    const char *top = r->depth > 0 ? r->path[r->depth - 1] : "";
    if (strlen(top) != n || memcmp(top, name, n) != 0)
        return bad(r, "tags do not match");
    int rc = element(r, top, stop);
    r->depth--;
    r->text = r->p;
    return rc;
}

/* The tag at r->p ("<..."). */
static int read_tag(struct reader *r)
{
    const char *start = r->p, *close = find(r, ">");
    if (!close)
        return bad(r, "a tag without an end");
    if (start[1] == '!' || start[1] == '?')
        return skip_comment(r);
    bool ends = start[1] == '/';
    const char *name = start + 1 + ends;
    size_t n = 0;
    while (name + n < close && !isspace((unsigned char)name[n]))
        n++;
    if (n == 0 || n >= sizeof r->path[0])
        return bad(r, "a tag's name is empty or too long");
    r->p = close + 1;
    return ends ? close_tag(r, name, n, start) : open_tag(r, name, n);
}

static int check_parts(struct reader *r)
{
    const struct cascade *c = r->c;
    for (int i = 0; i < c->n_stages; i++)
        if (c->stage[i].n == 0)
            return bad(r, "a stage without classifiers");
    for (int i = 0; i < c->n_weak; i++)
        if (c->weak[i].feature >= c->n_features)
            return bad(r, "a classifier of a feature that is not there");
    for (int i = 0; i < c->n_features; i++) {
        const struct feature *f = &c->feature[i];
        if (f->x + 3 * f->w > r->width || f->y + 3 * f->h > r->height)
            return bad(r, "a feature reaches out of the window");
    }
    return 0;
}

static int check(struct reader *r)
{
    struct cascade *c = r->c;
    if (r->depth != 0 || !r->lbp || r->width != r->height || r->width < 8 || r->width > 256)
        return bad(r, "cut off, not of LBP features or without a square window");
    if (c->n_stages != r->n_stages || c->n_stages == 0 || c->n_features == 0)
        return bad(r, "the number of stages is not the announced one");
    c->size = r->width;
    return check_parts(r);
}

void cascade_close(struct cascade *c)
{
    if (!c)
        return;
    mem_free(c->weak);
    mem_free(c->feature);
    mem_free(c);
}

int cascade_open(struct cascade **ret, const char *xml, size_t len, struct err *err)
{
    int rc = 0;
    struct cascade *c = mem_zalloc(sizeof *c);
    if (c) {
        c->weak = mem_calloc(MAX_WEAK, sizeof *c->weak);
        c->feature = mem_calloc(MAX_FEATURES, sizeof *c->feature);
    }
    if (!c || !c->weak || !c->feature)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    struct reader r = {.p = xml, .end = xml + len, .text = xml, .c = c, .err = err};
    while (rc == 0 && r.p < r.end) {
        const char *tag = memchr(r.p, '<', (size_t)(r.end - r.p));
        if (!tag)
            break;
        r.p = tag;
        rc = read_tag(&r);
    }
    if (rc == 0)
        rc = check(&r);
    if (rc < 0) {
        cascade_close(c);
        return rc;
    }
    *ret = c;
    return 0;
}

/* ---- scanning ---------------------------------------------------------------------------------------- */

struct hits {
    struct cascade_box *list; /* owned, MAX_HITS */
    int n;
};

/* One level of the pyramid: the integral of the shrunken picture and the features' corners in it. */
struct level {
    uint32_t *sum; /* [h + 1][w + 1] */
    int *corner;   /* [n_features][16]: offsets of the 4 x 4 grid */
    int w, h;
};

static void integrate(const uint8_t *grey, struct level *l)
{
    size_t pitch = (size_t)l->w + 1;
    memset(l->sum, 0, pitch * sizeof *l->sum);
    for (int y = 0; y < l->h; y++) {
        uint32_t row = 0, *out = l->sum + ((size_t)y + 1) * pitch;
        out[0] = 0;
        for (int x = 0; x < l->w; x++) {
            row += grey[(size_t)y * (size_t)l->w + (size_t)x];
            out[x + 1] = out[x + 1 - pitch] + row;
        }
    }
}

static void place_corners(const struct cascade *c, struct level *l)
{
    for (int i = 0; i < c->n_features; i++) {
        const struct feature *f = &c->feature[i];
        for (int k = 0; k < 16; k++)
            l->corner[i * 16 + k] = (f->y + k / 4 * f->h) * (l->w + 1) + f->x + k % 4 * f->w;
    }
}

/* Sum of the cell whose upper left corner is k of the grid. */
static uint32_t cell(const uint32_t *p, const int *o, int k)
{
    return p[o[k]] - p[o[k + 1]] - p[o[k + 4]] + p[o[k + 5]];
}

/* Eight neighbours against the middle, clockwise from the upper left, the first in the highest bit. */
static unsigned pattern(const uint32_t *p, const int *o)
{
    static const int around[8] = {0, 1, 2, 6, 10, 9, 8, 4};
    uint32_t middle = cell(p, o, 5);
    unsigned bits = 0;
    for (int i = 0; i < 8; i++)
        bits = bits << 1 | (cell(p, o, around[i]) >= middle);
    return bits;
}

/* How many stages a window passes. */
static int passed(const struct cascade *c, const struct level *l, int x, int y)
{
    const uint32_t *p = l->sum + (size_t)y * ((size_t)l->w + 1) + (size_t)x;
    for (int s = 0; s < c->n_stages; s++) {
        double sum = 0;
        for (int i = 0; i < c->stage[s].n; i++) {
            const struct weak *k = &c->weak[c->stage[s].first + i];
            unsigned bits = pattern(p, l->corner + k->feature * 16);
            sum += k->subset[bits >> 5] >> (bits & 31) & 1 ? k->in : k->out;
        }
        if (sum < c->stage[s].threshold)
            return s;
    }
    return c->n_stages;
}

/* Every second pixel where the picture is little shrunken, and one more is left out after a window that fails
 * at once. */
static void scan(const struct cascade *c, const struct level *l, float scale, struct hits *hits)
{
    int step = scale >= 2 ? 1 : 2, side = (int)lrintf((float)c->size * scale);
    for (int y = 0; y + c->size <= l->h; y += step) {
        for (int x = 0; x + c->size <= l->w; x += step) {
            int n = passed(c, l, x, y);
            if (n == 0)
                x += step;
            if (n == c->n_stages && hits->n < MAX_HITS)
                hits->list[hits->n++] = (struct cascade_box){(int)lrintf((float)x * scale),
                                                             (int)lrintf((float)y * scale), side, side, 1};
        }
    }
}

static int scan_all(const struct cascade *c, const uint8_t *grey, int w, int h, int min_size,
                    struct hits *hits)
{
    size_t n = ((size_t)w + 1) * ((size_t)h + 1);
    uint8_t *small = mem_alloc(n);
    struct level l = {.sum = mem_alloc(n * sizeof *l.sum),
                      .corner = mem_calloc((size_t)c->n_features * 16, sizeof *l.corner)};
    int rc = small && l.sum && l.corner ? 0 : ERR_NOMEM;
    for (double factor = 1; rc == 0; factor *= SCALE) {
        float scale = (float)factor;
        int side = (int)lrint(c->size * factor);
        if (side > w || side > h)
            break;
        if ((int)lrintf((float)c->size * scale) < min_size)
            continue;
        l.w = (int)lrintf((float)w / scale);
        l.h = (int)lrintf((float)h / scale);
        rc = stretch_exact(grey, w, h, 1, small, l.w, l.h);
        if (rc < 0)
            break;
        integrate(small, &l);
        place_corners(c, &l);
        scan(c, &l, scale, hits);
    }
    mem_free(small);
    mem_free(l.sum);
    mem_free(l.corner);
    return rc;
}

/* ---- merging ----------------------------------------------------------------------------------------- */

static bool alike(const struct cascade_box *a, const struct cascade_box *b)
{
    int w = a->w < b->w ? a->w : b->w, h = a->h < b->h ? a->h : b->h;
    double d = EPS * (w + h) * 0.5;
    return abs(a->x - b->x) <= d && abs(a->y - b->y) <= d && abs(a->x + a->w - b->x - b->w) <= d &&
           abs(a->y + a->h - b->y - b->h) <= d;
}

static int root(const int *up, int i)
{
    while (up[i] != i)
        i = up[i];
    return i;
}

/* Connected groups of hits, as their means in order of their first hit. group holds room for as many as hits.
 */
static int average(const struct hits *hits, int *up, int64_t (*sum)[4], struct cascade_box *group)
{
    int n = 0;
    for (int i = 0; i < hits->n; i++)
        up[i] = i;
    for (int i = 0; i < hits->n; i++)
        for (int k = 0; k < i; k++)
            if (alike(&hits->list[i], &hits->list[k])) {
                int a = root(up, i), b = root(up, k);
                up[a > b ? a : b] = a > b ? b : a;
            }
    for (int i = 0; i < hits->n; i++) {
        const struct cascade_box *h = &hits->list[i];
        int to = root(up, i);
        sum[to][0] += h->x;
        sum[to][1] += h->y;
        sum[to][2] += h->w;
        sum[to][3] += h->h;
        group[to].hits++;
    }
    for (int i = 0; i < hits->n; i++) {
        if (up[i] != i)
            continue;
        float s = 1.0f / (float)group[i].hits;
        group[n++] = (struct cascade_box){
            (int)lrintf((float)sum[i][0] * s), (int)lrintf((float)sum[i][1] * s),
            (int)lrintf((float)sum[i][2] * s), (int)lrintf((float)sum[i][3] * s), group[i].hits};
    }
    return n;
}

/* A small group inside a larger one, with some slack, is a part of the same face. */
static bool is_part(const struct cascade_box *a, const struct cascade_box *b)
{
    int dx = (int)lrint(b->w * EPS), dy = (int)lrint(b->h * EPS);
    return a->x >= b->x - dx && a->y >= b->y - dy && a->x + a->w <= b->x + b->w + dx &&
           a->y + a->h <= b->y + b->h + dy && (b->hits > (a->hits > 3 ? a->hits : 3) || a->hits < 3);
}

static int merge(const struct hits *hits, int neighbours, struct cascade_box *ret, int max)
{
    size_t n = hits->n ? (size_t)hits->n : 1;
    int n_ret = 0;
    int *up = mem_calloc(n, sizeof *up);
    int64_t(*sum)[4] = mem_calloc(n, sizeof *sum);
    struct cascade_box *group = mem_calloc(n, sizeof *group);
    if (!up || !sum || !group)
        n_ret = ERR_NOMEM;
    int n_groups = n_ret < 0 ? 0 : average(hits, up, sum, group);
    for (int i = 0; i < n_groups; i++) {
        bool keep = group[i].hits > neighbours;
        for (int k = 0; keep && k < n_groups; k++)
            keep = k == i || group[k].hits <= neighbours || !is_part(&group[i], &group[k]);
        if (keep && n_ret < max)
            ret[n_ret++] = group[i];
    }
    mem_free(up);
    mem_free(sum);
    mem_free(group);
    return n_ret;
}

int cascade_find(const struct cascade *c, const uint8_t *grey, int w, int h, int min_size, int neighbours,
                 struct cascade_box *ret, int max)
{
    struct hits hits = {.list = mem_calloc(MAX_HITS, sizeof *hits.list)};
    int n = hits.list ? scan_all(c, grey, w, h, min_size, &hits) : ERR_NOMEM;
    if (n == 0 && neighbours > 0) {
        n = merge(&hits, neighbours, ret, max);
    } else if (n == 0) {
        n = hits.n < max ? hits.n : max;
        memcpy(ret, hits.list, (size_t)n * sizeof *ret);
    }
    mem_free(hits.list);
    return n;
}

void cascade_grey(const uint8_t *rgb, uint8_t *grey, size_t n)
{
    for (size_t i = 0; i < n; i++)
        grey[i] = (uint8_t)((rgb[3 * i] * 4899 + rgb[3 * i + 1] * 9617 + rgb[3 * i + 2] * 1868 + 8192) >> 14);
}
