#include "worker/model/vae.h"

#include "common/mem.h"
#include "kernels/comm/comm.h"
#include "kernels/ops.h"

struct vae {
    struct vae_net net;
};

int vae_open(struct vae **ret, const struct vae_config *config, struct ckpt *c, struct device *device,
             struct err *err)
{
    struct vae *v = mem_zalloc(sizeof(*v));
    int rc;

    if (v == NULL)
        return err_set(err, ERR_NOMEM, "vae: no memory for the list of weights");
    if ((rc = ckpt_strip(c, "vae.", err)) == 0)
        rc = vae_net_bind(&v->net, config, c, device, err);
    if (rc < 0) {
        vae_close(v);
        return rc;
    }
    *ret = v;
    return 0;
}

void vae_close(struct vae *v)
{
    mem_free(v);
}

void vae_set_compact(struct vae *v, bool on)
{
    v->net.compact = on;
}

void vae_set_slab(struct vae *v, size_t bytes)
{
    v->net.slab = bytes;
}

const struct vae_net *vae_get_net(const struct vae *v)
{
    return &v->net;
}

float vae_scaling(const struct vae *v)
{
    return (float)v->net.config.scaling;
}

/* ---- tiles ---- */

/* One direction of the VAE: its network, and how an input of n becomes one of vae_way_out(n) on an axis. */
struct vae_way {
    const struct vae_net *net;
    struct tensor (*piece)(struct run *r, const struct vae_net *n, struct tensor x);
    bool encodes;
    int64_t channels; /* of the output */
};

/* Cuts along one axis: tile i covers inputs [i step, i step + tile); outputs are blended over `blend` and
 * `keep` kept. */
struct vae_cut {
    int64_t tile, step, blend, keep;
};

static struct vae_way vae_way_of(const struct vae *v, bool encodes)
{
    const struct vae_config *c = &v->net.config;

    if (encodes)
        return (struct vae_way){&v->net, vae_net_encode, true, 2 * c->latent_channels};
    return (struct vae_way){&v->net, vae_net_decode, false, c->in_channels};
}

static int64_t vae_way_out(const struct vae_way *w, bool time, int64_t n)
{
    int f[3];

    for (int i = 0; i < w->net->config.n_levels; i++) {
        vae_config_strides(&w->net->config, i, f);
        if (f[time ? 0 : 1] == 1)
            continue;
        if (w->encodes)
            n = (n - 1) / 2 + 1;
        else
            n = time ? 2 * n - 1 : 2 * n;
    }
    return n;
}

static struct vae_cut vae_cut_of(const struct vae_way *w, bool time)
{
    const struct vae_config *c = &w->net->config;
    int64_t ratio = time ? c->time_ratio : (int64_t)1 << (c->n_levels - 1);
    int64_t big = time ? c->tile_frames : c->tile_size, small = big / ratio;
    int64_t in = w->encodes ? big : small, out = w->encodes ? small : big;

    return (struct vae_cut){in + (time ? 1 : 0), in * 3 / 4, out / 4, out - out / 4};
}

static int64_t vae_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Outputs of all tiles of a spatial axis of n inputs, after the cuts. */
static int64_t vae_cut_total(const struct vae_way *w, const struct vae_cut *c, int64_t n)
{
    int64_t sum = 0;

    for (int64_t at = 0; at < n; at += c->step)
        sum += vae_min(c->keep, vae_way_out(w, false, vae_min(c->tile, n - at)));
    return sum;
}

/* What a tile leaves for its neighbours: the last rows of the one above (by column), the last columns of the
 * left one. */
struct vae_strips {
    struct tensor above; /* [columns, T, blend, tile width, C] */
    struct tensor left;  /* [T, tile height, blend, C] */
    int64_t n_above, n_left;
};

static struct vae_strips vae_strips_new(struct run *r, const struct vae_way *w, const struct vae_cut *c,
                                        struct tensor x, int64_t t)
{
    int64_t columns = (x.shape[2] + c->step - 1) / c->step, tile = vae_way_out(w, false, c->tile);
    struct vae_strips s = {0};

