#include "worker/model/dit_block.h"

#include <math.h>

/* Rows of an MLP that are in flight at once: bounds its scratch, [CHUNK, 5H] floats. */
enum { CHUNK = 4096 };

static const float LN_EPS = 1e-6f;
static const float RMS_EPS = 1e-6f;
static const float AUDIO_EPS = 1e-5f;

/* What a slice of rows is projected to: n parts of [heads, D] each, some of them normed and turned. */
struct projection {
    struct tensor w, b;    /* [n parts * H, H], [n parts * H] */
    struct tensor norm[3]; /* [D] or none: that part is left as it is */
    int n_parts;
};

static int64_t piece(int64_t at, int64_t end)
{
    return end - at < CHUNK ? end - at : CHUNK;
}

static struct tensor rows(struct tensor t, int64_t at, int64_t n)
{
    return tensor_slice(t, 0, at, n);
}

/* Part i of a vector of parts, H wide each. */
static struct tensor part(struct tensor mod, int64_t H, int i)
{
    return tensor_slice(mod, 0, i * H, H);
}

/* The rows of a position table that belong to rows [at, at + n) of its tokens; none where they are past its
 * end. */
static struct tensor positions(struct tensor table, int64_t at, int64_t n)
{
    const int64_t left = tensor_is_none(table) ? 0 : table.shape[0] - at;
    return left > 0 ? rows(table, at, left < n ? left : n) : TENSOR_NONE;
}

/* dst [S, n_parts H] = projection of LN(x) modulated by mod's shift and scale; RMS norm and rope on the parts
 * that have a norm. */
static void project(struct run *r, const struct dit *d, const struct projection *p, struct tensor dst,
                    struct tensor x, struct tensor mod, struct tensor cos, struct tensor sin)
{
    const struct dit_dims *s = &d->dims;
    for (int64_t at = 0, n; at < x.shape[0]; at += n) {
        n = piece(at, x.shape[0]);
        const size_t mark = run_mark(r);
        struct tensor a =
            op_layer_norm_mod(r, rows(x, at, n), part(mod, s->hidden, 0), part(mod, s->hidden, 1), LN_EPS);
        struct tensor y = rows(dst, at, n);
        op_linear_into(r, y, a, p->w, p->b, ACT_NONE);
        struct tensor parts = tensor_view(y, 4, SHAPE(n, p->n_parts, s->heads, s->head));
        for (int i = 0; i < p->n_parts; i++) {
            if (!tensor_is_none(p->norm[i]))
                op_norm_rope(r, tensor_at(parts, 1, i), p->norm[i], RMS_EPS, positions(cos, at, n),
                             positions(sin, at, n));
        }
        run_rewind(r, mark);
    }
}

/* A projected buffer [S, n_parts H] by part and head. */
static struct tensor heads_of(const struct dit_dims *s, struct tensor projected, int n_parts)
{
    return tensor_view(projected, 4, SHAPE(projected.shape[0], n_parts, s->heads, s->head));
}

/* Attention of all tokens, q, k and v side by side. */
static struct tensor attend(struct run *r, const struct dit_dims *s, const struct dit_share *share, struct tensor qkv)
{
    const int64_t *n = share ? share->rows : NULL;
    struct tensor t = heads_of(s, qkv, 3);
    return dit_share_attend(r, s, share, t, n, t, 1, n);
}

/* x += gate fc2(gelu(fc1(LN(x) (1 + scale) + shift))), row by row, so in pieces. */
static void double_mlp(struct run *r, const struct dit_stream *w, struct tensor mod, struct tensor x)
{
    const int64_t H = x.shape[1];
    for (int64_t at = 0, n; at < x.shape[0]; at += n) {
        n = piece(at, x.shape[0]);
        const size_t mark = run_mark(r);
        struct tensor y = rows(x, at, n);
        struct tensor a = op_layer_norm_mod(r, y, part(mod, H, 3), part(mod, H, 4), LN_EPS);
        struct tensor f = op_linear(r, a, w->fc1.w, w->fc1.b, ACT_GELU_TANH);
        op_linear_add(r, y, f, w->fc2.w, w->fc2.b, part(mod, H, 5));
        run_rewind(r, mark);
    }
}

static struct projection stream_projection(const struct dit_stream *w)
{
    return (struct projection){.w = w->qkv.w, .b = w->qkv.b, .norm = {w->q_norm, w->k_norm}, .n_parts = 3};
}

