#include "worker/model/dit_forward.h"

#include "worker/model/dit_block.h"

/* Double blocks before the first adapter. */
static int head_blocks(const struct dit_dims *s)
{
    return s->n_adapters ? 2 : s->n_double;
}

static struct tensor image_of(const struct dit_scene *s, struct tensor x)
{
    return tensor_slice(x, 0, 0, s->picture.N);
}

bool dit_forward_share(const struct run *r, const struct dit_picture *p, int64_t n_text, struct dit_share *ret)
{
    const bool shared = r->group && r->group->tokens.n > 1;
    dit_share_init(ret, shared ? &r->group->tokens : NULL, p->T, shared ? p->P_all : p->P, n_text);
    return shared;
}

/* The row's share in room, or NULL: alone. */
static const struct dit_share *share_of(const struct run *r, const struct dit_scene *s, const struct dit_row *row,
                                        struct dit_share *room)
{
    const int64_t n_text = tensor_is_none(row->text) ? row->n_text : row->text.shape[0];
    return dit_forward_share(r, &s->picture, n_text, room) ? room : NULL;
}

bool dit_forward_has_row(const struct run *r, int row)
{
    return !r->group || r->group->pair.n == 1 || r->group->pair.me == row;
}

void dit_forward_swap(struct run *r, struct tensor v[DIT_ROWS])
{
    if (!r->group || r->group->pair.n == 1)
        return;
    const struct comm_set *pair = &r->group->pair;
    const int mine = pair->me, other = 1 - mine;
    int64_t n_in[2] = {0}, n_out[2] = {0};
    n_in[other] = n_out[other] = tensor_count(v[mine]);
    v[other] = run_new(r, DTYPE_F32, v[mine].n_dims, v[mine].shape);
    comm_all_to_all(r, pair, v[other], n_in, v[mine], n_out);
}

/* ---- weights that come and go: a unit's are there from take to next, which lets those of another come up meanwhile ---- */

static void take(struct run *r, const struct dit *d, int unit)
{
    pool_take(r, d->pool, d->place.units[unit]);
}

static void next(struct run *r, const struct dit *d, int unit, int then)
{
    pool_next(r, d->pool, d->place.units[unit], d->place.units[then]);
}

/* ---- blocks ---- */

static void double_block(struct run *r, const struct dit_scene *s, const struct dit_row *row, int i,
                         struct tensor x)
{
    const struct dit *d = s->dit;
    struct dit_share room;
    dit_block_double(r, d, i, dit_cond_mod_image(d, &s->mods, row->mod, i),
                     dit_cond_mod_text(d, &s->mods, row->mod, i), x, s->picture.N, s->picture.cos,
                     s->picture.sin, share_of(r, s, row, &room));
    run_tap(r, image_of(s, x), "dit.double%d.img", i);
}

/* video [T, P, H] += mask * y [T, K, H] at the face's tokens. */
static void add_at_face(struct run *r, const struct dit_picture *p, struct tensor video, struct tensor y,
                        struct tensor mask)
{
    if (tensor_is_none(p->face)) {
        op_add_masked(r, video, y, mask);
        return;
    }
    struct tensor sum = run_new(r, DTYPE_F32, y.n_dims, y.shape);
    op_fill(r, sum, 0);
    op_add_masked(r, sum, y, mask);
    op_scatter_add(r, video, 1, p->face, sum);
}

/* Adapter a on some frames of video [frames, P, H]. kv [frames or 1, keys, 2 inner]. */
static void adapter_frames(struct run *r, const struct dit_scene *s, const struct dit_row *row, int a, struct tensor kv,
                           struct tensor video)
{
    const struct dit_picture *p = &s->picture;
    const int64_t T = video.shape[0], K = p->n_face, H = video.shape[2];
    const size_t mark = run_mark(r);
    struct tensor some = tensor_is_none(p->face) ? video : op_gather(r, video, 1, p->face);
    struct tensor y = dit_block_adapter(r, s->dit, a, kv, tensor_view(some, 2, SHAPE(T * K, H)));
    add_at_face(r, p, video, tensor_view(y, 3, SHAPE(T, K, H)), row->mask);
    run_rewind(r, mark);
}

static void adapter(struct run *r, const struct dit_scene *s, const struct dit_row *row, int a,
                    struct tensor x)
{
    const struct dit_picture *p = &s->picture;
    const int64_t H = s->dit->dims.hidden, K = p->n_face;
    if (K == 0)
        return;
    const size_t mark = run_mark(r);
    struct tensor video = tensor_view(tensor_slice(x, 0, p->P, p->T * p->P), 3, SHAPE(p->T, p->P, H));
    struct tensor kv;
    if (tensor_is_none(row->sound))
        /* A latent frame's 16 silent tokens are 4 tokens four times: the softmax over 4 is the same. */
        kv = tensor_slice(tensor_at(s->kv, 0, a), 0, s->kv.shape[1] - 1, 1);
    else
        kv = dit_cond_audio_window(r, s->dit, s->kv, a, row->sound);
    const int64_t most = s->dit->compact ? 1 : p->T;
    for (int64_t t = 0, n; t < p->T; t += n) {
        n = p->T - t < most ? p->T - t : most;
        adapter_frames(r, s, row, a, kv.shape[0] == 1 ? kv : tensor_slice(kv, 0, t, n), tensor_slice(video, 0, t, n));
    }
    run_rewind(r, mark);
}