    s.above = run_new(r, DTYPE_F32, 5, SHAPE(columns, t, c->blend, tile, w->channels));
    s.left = run_new(r, DTYPE_F32, 4, SHAPE(t, tile, c->blend, w->channels));
    return s;
}

/* Blends y with the strips, first the one above, then the left one, and leaves y's own in their place. */
static void vae_strips_blend(struct run *r, struct vae_strips *s, const struct vae_cut *c, struct tensor y,
                             bool first_row, int64_t column)
{
    int64_t h = y.shape[1], w = y.shape[2], n_h = vae_min(c->blend, h), n_w = vae_min(c->blend, w);
    struct tensor above = tensor_slice(tensor_at(s->above, 0, column), 2, 0, w);
    struct tensor left = tensor_slice(s->left, 1, 0, h);

    if (!first_row)
        op_blend(r, y, tensor_slice(above, 1, 0, s->n_above), 1, vae_min(s->n_above, n_h));
    if (column > 0)
        op_blend(r, y, tensor_slice(left, 2, 0, s->n_left), 2, vae_min(s->n_left, n_w));
    op_copy_into(r, tensor_slice(above, 1, 0, n_h), tensor_slice(y, 1, h - n_h, n_h));
    op_copy_into(r, tensor_slice(left, 2, 0, n_w), tensor_slice(y, 2, w - n_w, n_w));
    s->n_left = n_w;
}

/* x [T, H, W, C] in spatial tiles, row by row. made: what the network makes of each tile, in that order; NULL: it
 * is run here. */
static struct tensor vae_space_tiled(struct run *r, const struct vae_way *w, struct tensor x, const struct tensor *made)
{
    struct vae_cut c = vae_cut_of(w, false);
    int64_t t = vae_way_out(w, true, x.shape[0]), row = 0, column, at_y = 0, at_x, last_h = 0;
    struct tensor all =
        run_new(r, DTYPE_F32, 4,
                SHAPE(t, vae_cut_total(w, &c, x.shape[1]), vae_cut_total(w, &c, x.shape[2]), w->channels));
    size_t mark = run_mark(r), inner;
    struct vae_strips s = vae_strips_new(r, w, &c, x, t);

    inner = run_mark(r);
    for (int64_t y0 = 0; y0 < x.shape[1] && !run_failed(r); y0 += c.step, row++, at_y += c.keep) {
        struct tensor band = tensor_slice(x, 1, y0, vae_min(c.tile, x.shape[1] - y0));
        s.n_above = last_h;
        column = 0;
        at_x = 0;
        for (int64_t x0 = 0; x0 < x.shape[2] && !run_failed(r); x0 += c.step, column++, at_x += c.keep) {
            struct tensor y = made != NULL
                                  ? *made++
                                  : w->piece(r, w->net, tensor_slice(band, 2, x0, vae_min(c.tile, x.shape[2] - x0)));
            int64_t h = vae_min(c.keep, y.shape[1]), v = vae_min(c.keep, y.shape[2]);
            if (run_failed(r))
                break;
            vae_strips_blend(r, &s, &c, y, row == 0, column);
            op_copy_into(r, tensor_slice(tensor_slice(all, 1, at_y, h), 2, at_x, v),
                         tensor_slice(tensor_slice(y, 1, 0, h), 2, 0, v));
            last_h = vae_min(c.blend, y.shape[1]);
            run_rewind(r, inner);
        }
    }
    run_rewind(r, mark);
    return all;
}

static bool vae_space_is_tiled(const struct vae_way *w, struct tensor x)
{
    int64_t tile = vae_cut_of(w, false).tile;

    return x.shape[1] > tile || x.shape[2] > tile;
}

