#include "worker/model/dit_block.h"

#include <math.h>

/* CHUNK: rows of an MLP that are in flight at once: bounds its scratch, [CHUNK, 5H] floats. GROUPS: parts into which the
 * heads are cut where memory counts. */
enum { CHUNK = 4096, GROUPS = 6 };

static const float LN_EPS = 1e-6f;
static const float RMS_EPS = 1e-6f;
static const float AUDIO_EPS = 1e-5f;

/* What a slice of rows is projected to: n parts of [heads, D] each, some of them normed and turned. */
struct projection {
    struct tensor w, b;    /* [n parts * H, H], [n parts * H] */
    struct tensor norm[3]; /* [D] or none: that part is left as it is */
    int n_parts;
};

/* Tokens and what projects them. */
struct source {
    const struct projection *p;
    struct tensor x, mod, cos, sin;
};

/* Heads next to each other. */
struct span {
    int64_t first, n;
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

/* y [n, n_parts h.n D] = a projected to these heads. */
static void project_heads(struct run *r, const struct dit_dims *s, const struct projection *p, struct span h,
                          struct tensor y, struct tensor a)
{
    const int64_t n = h.n * s->head;
    if (h.n == s->heads) {
        op_linear_into(r, y, a, p->w, p->b, ACT_NONE);
        return;
    }
    for (int i = 0; i < p->n_parts; i++) {
        const int64_t at = i * s->hidden + h.first * s->head;
        op_linear_into(r, tensor_slice(y, 1, i * n, n), a, rows(p->w, at, n), rows(p->b, at, n), ACT_NONE);
    }
}

/* dst [S, n_parts h.n D] = projection of LN(x) modulated by mod's shift and scale; RMS norm and rope on the parts
 * that have a norm. */
static void project(struct run *r, const struct dit_dims *s, const struct source *o, struct span h, struct tensor dst)
{
    const struct projection *p = o->p;
    for (int64_t at = 0, n; at < o->x.shape[0]; at += n) {
        n = piece(at, o->x.shape[0]);
        const size_t mark = run_mark(r);
        struct tensor a =
            op_layer_norm_mod(r, rows(o->x, at, n), part(o->mod, s->hidden, 0), part(o->mod, s->hidden, 1), LN_EPS);
        struct tensor y = rows(dst, at, n);
        project_heads(r, s, p, h, y, a);
        struct tensor parts = tensor_view(y, 4, SHAPE(n, p->n_parts, h.n, s->head));
        for (int i = 0; i < p->n_parts; i++) {
            if (!tensor_is_none(p->norm[i]))
                op_norm_rope(r, tensor_at(parts, 1, i), p->norm[i], RMS_EPS, positions(o->cos, at, n),
                             positions(o->sin, at, n));
        }
        run_rewind(r, mark);
    }
}

/* The tokens of n sources, one behind the other, as [S, parts, heads of the span, D]. */
static struct tensor project_all(struct run *r, const struct dit_dims *s, const struct source *o, int n, struct span h)
{
    const int64_t parts = o[0].p->n_parts, width = parts * h.n * s->head;
    int64_t S = 0, at = 0;
    for (int i = 0; i < n; i++)
        S += o[i].x.shape[0];
    struct tensor all = run_new(r, DTYPE_F32, 2, SHAPE(S, width));
    for (int i = 0; i < n; at += o[i++].x.shape[0])
        project(r, s, &o[i], h, rows(all, at, o[i].x.shape[0]));
    return tensor_view(all, 4, SHAPE(S, parts, h.n, s->head));
}

/* Tokens that attend: n sources. queries NULL: they are the first of three parts of the sources; otherwise one source of
 * queries, and the others have keys and values alone. */
struct tokens {
    const struct source *queries, *source;
    int n;
};

static struct tensor attend_span(struct run *r, const struct dit_dims *s, const struct dit_share *share,
                                 const struct tokens *t, struct span h)
{
    const int64_t *n = share ? share->rows : NULL, *n_q = share ? share->video : NULL;
    struct tensor q = t->queries ? project_all(r, s, t->queries, 1, h) : TENSOR_NONE;
    struct tensor kv = project_all(r, s, t->source, t->n, h);
    return t->queries ? dit_share_attend(r, s, share, q, n_q, kv, 0, n) : dit_share_attend(r, s, share, kv, n, kv, 1, n);
}

/* Attention of the tokens, [S, H]: all heads at once, or some after the others. */
static struct tensor attend(struct run *r, const struct dit *d, const struct dit_share *share, const struct tokens *t)
{
    const struct dit_dims *s = &d->dims;
    if (!d->compact || share)
        return attend_span(r, s, share, t, (struct span){0, s->heads});
    int64_t S = t->queries ? t->queries->x.shape[0] : 0;
    for (int i = 0; !t->queries && i < t->n; i++)
        S += t->source[i].x.shape[0];
    struct tensor o = run_new(r, DTYPE_F32, 2, SHAPE(S, s->hidden));
    const int64_t most = (s->heads + GROUPS - 1) / GROUPS;
    for (struct span h = {0, most}; h.first < s->heads; h.first += h.n) {
        const size_t mark = run_mark(r);
        h.n = s->heads - h.first < most ? s->heads - h.first : most;
        op_copy_into(r, tensor_slice(o, 1, h.first * s->head, h.n * s->head), attend_span(r, s, NULL, t, h));
        run_rewind(r, mark);
    }
    return o;
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

void dit_block_reference(struct run *r, const struct dit *d, struct tensor patches, struct tensor dst)
{
    struct tensor tokens = op_linear(r, patches, d->ref_in.w, d->ref_in.b, ACT_NONE);
    op_linear_into(r, dst, tokens, d->before.w, d->before.b, ACT_NONE);
}

/* video [T P, H] = the reference's tokens, from their patches. */
static void embed_reference(struct run *r, const struct dit *d, struct tensor patches, struct tensor video)
{
    for (int64_t at = 0, n; at < video.shape[0]; at += n) {
        n = piece(at, video.shape[0]);
        const size_t mark = run_mark(r);
        dit_block_reference(r, d, rows(patches, at, n), rows(video, at, n));
        run_rewind(r, mark);
    }
}

void dit_block_embed(struct run *r, const struct dit *d, struct tensor front, struct tensor ref,
                     struct tensor latents, struct tensor image, const struct dit_share *share)
{
    const int64_t P = front.shape[0];
    struct tensor video = rows(image, P, image.shape[0] - P);
    const size_t mark = run_mark(r);
    op_copy_into(r, rows(image, 0, P), front);
    if (d->compact)
        embed_reference(r, d, ref, video);
    else
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
    const struct dit_double *w = &d->doubles[i];
    const int64_t M = x.shape[0];
    struct tensor img = rows(x, 0, n_image), txt = rows(x, n_image, M - n_image);
    run_push(r, "double %d", i);
    const size_t mark = run_mark(r);
    const struct projection p_img = stream_projection(&w->img), p_txt = stream_projection(&w->txt);
    const struct source both[2] = {{&p_img, img, mod_img, cos, sin}, {&p_txt, txt, mod_txt, TENSOR_NONE, TENSOR_NONE}};
    struct tensor o = attend(r, d, share, &(struct tokens){.source = both, .n = 2});
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
    const struct dit_single *w = &d->singles[i];
    const int64_t M = x.shape[0], H = d->dims.hidden;
    run_push(r, "single %d", i);
    const size_t mark = run_mark(r);
    const struct projection p = {.w = rows(w->linear1.w, 0, 3 * H),
                                 .b = rows(w->linear1.b, 0, 3 * H),
                                 .norm = {w->q_norm, w->k_norm},
                                 .n_parts = 3};
    const struct source all = {&p, x, mod, cos, sin};
    struct tensor o = attend(r, d, share, &(struct tokens){.source = &all, .n = 1});
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
    const int64_t H = s->hidden, V = T * (share ? share->n : (h / 2) * (w / 2));
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
    struct tensor tokens = run_new(r, DTYPE_F32, 2, SHAPE(V, 4 * s->channels));
    const struct source video = {&to_q, rows(x, first, V), mod, rows(cos, first, V), rows(sin, first, V)};
    const struct source all = {&to_kv, x, mod, cos, sin};
    struct tensor o = attend(r, d, share, &(struct tokens){.queries = &video, .source = &all, .n = 1});
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