static void stream_end(struct run *r, const struct dit_stream *w, struct tensor mod, struct tensor x,
                       struct tensor o)
{
    if (x.shape[0] == 0)
        return;
    op_linear_add(r, x, o, w->proj.w, w->proj.b, part(mod, x.shape[1], 2));
    double_mlp(r, w, mod, x);
}

void dit_block_embed(struct run *r, const struct dit *d, struct tensor front, struct tensor ref,
                     struct tensor latents, struct tensor image, const struct dit_share *share)
{
    const int64_t P = front.shape[0];
    struct tensor video = rows(image, P, image.shape[0] - P);
    const size_t mark = run_mark(r);
    op_copy_into(r, rows(image, 0, P), front);
    op_copy_into(r, video, ref);
    struct tensor patches = op_patchify(r, latents);
    if (share)
        patches = dit_share_rows(r, share, patches);
    op_linear_add(r, video, patches, d->img_in.w, d->img_in.b, TENSOR_NONE);
    run_rewind(r, mark);
}

void dit_block_double(struct run *r, const struct dit *d, int i, struct tensor mod_img, struct tensor mod_txt,
                      struct tensor x, int64_t n_image, struct tensor cos, struct tensor sin,
                      const struct dit_share *share)
{
    const struct dit_dims *s = &d->dims;
    const struct dit_double *w = &d->doubles[i];
    const int64_t M = x.shape[0];
    struct tensor img = rows(x, 0, n_image), txt = rows(x, n_image, M - n_image);
    run_push(r, "double %d", i);
    const size_t mark = run_mark(r);
    struct tensor qkv = run_new(r, DTYPE_F32, 2, SHAPE(M, 3 * s->hidden));
    const struct projection p_img = stream_projection(&w->img), p_txt = stream_projection(&w->txt);
    project(r, d, &p_img, rows(qkv, 0, n_image), img, mod_img, cos, sin);
    project(r, d, &p_txt, rows(qkv, n_image, M - n_image), txt, mod_txt, TENSOR_NONE, TENSOR_NONE);
    struct tensor o = attend(r, s, share, qkv);
    stream_end(r, &w->img, mod_img, img, rows(o, 0, n_image));
    stream_end(r, &w->txt, mod_txt, txt, rows(o, n_image, M - n_image));
    run_rewind(r, mark);
    run_pop(r);
}

struct tensor dit_block_adapter(struct run *r, const struct dit *d, int a, struct tensor kv,
                                struct tensor video)
{
    const struct dit_dims *s = &d->dims;
    const struct dit_adapter *w = &d->adapters[a];
    const int64_t D = s->inner, n = video.shape[0], keys = kv.shape[1];
    const int64_t B = kv.shape[0]; /* 1: all frames' queries against the same keys */
    run_push(r, "adapter %d", a);
    struct tensor y = run_new(r, DTYPE_F32, 2, video.shape);
    const size_t mark = run_mark(r);
    struct tensor q = op_linear(r, op_layer_norm(r, video, w->norm2.w, w->norm2.b, AUDIO_EPS), w->to_q,
                                TENSOR_NONE, ACT_NONE);
    struct tensor heads = tensor_view(kv, 4, SHAPE(B, keys, 1, 2 * D));
    struct attn attn = {.kind = ATTN_FULL, .scale = 1.0f / sqrtf((float)D)};
    struct tensor o = op_attention(r, tensor_view(q, 4, SHAPE(B, n / B, 1, D)), tensor_slice(heads, 3, 0, D),
                                   tensor_slice(heads, 3, D, D), attn);
    op_linear_into(r, y, tensor_view(o, 2, SHAPE(n, D)), w->to_out, TENSOR_NONE, ACT_NONE);
    run_rewind(r, mark);
    run_pop(r);
    return y;
}

/* y += gate linear2([o, gelu(mlp part of linear1(LN(y) modulated))]) for a piece of rows. */
static void single_end(struct run *r, const struct dit *d, const struct dit_single *w, struct tensor mod,
                       struct tensor y, struct tensor o)
{
    const int64_t H = d->dims.hidden, F = d->dims.mlp;
    struct tensor both = run_new(r, DTYPE_F32, 2, SHAPE(y.shape[0], H + F));
    op_copy_into(r, tensor_slice(both, 1, 0, H), o);
    struct tensor a = op_layer_norm_mod(r, y, part(mod, H, 0), part(mod, H, 1), LN_EPS);
    op_linear_into(r, tensor_slice(both, 1, H, F), a, rows(w->linear1.w, 3 * H, F),
                   rows(w->linear1.b, 3 * H, F), ACT_GELU_TANH);
    op_linear_add(r, y, both, w->linear2.w, w->linear2.b, part(mod, H, 2));
}