static struct tensor vae_space(struct run *r, const struct vae_way *w, struct tensor x, bool tiled,
                               const struct tensor *made)
{
    if (tiled && vae_space_is_tiled(w, x))
        return vae_space_tiled(r, w, x, made);
    return made != NULL ? made[0] : w->piece(r, w->net, x);
}

/* Height (axis 1) or width (2) of what vae_space makes of x. */
static int64_t vae_space_out(const struct vae_way *w, struct tensor x, int axis, bool tiled)
{
    struct vae_cut c = vae_cut_of(w, false);

    return tiled && vae_space_is_tiled(w, x) ? vae_cut_total(w, &c, x.shape[axis])
                                             : vae_way_out(w, false, x.shape[axis]);
}

/* Temporal tiles as they are handed out, one after the other. */
struct vae_film {
    const struct vae_way *way;
    struct vae_cut cut;
    struct tensor before; /* the end of the tile before, to blend with */
    int64_t n_before, done, max_out;
    vae_frames_fn *take;
    void *arg;
};

/* The tile that begins at input t0 and has n of them: makes out frames, keeps some. */
struct vae_reel {
    int64_t t0, n, out, keep;
};

static struct vae_film vae_film_start(struct run *r, const struct vae_way *w, struct tensor x, int64_t max_out,
                                      vae_frames_fn *take, void *arg)
{
    struct vae_film f = {.way = w, .cut = vae_cut_of(w, true), .max_out = max_out, .take = take, .arg = arg};

    f.before = run_new(r, DTYPE_F32, 4,
                       SHAPE(f.cut.blend, vae_space_out(w, x, 1, true), vae_space_out(w, x, 2, true), w->channels));
    return f;
}

/* The first tile at *t0 or behind of which something is kept, when `done` frames are out; false: no more. */
static bool vae_film_reel(const struct vae_film *f, struct tensor x, int64_t *t0, int64_t done, struct vae_reel *ret)
{
    for (; *t0 < x.shape[0] && done < f->max_out; *t0 += f->cut.step) {
        int64_t n = vae_min(f->cut.tile, x.shape[0] - *t0), out = vae_way_out(f->way, true, n) - (*t0 > 0);
        if (out < 1) /* its only frame would be dropped */
            continue;
        *ret = (struct vae_reel){*t0, n, out, vae_min(vae_min(f->cut.keep + (*t0 == 0), out), f->max_out - done)};
        *t0 += f->cut.step;
        return true;
    }
    return false;
}

/* Blends the tile and hands it to take. made as for vae_space. */
static int vae_film_next(struct run *r, struct vae_film *f, struct tensor x, const struct vae_reel *t,
                         const struct tensor *made)
{
    size_t mark = run_mark(r);
    struct tensor y;
    int rc;

    run_push(r, "frames from %lld", (long long)t->t0);
    y = vae_space(r, f->way, tensor_slice(x, 0, t->t0, t->n), true, made);
    if (run_failed(r))
        return r->err.code;
    if (t->t0 > 0) {
        y = tensor_slice(y, 0, 1, t->out);
        op_blend(r, y, tensor_slice(f->before, 0, 0, f->n_before), 0,
                 vae_min(f->n_before, vae_min(f->cut.blend, t->out)));
    }
    rc = f->take(f->arg, r, tensor_slice(y, 0, 0, t->keep));
    f->done += t->keep;
    f->n_before = vae_min(f->cut.blend, t->out);
    op_copy_into(r, tensor_slice(f->before, 0, 0, f->n_before), tensor_slice(y, 0, t->out - f->n_before, f->n_before));
    run_pop(r);
    run_rewind(r, mark);
    return rc;
}

/* The video of x [T, H, W, C] in temporal tiles, each handed to take once it is final. */
static int vae_time_tiled(struct run *r, const struct vae_way *w, struct tensor x, int64_t max_out,
                          vae_frames_fn *take, void *arg)
{
    size_t start = run_mark(r);
    struct vae_film f = vae_film_start(r, w, x, max_out, take, arg);
    struct vae_reel t;
    int64_t t0 = 0;
    int rc = 0;

    while (rc == 0 && !run_failed(r) && vae_film_reel(&f, x, &t0, f.done, &t))
        rc = vae_film_next(r, &f, x, &t, NULL);
    run_rewind(r, start);
    return run_failed(r) ? 0 : rc;
}

