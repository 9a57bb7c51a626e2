#include "worker/model/vae_slab.h"

#include "kernels/ops.h"

/* Compact: tensors of more than so many thresholds for slabs (1.5 GiB) are not kept where they can be made again. */
enum { VAE_SLAB_HUGE = 6 };

static int64_t vae_slab_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void vae_slab_up_shape(const struct vae_level *l, struct tensor x, int64_t shape[4])
{
    const int *f = l->factor;

    shape[0] = f[0] == 2 ? 2 * x.shape[0] - 1 : x.shape[0];
    shape[1] = f[1] * x.shape[1];
    shape[2] = f[2] * x.shape[2];
    shape[3] = l->scale_w.shape[0];
}

bool vae_slab_wanted(const struct vae_net *n, struct tensor x)
{
    return tensor_bytes(x) > n->slab;
}

/* What vae_net_up makes of x, without data. */
static struct tensor vae_slab_up_of(const struct vae_level *l, struct tensor x)
{
    int64_t shape[4];

    vae_slab_up_shape(l, x, shape);
    return tensor_of(NULL, DTYPE_F32, 4, shape);
}

bool vae_slab_up_wanted(const struct vae_net *n, const struct vae_level *l, struct tensor x)
{
    return vae_slab_wanted(n, vae_slab_up_of(l, x));
}

/* Whether t is so large that it is made twice rather than kept. */
static bool vae_slab_is_huge(const struct vae_net *n, struct tensor t)
{
    return n->compact && tensor_bytes(t) / VAE_SLAB_HUGE > n->slab;
}

bool vae_slab_packs(const struct vae_resnet *w)
{
    return 2 * w->conv1_w.shape[0] <= w->conv1_w.shape[1];
}

bool vae_slab_joins(const struct vae_net *n, const struct vae_level *l, const struct vae_resnet *next, struct tensor x)
{
    return vae_slab_is_huge(n, vae_slab_up_of(l, x)) && vae_slab_packs(next);
}

/* Frames of a slab, each of so many elements: about a quarter of what is a large tensor, so that all slabs of a block
 * together are about one. */
static int64_t vae_slab_frames(const struct vae_net *n, int64_t elements, int64_t least)
{
    int64_t frames = (int64_t)(n->slab / 4) / (elements * (int64_t)sizeof(float));

    return frames > least ? frames : least;
}

/* ---- where frames come from ---- */

/* A tensor, read slab by slab: x, or what upsampling and convolution make of it. */
struct vae_slab_source {
    const struct vae_level *up; /* NULL: x itself */
    struct tensor x;
    int64_t step; /* frames of x that make a slab */
};

static struct vae_slab_source vae_slab_stored(const struct vae_net *n, struct tensor x)
{
    return (struct vae_slab_source){NULL, x, vae_slab_frames(n, x.shape[1] * x.shape[2] * x.shape[3], 2)};
}

/* A frame of x makes two where time is upsampled, but for the first. */
static struct vae_slab_source vae_slab_made(const struct vae_net *n, const struct vae_level *l, struct tensor x)
{
    int64_t s[4];

    vae_slab_up_shape(l, x, s);
    return (struct vae_slab_source){l, x, vae_slab_frames(n, s[1] * s[2] * s[3] * l->factor[0], 3 - l->factor[0])};
}

static int64_t vae_slab_count(const struct vae_slab_source *s)
{
    return (s->x.shape[0] + s->step - 1) / s->step;
}

/* Of slab i: its first frame and how many there are. */
static int64_t vae_slab_span(const struct vae_slab_source *s, int64_t i, int64_t *ret_n)
{
    int64_t a = i * s->step, n = vae_slab_min(s->step, s->x.shape[0] - a);
    bool twice = s->up != NULL && s->up->factor[0] == 2;

    *ret_n = twice ? 2 * n - (a == 0) : n;
    return twice && a > 0 ? 2 * a - 1 : twice ? 2 * a : a;
}

/* dst = frames [i step, + n) of x upsampled and convolved. The two frames before them are one frame of x twice, where time
 * is upsampled. */