void dit_block_single(struct run *r, const struct dit *d, int i, struct tensor mod, struct tensor x,
                      struct tensor cos, struct tensor sin, const struct dit_share *share)
{
    const struct dit_dims *s = &d->dims;
    const struct dit_single *w = &d->singles[i];
    const int64_t M = x.shape[0], H = s->hidden;
    run_push(r, "single %d", i);
    const size_t mark = run_mark(r);
    const struct projection p = {.w = rows(w->linear1.w, 0, 3 * H),
                                 .b = rows(w->linear1.b, 0, 3 * H),
                                 .norm = {w->q_norm, w->k_norm},
                                 .n_parts = 3};
    struct tensor qkv = run_new(r, DTYPE_F32, 2, SHAPE(M, 3 * H));
    project(r, d, &p, qkv, x, mod, cos, sin);
    struct tensor o = attend(r, s, share, qkv);
    for (int64_t at = 0, n; at < M; at += n) {
        n = piece(at, M);
        const size_t inner = run_mark(r);
        single_end(r, d, w, mod, rows(x, at, n), rows(o, at, n));
        run_rewind(r, inner);
    }
    run_rewind(r, mark);
    run_pop(r);
}

void dit_block_final(struct run *r, const struct dit *d, struct tensor mod, struct tensor x,
                     struct tensor dst)
{
    const int64_t H = d->dims.hidden;
    struct tensor a = op_layer_norm_mod(r, x, part(mod, H, 0), part(mod, H, 1), LN_EPS);
    op_linear_into(r, dst, a, d->final.w, d->final.b, ACT_NONE);
}

struct tensor dit_block_last(struct run *r, const struct dit *d, struct tensor mod, struct tensor x,
                             int64_t first, struct tensor cos, struct tensor sin, int64_t T, int64_t h,
                             int64_t w, const struct dit_share *share)
{
    const struct dit_dims *s = &d->dims;
    const struct dit_single *last = &d->singles[s->n_single - 1];
    const int64_t H = s->hidden, M = x.shape[0], V = T * (share ? share->n : (h / 2) * (w / 2));
    const struct projection to_q = {.w = rows(last->linear1.w, 0, H),
                                    .b = rows(last->linear1.b, 0, H),
                                    .norm = {last->q_norm},
                                    .n_parts = 1};
    const struct projection to_kv = {.w = rows(last->linear1.w, H, 2 * H),
                                     .b = rows(last->linear1.b, H, 2 * H),
                                     .norm = {last->k_norm},
                                     .n_parts = 2};
    run_push(r, "single %d", s->n_single - 1);
    struct tensor out = run_new(r, DTYPE_F32, 4, SHAPE(s->channels, T, h, w));
    const size_t mark = run_mark(r);
    struct tensor q = run_new(r, DTYPE_F32, 2, SHAPE(V, H)), kv = run_new(r, DTYPE_F32, 2, SHAPE(M, 2 * H));
    struct tensor tokens = run_new(r, DTYPE_F32, 2, SHAPE(V, 4 * s->channels));
    project(r, d, &to_q, q, rows(x, first, V), mod, rows(cos, first, V), rows(sin, first, V));
    project(r, d, &to_kv, kv, x, mod, cos, sin);
    struct tensor o = dit_share_attend(r, s, share, heads_of(s, q, 1), share ? share->video : NULL, heads_of(s, kv, 2), 0,
                                       share ? share->rows : NULL);
    for (int64_t at = 0, n; at < V; at += n) {
        n = piece(at, V);
        const size_t inner = run_mark(r);
        struct tensor y = op_copy(r, rows(x, first + at, n), DTYPE_F32);
        single_end(r, d, last, mod, y, rows(o, at, n));
        dit_block_final(r, d, tensor_slice(mod, 0, 3 * H, 2 * H), y, rows(tokens, at, n));
        run_rewind(r, inner);
    }
    if (share)
        tokens = dit_share_tokens(r, share, tokens);
    op_copy_into(r, out, op_unpatchify(r, tokens, T, h, w));
    run_rewind(r, mark);
    run_pop(r);
    return out;
}