/* ---- encode ---- */

struct vae_collect {
    struct tensor all;
    int64_t at;
};

static int vae_collect_take(void *arg, struct run *r, struct tensor y)
{
    struct vae_collect *c = arg;

    if (run_failed(r))
        return r->err.code;
    op_copy_into(r, tensor_slice(c->all, 0, c->at, y.shape[0]), y);
    c->at += y.shape[0];
    return 0;
}

static int64_t vae_time_total(const struct vae_way *w, const struct vae_cut *c, int64_t n)
{
    int64_t sum = 0;

    for (int64_t at = 0; at < n; at += c->step)
        sum += vae_min(c->keep + (at == 0), vae_way_out(w, true, vae_min(c->tile, n - at)) - (at > 0));
    return sum;
}

struct tensor vae_encode(struct run *r, const struct vae *v, struct tensor x, bool tiled)
{
    struct vae_way w = vae_way_of(v, true);
    struct vae_cut c = vae_cut_of(&w, true);
    bool in_time = tiled && x.shape[0] > v->net.config.tile_frames;
    int64_t t = in_time ? vae_time_total(&w, &c, x.shape[0]) : vae_way_out(&w, true, x.shape[0]);
    struct vae_collect all = {0};
    size_t mark;

    all.all = run_new(r, DTYPE_F32, 4,
                      SHAPE(t, vae_space_out(&w, x, 1, tiled), vae_space_out(&w, x, 2, tiled), w.channels));
    mark = run_mark(r);
    if (in_time)
        vae_time_tiled(r, &w, x, INT64_MAX, vae_collect_take, &all);
    else
        vae_collect_take(&all, r, vae_space(r, &w, x, tiled, NULL));
    run_rewind(r, mark);
    return all.all;
}

struct tensor vae_sample(struct run *r, const struct vae *v, struct tensor moments, struct tensor noise,
                         float scale)
{
    int64_t c = v->net.config.latent_channels;
    struct tensor m = op_copy(r, tensor_permute(moments, (const int[]){3, 0, 1, 2}), DTYPE_F32);
    struct tensor mean = tensor_slice(m, 0, 0, c), logvar = tensor_slice(m, 0, c, c);

    if (m.shape[1] == 1 && noise.n_dims == 4) {
        mean.shape[1] = logvar.shape[1] = noise.shape[1];
        mean.stride[1] = logvar.stride[1] = 0;
    }
    return op_gauss(r, mean, logvar, noise, scale);
}

/* ---- tiles on several ranks ---- */

/* A tile that the network runs on: of which temporal tile, where in it, at which rank. */
struct vae_unit {
    struct tensor x; /* [T, H, W, C], a view of the input */
    struct tensor y; /* its result at rank 0 */
    int rank;
};

/* Some temporal tiles at once, so that every rank has something to do. */
struct vae_batch {
    const struct vae_way *way;
    struct vae_unit *unit; /* owned */
    struct tensor *made;   /* owned, at rank 0: the units' results in order */
    int64_t n, most, each; /* units, room for them, units of a temporal tile */
    int64_t load[COMM_MAX]; /* of each rank, in elements made, over all batches */
};

static void vae_batch_done(struct vae_batch *b)
{
    mem_free(b->unit);
    mem_free(b->made);
}