static void vae_slab_make(struct run *r, const struct vae_slab_source *s, int64_t i, struct tensor dst)
{
    const int *f = s->up->factor;
    int64_t a = i * s->step, n = vae_slab_min(s->step, s->x.shape[0] - a), before = a == 0 ? 0 : f[0] == 2 ? 1 : 2;
    struct conv c = {.pad_before = {a == 0 ? 2 : 0, 1, 1}, .pad_after = {0, 1, 1}, .replicate = true};
    size_t mark = run_mark(r);
    struct tensor x = op_upsample(r, tensor_slice(s->x, 0, a - before, n + before), f[0], f[1], f[2], a == 0);

    op_conv_into(r, dst, x, s->up->scale_w, s->up->scale_b, &c);
    run_rewind(r, mark);
}

/* Slab i: a view, or new. */
static struct tensor vae_slab_read(struct run *r, const struct vae_slab_source *s, int64_t i)
{
    int64_t n, at = vae_slab_span(s, i, &n), shape[4];
    struct tensor y;

    if (s->up == NULL)
        return tensor_slice(s->x, 0, at, n);
    vae_slab_up_shape(s->up, s->x, shape);
    shape[0] = n;
    y = run_new(r, DTYPE_F32, 4, shape);
    vae_slab_make(r, s, i, y);
    return y;
}

/* Slab i of a tensor with as many frames as the source. */
static struct tensor vae_slab_of(const struct vae_slab_source *s, int64_t i, struct tensor t)
{
    int64_t n, at = vae_slab_span(s, i, &n);

    return tensor_slice(t, 0, at, n);
}

static struct tensor vae_slab_stats(struct run *r, const struct vae_net *n, const struct vae_slab_source *s)
{
    int64_t slabs = vae_slab_count(s);
    struct tensor all;

    if (s->up == NULL)
        return op_group_stats(r, s->x, n->config.groups);
    all = run_new(r, DTYPE_F32, 3, SHAPE(slabs, n->config.groups, 3));
    for (int64_t i = 0; i < slabs; i++) {
        size_t mark = run_mark(r);
        op_copy_into(r, tensor_at(all, 0, i), op_group_stats(r, vae_slab_read(r, s, i), n->config.groups));
        run_rewind(r, mark);
    }
    return all;
}

/* ---- conv(silu(norm(x))), slab after slab ---- */

struct vae_slab_filter {
    struct tensor norm_w, norm_b, w, b;
    struct tensor stats;
    struct tensor room; /* [2 + most, H, W, C]: two normalised frames from before, then a slab's */
    int64_t n;          /* frames of the slab before; 0: none yet */
};

static struct vae_slab_filter vae_slab_filter(struct run *r, const struct vae_slab_source *s, struct tensor stats,
                                              const struct tensor weights[4], const int64_t *frame)
{
    int64_t most = s->step * (s->up != NULL ? s->up->factor[0] : 1);
    struct vae_slab_filter f = {weights[0], weights[1], weights[2], weights[3], stats, TENSOR_NONE, 0};

    f.room = run_new(r, DTYPE_F32, 4, SHAPE(2 + most, frame[0], frame[1], weights[0].shape[0]));
    return f;
}

/* dst = what the filter makes of the next frames. Before the first frame there is that frame again. */
static void vae_slab_filter_next(struct run *r, struct vae_slab_filter *f, struct tensor x, struct tensor dst)
{
    struct conv c = {.pad_before = {0, 1, 1}, .pad_after = {0, 1, 1}, .replicate = true};
    int64_t n = x.shape[0];

    for (int64_t k = 0; k < 2 && f->n > 0; k++)
        op_copy_into(r, tensor_slice(f->room, 0, k, 1), tensor_slice(f->room, 0, f->n + k, 1));
    op_group_apply(r, tensor_slice(f->room, 0, 2, n), x, f->stats, f->norm_w, f->norm_b, VAE_NET_EPS, ACT_SILU);
    for (int64_t k = 0; k < 2 && f->n == 0; k++)
        op_copy_into(r, tensor_slice(f->room, 0, k, 1), tensor_slice(f->room, 0, 2, 1));
    op_conv_into(r, dst, tensor_slice(f->room, 0, 0, 2 + n), f->w, f->b, &c);
    f->n = n;
}

/* ---- resnet ---- */

struct vae_slab_job {
    const struct vae_net *net;
    const struct vae_resnet *w;
    struct vae_slab_source x;
    struct tensor y; /* [T, H, W, co]: the result. Where there is no shortcut layer, x */
    struct tensor h; /* conv1's result; y where that is written over it; none where it is made twice */
    struct tensor stats_x, stats_h;
};

