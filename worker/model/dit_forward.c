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

static void double_block(struct run *r, const struct dit_scene *s, const struct dit_row *row, int i,
                         struct tensor x)
{
    const struct dit *d = s->dit;
    dit_block_double(r, d, i, dit_cond_mod_image(d, &s->mods, row->mod, i),
                     dit_cond_mod_text(d, &s->mods, row->mod, i), x, s->picture.N, s->picture.cos,
                     s->picture.sin);
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

static void adapter(struct run *r, const struct dit_scene *s, const struct dit_row *row, int a,
                    struct tensor x)
{
    const struct dit_picture *p = &s->picture;
    const int64_t H = s->dit->dims.hidden, K = p->n_face;
    if (K == 0)
        return;
    const size_t mark = run_mark(r);
    struct tensor video = tensor_view(tensor_slice(x, 0, p->P, p->T * p->P), 3, SHAPE(p->T, p->P, H));
    struct tensor some = tensor_is_none(p->face) ? video : op_gather(r, video, 1, p->face);
    struct tensor kv;
    if (tensor_is_none(row->sound))
        /* A latent frame's 16 silent tokens are 4 tokens four times: the softmax over 4 is the same. */
        kv = tensor_slice(tensor_at(s->kv, 0, a), 0, s->kv.shape[1] - 1, 1);
    else
        kv = dit_cond_audio_window(r, s->dit, s->kv, a, row->sound);
    struct tensor y = dit_block_adapter(r, s->dit, a, kv, tensor_view(some, 2, SHAPE(p->T * K, H)));
    add_at_face(r, p, video, tensor_view(y, 3, SHAPE(p->T, K, H)), row->mask);
    run_rewind(r, mark);
}

void dit_forward_head(struct run *r, const struct dit_scene *s, const struct dit_row *row,
                      struct tensor latents, struct tensor x)
{
    const struct dit_picture *p = &s->picture;
    dit_block_embed(r, s->dit, p->front, p->ref, latents, image_of(s, x));
    op_copy_into(r, tensor_slice(x, 0, p->N, x.shape[0] - p->N), row->text);
    for (int i = 0; i < head_blocks(&s->dit->dims); i++)
        double_block(r, s, row, i, x);
}

void dit_forward_rest(struct run *r, const struct dit_scene *s, const struct dit_row *row, struct tensor x)
{
    const struct dit_dims *dims = &s->dit->dims;
    const struct dit_picture *p = &s->picture;
    if (dims->n_adapters)
        adapter(r, s, row, 0, x);
    for (int i = head_blocks(dims); i < dims->n_double; i++) {
        double_block(r, s, row, i, x);
        if (i % 2 && i / 2 < dims->n_adapters)
            adapter(r, s, row, i / 2, x);
    }
    for (int i = 0; i < dims->n_single - 1; i++) {
        dit_block_single(r, s->dit, i, dit_cond_mod_single(s->dit, &s->mods, row->mod, i), x, p->cos, p->sin);
        run_tap(r, x, "dit.single%d", i);
    }
}

struct tensor dit_forward_last(struct run *r, const struct dit_scene *s, const struct dit_row *row,
                               struct tensor x)
{
    const struct dit_picture *p = &s->picture;
    return dit_block_last(r, s->dit, dit_cond_mod_last(&s->mods, row->mod), x, p->P, p->cos, p->sin, p->T,
                          p->h, p->w);
}

void dit_forward_pair(struct run *r, const struct dit_scene *s, const struct dit_row rows[DIT_ROWS],
                      struct tensor latents, const struct tensor x[DIT_ROWS], struct tensor ret_v[DIT_ROWS])
{
    const bool shared = rows[0].mod == rows[1].mod;
    dit_forward_head(r, s, &rows[0], latents, x[0]);
    if (shared)
        op_copy_into(r, x[1], x[0]);
    dit_forward_rest(r, s, &rows[0], x[0]);
    ret_v[0] = dit_forward_last(r, s, &rows[0], x[0]);
    if (!shared)
        dit_forward_head(r, s, &rows[1], latents, x[1]);
    dit_forward_rest(r, s, &rows[1], x[1]);
    ret_v[1] = dit_forward_last(r, s, &rows[1], x[1]);
}