/* At least one unit for each rank, where there are so many. */
static bool vae_batch_init(struct run *r, struct vae_batch *b, const struct vae_way *w, struct tensor x, bool tiled)
{
    int64_t step = vae_cut_of(w, false).step, n = r->group->size;

    *b = (struct vae_batch){.way = w, .each = 1};
    if (tiled && vae_space_is_tiled(w, x))
        b->each = (x.shape[1] + step - 1) / step * ((x.shape[2] + step - 1) / step);
    b->most = (n + b->each - 1) / b->each * b->each;
    b->unit = mem_calloc((size_t)b->most, sizeof(*b->unit));
    b->made = mem_calloc((size_t)b->most, sizeof(*b->made));
    if (b->unit == NULL || b->made == NULL)
        run_fail(r, ERR_NOMEM, "no memory for a list of %lld tiles", (long long)b->most);
    return !run_failed(r);
}

/* The tiles of a temporal tile x. */
static void vae_batch_add(struct vae_batch *b, struct tensor x)
{
    struct vae_cut c = vae_cut_of(b->way, false);

    if (b->each == 1) {
        b->unit[b->n++].x = x;
        return;
    }
    for (int64_t y0 = 0; y0 < x.shape[1]; y0 += c.step) {
        struct tensor band = tensor_slice(x, 1, y0, vae_min(c.tile, x.shape[1] - y0));
        for (int64_t x0 = 0; x0 < x.shape[2]; x0 += c.step)
            b->unit[b->n++].x = tensor_slice(band, 2, x0, vae_min(c.tile, x.shape[2] - x0));
    }
}

static int64_t vae_unit_shape(const struct vae_way *w, struct tensor x, int64_t shape[4])
{
    shape[0] = vae_way_out(w, true, x.shape[0]);
    shape[1] = vae_way_out(w, false, x.shape[1]);
    shape[2] = vae_way_out(w, false, x.shape[2]);
    shape[3] = w->channels;
    return shape[0] * shape[1] * shape[2] * shape[3];
}

/* Each unit, in order, to the rank that had least to do until then: the same at every rank. */
static void vae_batch_assign(struct vae_batch *b, int n, int64_t count[COMM_MAX])
{
    int64_t shape[4];

    for (int i = 0; i < n; i++)
        count[i] = 0;
    for (int64_t u = 0; u < b->n; u++) {
        int least = 0;
        for (int i = 1; i < n; i++)
            least = b->load[i] < b->load[least] ? i : least;
        b->unit[u].rank = least;
        int64_t work = vae_unit_shape(b->way, b->unit[u].x, shape);
        count[least] += work;
        b->load[least] += work;
    }
}

/* Runs this rank's units; their results, one behind the other, in own. */
static void vae_batch_work(struct run *r, const struct vae_batch *b, struct tensor own)
{
    int64_t shape[4], at = 0;

    for (int64_t u = 0; u < b->n && !run_failed(r); u++) {
        size_t mark = run_mark(r);
        if (b->unit[u].rank != r->group->rank)
            continue;
        int64_t n = vae_unit_shape(b->way, b->unit[u].x, shape);
        op_copy_into(r, tensor_view(tensor_slice(own, 0, at, n), 4, shape), b->way->piece(r, b->way->net, b->unit[u].x));
        at += n;
        run_rewind(r, mark);
    }
}

/* Computes the batch and leaves the results in b->made at rank 0. */
static void vae_batch_run(struct run *r, struct vae_batch *b)
{
    const struct comm_set *set = &r->group->all;
    int64_t count[COMM_MAX], at[COMM_MAX], all = 0, shape[4];
    struct tensor room = TENSOR_NONE, own;

    comm_agree_cancel(r);
    vae_batch_assign(b, set->n, count);
    for (int i = 0; i < set->n; all += count[i++])
        at[i] = all;
    if (set->me == 0)
        room = run_new(r, DTYPE_F32, 1, SHAPE(all));
    own = run_new(r, DTYPE_F32, 1, SHAPE(count[set->me]));
    vae_batch_work(r, b, own);
    comm_gather(r, set, 0, room, count, own);
    for (int64_t u = 0; u < b->n && set->me == 0; u++) {
        int64_t n = vae_unit_shape(b->way, b->unit[u].x, shape);
        b->made[u] = tensor_view(tensor_slice(room, 0, at[b->unit[u].rank], n), 4, shape);
        at[b->unit[u].rank] += n;
    }
}