static struct vae_slab_filter vae_slab_first(struct run *r, const struct vae_slab_job *j)
{
    const struct vae_resnet *w = j->w;
    const struct tensor weights[4] = {w->norm1_w, w->norm1_b, w->conv1_w, w->conv1_b};

    return vae_slab_filter(r, &j->x, j->stats_x, weights, j->y.shape + 1);
}

static struct vae_slab_filter vae_slab_second(struct run *r, const struct vae_slab_job *j)
{
    const struct vae_resnet *w = j->w;
    const struct tensor weights[4] = {w->norm2_w, w->norm2_b, w->conv2_w, w->conv2_b};

    return vae_slab_filter(r, &j->x, j->stats_h, weights, j->y.shape + 1);
}

static struct tensor vae_slab_new_like(struct run *r, struct tensor t)
{
    return run_new(r, DTYPE_F32, t.n_dims, t.shape);
}

static struct tensor vae_slab_shortcut(struct run *r, const struct vae_resnet *w, struct tensor x)
{
    const int64_t *shape = w->short_w.shape; /* 1x1x1: a linear layer over the channels */

    return op_linear(r, x, tensor_view(w->short_w, 2, SHAPE(shape[0], shape[1])), w->short_b, ACT_NONE);
}

/* h = conv1(silu(norm1(x))), or its statistics alone; y = shortcut(x) where y is not needed for h. A slab of x is read
 * before y and h, which may lie there, are written. */
static void vae_slab_pass_one(struct run *r, struct vae_slab_job *j, bool has_shortcut)
{
    int64_t slabs = vae_slab_count(&j->x);
    struct tensor pieces = run_new(r, DTYPE_F32, 3, SHAPE(slabs, j->net->config.groups, 3));
    size_t mark = run_mark(r), inner;
    struct vae_slab_filter f = vae_slab_first(r, j);

    inner = run_mark(r);
    for (int64_t i = 0; i < slabs; i++) {
        struct tensor x = vae_slab_read(r, &j->x, i), y = vae_slab_of(&j->x, i, j->y), to = vae_slab_of(&j->x, i, j->h);
        struct tensor s = has_shortcut ? vae_slab_shortcut(r, j->w, x) : TENSOR_NONE;
        struct tensor h = tensor_is_none(to) || !tensor_is_contiguous(to) ? vae_slab_new_like(r, y) : to;
        vae_slab_filter_next(r, &f, x, h);
        if (has_shortcut)
            op_copy_into(r, y, s);
        if (tensor_is_none(to))
            op_copy_into(r, tensor_at(pieces, 0, i), op_group_stats(r, h, j->net->config.groups));
        else if (!tensor_is_contiguous(to))
            op_copy_into(r, to, h);
        run_rewind(r, inner);
    }
    run_rewind(r, mark);
    j->stats_h = tensor_is_none(j->h) ? pieces : op_group_stats(r, j->h, j->net->config.groups);
}

/* y += conv2(silu(norm2(h))); where y is h, y = that + shortcut(x). */
static void vae_slab_pass_two(struct run *r, struct vae_slab_job *j, bool has_shortcut)
{
    struct vae_slab_filter f = {0}, g = vae_slab_second(r, j);
    size_t mark;

    if (tensor_is_none(j->h))
        f = vae_slab_first(r, j);
    mark = run_mark(r);
    for (int64_t i = 0; i < vae_slab_count(&j->x); i++) {
        struct tensor y = vae_slab_of(&j->x, i, j->y), h = vae_slab_of(&j->x, i, j->h), t = vae_slab_new_like(r, y);
        if (tensor_is_none(j->h)) {
            h = vae_slab_new_like(r, y);
            vae_slab_filter_next(r, &f, vae_slab_read(r, &j->x, i), h);
        }
        vae_slab_filter_next(r, &g, h, t);
        if (has_shortcut)
            op_copy_into(r, y, vae_slab_shortcut(r, j->w, vae_slab_read(r, &j->x, i)));
        op_add(r, y, t);
        run_rewind(r, mark);
    }
}

/* Channels [i c, (i + 1) c) of a frame's worth of numbers, as if they were a frame of c channels. */
static struct tensor vae_slab_plane(struct tensor x, int i, int64_t c)
{
    int64_t n = x.shape[1] * x.shape[2] * c;
    struct tensor frames = tensor_view(x, 2, SHAPE(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]));

    return tensor_view(tensor_slice(frames, 1, i * n, n), 4, SHAPE(x.shape[0], x.shape[1], x.shape[2], c));
}