void dit_forward_head(struct run *r, const struct dit_scene *s, const struct dit_row *row,
                      struct tensor latents, struct tensor x)
{
    const struct dit_picture *p = &s->picture;
    struct dit_share room;
    const struct dit_share *share = share_of(r, s, row, &room);
    pool_take(r, s->dit->pool, s->dit->place.front);
    dit_block_embed(r, s->dit, p->front, p->ref, latents, image_of(s, x), share);
    op_copy_into(r, tensor_slice(x, 0, p->N, x.shape[0] - p->N),
                 share ? tensor_slice(row->text, 0, share->text_at, share->n_text) : row->text);
    for (int i = 0; i < head_blocks(&s->dit->dims); i++) {
        take(r, s->dit, i);
        double_block(r, s, row, i, x);
        next(r, s->dit, i, i + 1);
    }
}

static void single_block(struct run *r, const struct dit_scene *s, const struct dit_row *row, int i, struct tensor x)
{
    const struct dit *d = s->dit;
    struct dit_share room;
    dit_block_single(r, d, i, dit_cond_mod_single(d, &s->mods, row->mod, i), x, s->picture.cos, s->picture.sin,
                     share_of(r, s, row, &room));
    run_tap(r, x, "dit.single%d", i);
}

void dit_forward_rest(struct run *r, const struct dit_scene *s, const struct dit_row *row, struct tensor x)
{
    const struct dit *d = s->dit;
    const int n_double = d->dims.n_double, last = dit_units(d) - 1;
    for (int u = head_blocks(&d->dims); u <= last; u++) {
        take(r, d, u);
        const int a = dit_adapter_before(d, u);
        if (a >= 0)
            adapter(r, s, row, a, x);
        if (u == last)
            break; /* dit_forward_last's */
        if (u < n_double)
            double_block(r, s, row, u, x);
        else
            single_block(r, s, row, u - n_double, x);
        next(r, d, u, u + 1);
    }
}

struct tensor dit_forward_last(struct run *r, const struct dit_scene *s, const struct dit_row *row,
                               struct tensor x)
{
    const struct dit_picture *p = &s->picture;
    struct dit_share room;
    pool_take(r, s->dit->pool, s->dit->place.front);
    take(r, s->dit, dit_units(s->dit) - 1);
    return dit_block_last(r, s->dit, dit_cond_mod_last(&s->mods, row->mod), x, p->P, p->cos, p->sin, p->T,
                          p->h, p->w, share_of(r, s, row, &room));
}

/* From the first adapter to the velocity; then comes the unit `then`, as likely as not. */
static struct tensor finish(struct run *r, const struct dit_scene *s, const struct dit_row *row, struct tensor x, int then)
{
    dit_forward_rest(r, s, row, x);
    struct tensor v = dit_forward_last(r, s, row, x);
    next(r, s->dit, dit_units(s->dit) - 1, then);
    return v;
}

/* Both rows here. */
static void both(struct run *r, const struct dit_scene *s, const struct dit_row rows[DIT_ROWS], struct tensor latents,
                 const struct tensor x[DIT_ROWS], struct tensor ret_v[DIT_ROWS])
{
    const bool shared = rows[0].mod == rows[1].mod;
    dit_forward_head(r, s, &rows[0], latents, x[0]);
    if (shared)
        op_copy_into(r, x[1], x[0]);
    ret_v[0] = finish(r, s, &rows[0], x[0], shared ? head_blocks(&s->dit->dims) : 0);
    if (!shared)
        dit_forward_head(r, s, &rows[1], latents, x[1]);
    ret_v[1] = finish(r, s, &rows[1], x[1], 0);
}

void dit_forward_pair(struct run *r, const struct dit_scene *s, const struct dit_row rows[DIT_ROWS],
                      struct tensor latents, const struct tensor x[DIT_ROWS], struct tensor ret_v[DIT_ROWS])
{
    if (dit_forward_has_row(r, 0) && dit_forward_has_row(r, 1)) {
        both(r, s, rows, latents, x, ret_v);
        return;
    }
    const int mine = dit_forward_has_row(r, 1);
    dit_forward_head(r, s, &rows[mine], latents, x[mine]);
    ret_v[mine] = finish(r, s, &rows[mine], x[mine], 0);
    dit_forward_swap(r, ret_v);
}