/* Temporal tiles in batches; rank 0 blends them and hands them out. */
static int vae_time_shared(struct run *r, struct vae_batch *b, struct tensor x, int64_t max_out, vae_frames_fn *take,
                           void *arg)
{
    struct vae_film f = vae_film_start(r, b->way, x, max_out, take, arg);
    struct vae_reel reel[COMM_MAX];
    int64_t t0 = 0, done = 0;
    bool more = true;
    int rc = 0, n;

    while (more && rc == 0 && !run_failed(r)) {
        size_t mark = run_mark(r);
        b->n = 0;
        for (n = 0; b->n < b->most && (more = vae_film_reel(&f, x, &t0, done, &reel[n])); done += reel[n++].keep)
            vae_batch_add(b, tensor_slice(x, 0, reel[n].t0, reel[n].n));
        if (n > 0)
            vae_batch_run(r, b);
        for (int i = 0; i < n && r->group->rank == 0 && rc == 0 && !run_failed(r); i++)
            rc = vae_film_next(r, &f, x, &reel[i], b->made + i * b->each);
        run_rewind(r, mark);
    }
    return rc;
}

static int vae_space_shared(struct run *r, struct vae_batch *b, struct tensor x, bool tiled, int64_t max,
                            vae_frames_fn *take, void *arg)
{
    struct tensor y;

    vae_batch_add(b, x);
    vae_batch_run(r, b);
    if (run_failed(r) || r->group->rank > 0)
        return 0;
    y = vae_space(r, b->way, x, tiled, b->made);
    return run_failed(r) ? 0 : take(arg, r, tensor_slice(y, 0, 0, vae_min(max, y.shape[0])));
}

/* ---- decode ---- */

static bool vae_time_is_tiled(const struct vae *v, struct tensor z, bool tiled)
{
    return tiled && z.shape[0] > v->net.config.tile_frames / v->net.config.time_ratio;
}

static int vae_decode_shared(struct run *r, const struct vae *v, struct tensor z, bool tiled, int64_t max,
                             vae_frames_fn *take, void *arg)
{
    struct vae_way w = vae_way_of(v, false);
    struct vae_batch b;
    int rc = 0;

    if (vae_batch_init(r, &b, &w, z, tiled))
        rc = vae_time_is_tiled(v, z, tiled) ? vae_time_shared(r, &b, z, max, take, arg)
                                            : vae_space_shared(r, &b, z, tiled, max, take, arg);
    vae_batch_done(&b);
    if (rc < 0)
        comm_abort(r->group->comm, rc, run_failed(r) ? r->err.text : "frames were not taken");
    return rc;
}

int vae_decode(struct run *r, const struct vae *v, struct tensor z, bool tiled, int64_t max_frames,
               vae_frames_fn *take, void *arg)
{
    struct vae_way w = vae_way_of(v, false);
    int64_t max = max_frames > 0 ? max_frames : INT64_MAX;
    size_t mark = run_mark(r);
    struct tensor y;
    int rc = 0;

    if (r->group != NULL) {
        rc = vae_decode_shared(r, v, z, tiled, max, take, arg);
    } else if (vae_time_is_tiled(v, z, tiled)) {
        rc = vae_time_tiled(r, &w, z, max, take, arg);
    } else {
        y = vae_space(r, &w, z, tiled, NULL);
        if (!run_failed(r))
            rc = take(arg, r, tensor_slice(y, 0, 0, vae_min(max, y.shape[0])));
    }
    run_rewind(r, mark);
    return run_failed(r) ? r->err.code : rc;
}

struct tensor vae_unscale(struct run *r, const struct vae *v, struct tensor latents)
{
    struct tensor z = op_copy(r, tensor_permute(latents, (const int[]){1, 2, 3, 0}), DTYPE_F32);

    op_scale(r, z, 1.0f / vae_scaling(v), 0.0f);
    return z;
}