/* The frames of y, x's first plane, close together where x began. y's frames are twice as far from there as they will be, or
 * more: frames [t, 2t) do not touch each other. */
static struct tensor vae_slab_pack(struct run *r, struct tensor x, struct tensor y)
{
    struct tensor all = tensor_slice(tensor_view(x, 1, SHAPE(tensor_count(x))), 0, 0, tensor_count(y));
    int64_t n = 1;

    all = tensor_view(all, 4, y.shape);
    for (int64_t t = 1; t < y.shape[0]; t += n) {
        n = vae_slab_min(t, y.shape[0] - t);
        op_copy_into(r, tensor_slice(all, 0, t, n), tensor_slice(y, 0, t, n));
    }
    return all;
}

struct tensor vae_slab_resnet(struct run *r, const struct vae_net *n, const struct vae_resnet *w, struct tensor x)
{
    bool same = tensor_is_none(w->short_w), packs = vae_slab_packs(w);
    int64_t c = w->conv1_w.shape[0];
    const int64_t *shape = SHAPE(x.shape[0], x.shape[1], x.shape[2], c);
    struct vae_slab_job j = {.net = n, .w = w, .x = vae_slab_stored(n, x), .y = x};
    size_t mark;

    if (!same)
        j.y = packs ? vae_slab_plane(x, 0, c) : run_new(r, DTYPE_F32, 4, shape);
    mark = run_mark(r);
    if (packs)
        j.h = vae_slab_plane(x, 1, c);
    else if (!same || !vae_slab_is_huge(n, x))
        j.h = run_new(r, DTYPE_F32, 4, shape);
    j.stats_x = vae_slab_stats(r, n, &j.x);
    vae_slab_pass_one(r, &j, !same);
    vae_slab_pass_two(r, &j, false);
    run_rewind(r, mark);
    return packs ? vae_slab_pack(r, x, j.y) : j.y;
}

struct tensor vae_slab_up(struct run *r, const struct vae_net *n, const struct vae_level *l, struct tensor x, size_t at)
{
    struct vae_slab_source s = vae_slab_made(n, l, x);
    int64_t shape[4];
    struct tensor y;

    vae_slab_up_shape(l, x, shape);
    run_rewind(r, at);
    y = run_new(r, DTYPE_F32, 4, shape);
    /* Frames of y are at least as large as those of x: what is written lies behind what is still to be read. */
    for (int64_t i = vae_slab_count(&s); i-- > 0;)
        vae_slab_make(r, &s, i, vae_slab_of(&s, i, y));
    return y;
}

struct tensor vae_slab_up_resnet(struct run *r, const struct vae_net *n, const struct vae_level *l,
                                 const struct vae_resnet *w, struct tensor x)
{
    struct vae_slab_job j = {.net = n, .w = w, .x = vae_slab_made(n, l, x)};
    int64_t shape[4];
    size_t mark;

    vae_slab_up_shape(l, x, shape);
    shape[3] = w->conv1_w.shape[0];
    j.y = j.h = run_new(r, DTYPE_F32, 4, shape);
    mark = run_mark(r);
    j.stats_x = vae_slab_stats(r, n, &j.x);
    vae_slab_pass_one(r, &j, false);
    vae_slab_pass_two(r, &j, true);
    run_rewind(r, mark);
    return j.y;
}

struct tensor vae_slab_tail(struct run *r, const struct vae_net *n, const struct vae_half *h, struct tensor x)
{
    struct vae_slab_source s = vae_slab_stored(n, x);
    struct tensor y = run_new(r, DTYPE_F32, 4, SHAPE(x.shape[0], x.shape[1], x.shape[2], h->conv_out_w.shape[0]));
    const struct tensor weights[4] = {h->norm_out_w, h->norm_out_b, h->conv_out_w, h->conv_out_b};
    size_t mark = run_mark(r);
    struct vae_slab_filter f = vae_slab_filter(r, &s, vae_slab_stats(r, n, &s), weights, x.shape + 1);

    for (int64_t i = 0; i < vae_slab_count(&s); i++)
        vae_slab_filter_next(r, &f, vae_slab_of(&s, i, x), vae_slab_of(&s, i, y));
    run_rewind(r, mark);
    return y;
}
