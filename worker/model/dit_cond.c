#include "worker/model/dit_cond.h"

#include <math.h>

#include "common/mem.h"
#include "worker/model/dit_block.h"
#include "worker/model/dit_share.h"

static const float LN_EPS = 1e-6f;
static const float AUDIO_EPS = 1e-5f;
static const float THETA = 256.0f;
static const float EARLY_MASK = 0.6f;
static const float MOTION_EXP = 30.0f, MOTION_POSE = 25.0f;
enum { MOTION_NUMBERS = 4 };

static struct tensor rows_of(struct tensor t, int64_t at, int64_t n)
{
    return tensor_slice(t, 0, at, n);
}

struct tensor dit_cond_embed(struct run *r, const struct dit_embedder *e, struct tensor x)
{
    return op_linear(r, op_linear(r, x, e->in.w, e->in.b, ACT_SILU), e->out.w, e->out.b, ACT_NONE);
}

/* ---- picture ---- */

struct tensor dit_cond_face(struct run *r, struct tensor face)
{
    /* "Nearest" to half the size is the latent pixel (2y, 2x). */
    struct tensor corners = op_copy(r, tensor_every(tensor_every(face, 0, 0, 2), 1, 0, 2), DTYPE_F32);
    return tensor_view(corners, 1, SHAPE(tensor_count(corners)));
}

/* The tokens whose mask is not 0. While planning all of them. */
static void find_face(struct run *r, struct tensor mask, struct dit_picture *ret)
{
    const int64_t P = mask.shape[0];
    float *value = mem_alloc((size_t)(P + 1) * sizeof(*value));
    int32_t *list = mem_alloc((size_t)(P + 1) * sizeof(*list));
    if (!value || !list) {
        run_fail(r, ERR_NOMEM, "no memory for a face mask of %lld tokens", (long long)P);
        goto out;
    }
    for (int64_t i = 0; i < P; i++)
        value[i] = 1;
    if (run_read(r, mask, value) < 0)
        goto out;
    ret->n_face = 0;
    for (int64_t i = 0; i < P; i++) {
        if (value[i] != 0)
            list[ret->n_face++] = (int32_t)i;
    }
    if (ret->n_face == 0 || ret->n_face == P)
        goto out;
    ret->face = run_write(r, list, DTYPE_I32, 1, SHAPE(ret->n_face));
    ret->mask = op_gather(r, mask, 0, ret->face);
out:
    mem_free(value);
    mem_free(list);
}

/* latents' patches, this rank's where they are shared. */
static struct tensor patches(struct run *r, const struct dit_share *share, struct tensor latents)
{
    struct tensor all = op_patchify(r, latents);
    return share->set ? dit_share_rows(r, share, all) : all;
}

/* Positions and face mask of this rank's tokens alone. */
static void keep_share(struct run *r, const struct dit_share *share, struct dit_picture *ret)
{
    if (!share->set)
        return;
    ret->cos = dit_share_rows(r, share, ret->cos);
    ret->sin = dit_share_rows(r, share, ret->sin);
    ret->mask = op_copy(r, rows_of(ret->mask, share->at, share->n), DTYPE_F32);
}

static struct tensor reference(struct run *r, const struct dit *d, int64_t n, const struct dit_share *share,
                               struct tensor latents)
{
    struct tensor tokens = run_new(r, DTYPE_F32, 2, SHAPE(n, d->dims.hidden));
    const size_t mark = run_mark(r);
    dit_block_reference(r, d, patches(r, share, latents), tokens);
    run_rewind(r, mark);
    return tokens;
}

void dit_cond_picture(struct run *r, const struct dit *d, struct tensor ref, struct tensor face,
                      struct dit_picture *ret)
{
    const struct dit_dims *s = &d->dims;
    const int64_t T = ref.shape[1], h = ref.shape[2], w = ref.shape[3], all = (h / 2) * (w / 2);
    struct dit_share share;
    dit_share_init(&share, r->group && r->group->tokens.n > 1 ? &r->group->tokens : NULL, T, all, 0);
    const int64_t P = share.n;
    *ret = (struct dit_picture){.T = T, .h = h, .w = w, .P = P, .N = (T + 1) * P, .P_all = all, .n_face = P};
    run_push(r, "picture");
    pool_take(r, d->pool, d->place.front);
    ret->front = op_linear(r, patches(r, &share, tensor_slice(ref, 1, 0, 1)), d->img_in.w, d->img_in.b, ACT_NONE);
    ret->ref = d->compact ? patches(r, &share, ref) : reference(r, d, T * P, &share, ref);
    op_rope_table(r, T + 1, h / 2, w / 2, s->rope, THETA, -1, &ret->cos, &ret->sin);
    ret->mask = dit_cond_face(r, face);
    keep_share(r, &share, ret);
    find_face(r, ret->mask, ret);
    ret->mask_early = op_copy(r, ret->mask, DTYPE_F32);
    op_scale(r, ret->mask_early, EARLY_MASK, 0);
    run_pop(r);
}

/* ---- sound ---- */

struct tensor dit_cond_audio_tokens(struct run *r, const struct dit *d, struct tensor audio)
{
    const struct dit_dims *s = &d->dims;
    const int64_t F = audio.shape[0];
    struct tensor x = tensor_view(audio, 2, SHAPE(F, s->audio));
    x = op_linear(r, x, d->audio1.w, d->audio1.b, ACT_RELU);
    x = op_linear(r, x, d->audio2.w, d->audio2.b, ACT_RELU);
    x = op_linear(r, x, d->audio3.w, d->audio3.b, ACT_NONE);
    x = tensor_view(x, 3, SHAPE(F, s->audio_tokens, s->hidden));
    return op_layer_norm(r, x, d->audio_norm.w, d->audio_norm.b, AUDIO_EPS);
}

struct tensor dit_cond_audio_kv(struct run *r, const struct dit *d, int a, struct tensor tokens)
{
    const struct dit_adapter *w = &d->adapters[a];
    struct tensor x = op_layer_norm(r, tokens, w->norm1.w, w->norm1.b, AUDIO_EPS);
    return op_linear(r, x, w->to_kv, TENSOR_NONE, ACT_NONE);
}

struct tensor dit_cond_audio(struct run *r, const struct dit *d, struct tensor audio, int64_t n)
{
    const struct dit_dims *s = &d->dims;
    if (s->n_adapters == 0)
        return TENSOR_NONE;
    run_push(r, "audio");
    pool_take(r, d->pool, d->place.prepare);
    struct tensor kv = run_new(r, DTYPE_F32, 4, SHAPE(s->n_adapters, n + 1, s->audio_tokens, 2 * s->inner));
    const size_t mark = run_mark(r);
    struct tensor x = run_new(r, DTYPE_F32, 2, SHAPE(n + 1, s->audio));
    op_copy_into(r, rows_of(x, 0, n), tensor_view(rows_of(audio, 0, n), 2, SHAPE(n, s->audio)));
    op_fill(r, rows_of(x, n, 1), 0);
    struct tensor tokens = dit_cond_audio_tokens(r, d, x);
    for (int a = 0; a < s->n_adapters; a++) {
        const size_t inner = run_mark(r);
        op_copy_into(r, tensor_at(kv, 0, a), dit_cond_audio_kv(r, d, a, tokens));
        run_rewind(r, inner);
    }
    run_rewind(r, mark);
    run_pop(r);
    return kv;
}

struct tensor dit_cond_audio_window(struct run *r, const struct dit *d, struct tensor kv_all, int a,
                                    struct tensor idx)
{
    const struct dit_dims *s = &d->dims;
    const int64_t T = idx.shape[0] / DIT_AUDIO_GROUP;
    struct tensor kv = op_gather(r, tensor_at(kv_all, 0, a), 0, idx);
    return tensor_view(kv, 3, SHAPE(T, DIT_AUDIO_GROUP * s->audio_tokens, 2 * s->inner));
}

/* ---- text ---- */

/* Attention branch of refiner block b for the first n_out tokens, before its gate: no qk-norm, no positions.
 */
static struct tensor refiner_attention(struct run *r, const struct dit *d, const struct dit_refiner *w,
                                       struct tensor x, struct tensor mask, int64_t n_out)
{
    const struct dit_dims *s = &d->dims;
    struct tensor a = op_layer_norm(r, x, w->norm1.w, w->norm1.b, LN_EPS);
    struct tensor qkv = op_linear(r, a, w->qkv.w, w->qkv.b, ACT_NONE);
    qkv = tensor_view(qkv, 5, SHAPE(1, x.shape[0], 3, s->heads, s->head));
    struct attn attn = {
        .kind = ATTN_MASK, .scale = 1.0f / sqrtf((float)s->head), .mask = rows_of(mask, 0, n_out)};
    struct tensor q = tensor_slice(tensor_at(qkv, 2, 0), 1, 0, n_out);
    struct tensor o = op_attention(r, q, tensor_at(qkv, 2, 1), tensor_at(qkv, 2, 2), attn);
    return tensor_view(o, 2, SHAPE(n_out, s->hidden));
}

/* Which key each query sees: both in the mask, and the first key always. */
static void fill_mask(uint8_t *dst, const uint8_t *mask, int64_t S)
{
    for (int64_t i = 0; i < S; i++) {
        for (int64_t j = 0; j < S; j++)
            dst[i * S + j] = (mask[i] && mask[j]) || j == 0;
    }
}

static int64_t count_mask(const uint8_t *mask, int64_t S)
{
    int64_t n = 0;
    for (int64_t i = 0; i < S; i++)
        n += mask[i] != 0;
    return n;
}

/* ret->mask on the device, and the mask as f32 weights of a mean. */
static struct tensor upload_mask(struct run *r, const uint8_t *mask, int64_t S, struct dit_text *ret)
{
    if (!mask) {
        ret->mask = run_new(r, DTYPE_U8, 2, SHAPE(S, S));
        return run_new(r, DTYPE_F32, 1, SHAPE(S));
    }
    struct tensor weights = TENSOR_NONE;
    uint8_t *host = mem_alloc((size_t)(S * S));
    float *mean = mem_alloc((size_t)S * sizeof(*mean));
    if (!host || !mean) {
        run_fail(r, ERR_NOMEM, "no memory for the mask of %lld text tokens", (long long)S);
        goto out;
    }
    fill_mask(host, mask, S);
    for (int64_t i = 0; i < S; i++)
        mean[i] = mask[i] ? 1.0f : 0.0f;
    ret->mask = run_write(r, host, DTYPE_U8, 2, SHAPE(S, S));
    weights = run_write(r, mean, DTYPE_F32, 1, SHAPE(S));
out:
    mem_free(host);
    mem_free(mean);
    return weights;
}

void dit_cond_text(struct run *r, const struct dit *d, struct tensor states, struct tensor text2,
                   const uint8_t *mask, int64_t n_valid, struct dit_text *ret)
{
    const int64_t S = states.shape[0];
    const struct dit_refiner *w = &d->refiner[0];
    *ret = (struct dit_text){.n_tokens = S, .n_valid = mask ? count_mask(mask, S) : n_valid};
    if (ret->n_valid < 1 || ret->n_valid > S) {
        run_fail(r, ERR_INVALID, "%lld of %lld text tokens are valid: at least one must be",
                 (long long)ret->n_valid, (long long)S);
        ret->n_valid = S;
    }
    run_push(r, "text");
    pool_take(r, d->pool, d->place.prepare);
    struct tensor weights = upload_mask(r, mask, S, ret);
    struct tensor mean = tensor_view(op_mean_rows(r, states, weights), 2, SHAPE(1, d->dims.text));
    ret->context = dit_cond_embed(r, &d->text_context, mean);
    ret->vector = dit_cond_embed(r, &d->vector, tensor_view(text2, 2, SHAPE(1, d->dims.text2)));
    ret->embedded = op_linear(r, states, d->text_in.w, d->text_in.b, ACT_NONE);
    ret->attended = run_new(r, DTYPE_F32, 2, SHAPE(S, d->dims.hidden));
    const size_t mark = run_mark(r);
    struct tensor o = refiner_attention(r, d, w, ret->embedded, ret->mask, S);
    op_linear_into(r, ret->attended, o, w->proj.w, w->proj.b, ACT_NONE);
    run_rewind(r, mark);
    run_pop(r);
}

static void refiner_mlp(struct run *r, const struct dit_refiner *w, struct tensor x, struct tensor gate)
{
    struct tensor a = op_layer_norm(r, x, w->norm2.w, w->norm2.b, LN_EPS);
    struct tensor f = op_linear(r, a, w->fc1.w, w->fc1.b, ACT_SILU);
    op_linear_add(r, x, f, w->fc2.w, w->fc2.b, gate);
}

struct tensor dit_cond_refine(struct run *r, const struct dit *d, const struct dit_text *t,
                              struct tensor gates, int64_t n_out)
{
    const int64_t H = d->dims.hidden;
    const struct dit_refiner *first = &d->refiner[0], *second = &d->refiner[1];
    run_push(r, "refiner");
    pool_take(r, d->pool, d->place.refiner);
    struct tensor out = run_new(r, DTYPE_F32, 2, SHAPE(n_out, H));
    const size_t mark = run_mark(r);
    struct tensor x = op_copy(r, t->embedded, DTYPE_F32);
    op_add_gated(r, x, t->attended, tensor_slice(gates, 0, 0, H));
    refiner_mlp(r, first, x, tensor_slice(gates, 0, H, H));
    struct tensor o = refiner_attention(r, d, second, x, t->mask, n_out);
    op_copy_into(r, out, rows_of(x, 0, n_out));
    op_linear_add(r, out, o, second->proj.w, second->proj.b, tensor_slice(gates, 0, 2 * H, H));
    refiner_mlp(r, second, out, tensor_slice(gates, 0, 3 * H, H));
    pool_next(r, d->pool, d->place.refiner, d->place.units[0]);
    run_rewind(r, mark);
    run_pop(r);
    return out;
}

/* ---- time ---- */

struct tensor dit_cond_time(struct run *r, const struct dit_embedder *e, const float *t, int n)
{
    return dit_cond_embed(r, e, op_timestep(r, t, n, DIT_FREQS));
}

/* x [n, H] += a's row to the first n_a rows, b's to the others. */
static void add_texts(struct run *r, struct tensor x, const struct dit_rows *rows, struct tensor a,
                      struct tensor b)
{
    const int64_t n = x.shape[0], n_a = rows->n_a < n ? rows->n_a : n;
    if (n_a > 0)
        op_add(r, rows_of(x, 0, n_a), tensor_at(a, 0, 0));
    if (n > n_a)
        op_add(r, rows_of(x, n_a, n - n_a), tensor_at(b, 0, 0));
}

static struct tensor motion(struct run *r, const struct dit *d, const struct dit_embedder *e, float value)
{
    const float t[MOTION_NUMBERS] = {value, value, value, value};
    return tensor_view(dit_cond_time(r, e, t, MOTION_NUMBERS), 1, SHAPE(d->dims.hidden));
}

struct tensor dit_cond_vec(struct run *r, const struct dit *d, const struct dit_rows *rows, double fps)
{
    const float rate[1] = {(float)fps};
    pool_take(r, d->pool, d->place.prepare);
    struct tensor vec = dit_cond_time(r, &d->time, rows->t, rows->n);
    op_add(r, vec, motion(r, d, &d->motion_exp, MOTION_EXP));
    op_add(r, vec, motion(r, d, &d->motion_pose, MOTION_POSE));
    op_add(r, vec, tensor_at(dit_cond_time(r, &d->fps, rate, 1), 0, 0));
    add_texts(r, vec, rows, rows->a ? rows->a->vector : TENSOR_NONE, rows->b ? rows->b->vector : TENSOR_NONE);
    return vec;
}

struct tensor dit_cond_gates(struct run *r, const struct dit *d, const struct dit_rows *rows, int n)
{
    const int64_t H = d->dims.hidden;
    run_push(r, "gates");
    pool_take(r, d->pool, d->place.prepare);
    struct tensor gates = run_new(r, DTYPE_F32, 2, SHAPE(n, DIT_REFINER_BLOCKS * 2 * H));
    const size_t mark = run_mark(r);
    struct tensor c = dit_cond_time(r, &d->text_time, rows->t, n);
    add_texts(r, c, rows, rows->a ? rows->a->context : TENSOR_NONE, rows->b ? rows->b->context : TENSOR_NONE);
    op_act(r, c, ACT_SILU);
    for (int i = 0; i < DIT_REFINER_BLOCKS; i++)
        op_linear_into(r, tensor_slice(gates, 1, i * 2 * H, 2 * H), c, d->refiner[i].gates.w,
                       d->refiner[i].gates.b, ACT_NONE);
    run_rewind(r, mark);
    run_pop(r);
    return gates;
}

/* Columns of the table of modulation vectors. */
static int64_t column_double(const struct dit_dims *s, int i)
{
    return 12 * s->hidden * i;
}

static int64_t column_single(const struct dit_dims *s, int i)
{
    return column_double(s, s->n_double) + 3 * s->hidden * i;
}

static void mod_into(struct run *r, struct tensor table, int64_t column, struct tensor c,
                     const struct dit_linear *w)
{
    const int64_t width = w->w.shape[0];
    op_linear_into(r, tensor_slice(table, 1, column, width), c, w->w, w->b, ACT_NONE);
}

static void mod_unit(struct run *r, const struct dit *d, int u, struct tensor c, struct tensor table)
{
    const struct dit_dims *s = &d->dims;
    if (u >= s->n_double) {
        mod_into(r, table, column_single(s, u - s->n_double), c, &d->singles[u - s->n_double].mod);
        return;
    }
    mod_into(r, table, column_double(s, u), c, &d->doubles[u].img.mod);
    mod_into(r, table, column_double(s, u) + 6 * s->hidden, c, &d->doubles[u].txt.mod);
}

void dit_cond_mods(struct run *r, const struct dit *d, struct tensor vec, int n_full, struct dit_mods *ret)
{
    const struct dit_dims *s = &d->dims;
    const int64_t n = vec.shape[0], H = s->hidden;
    run_push(r, "modulation");
    ret->last = run_new(r, DTYPE_F32, 2, SHAPE(n, 5 * H));
    ret->blocks =
        n_full ? run_new(r, DTYPE_F32, 2, SHAPE(n_full, column_single(s, s->n_single - 1))) : TENSOR_NONE;
    const size_t mark = run_mark(r);
    struct tensor c = op_copy(r, vec, DTYPE_F32);
    op_act(r, c, ACT_SILU);
    const int n_units = n_full ? dit_units(d) - 1 : 0;
    pool_take(r, d->pool, d->place.mods[0]);
    mod_into(r, ret->last, 0, c, &d->singles[s->n_single - 1].mod);
    mod_into(r, ret->last, 3 * H, c, &d->final_mod);
    pool_next(r, d->pool, d->place.mods[0], n_units ? d->place.mods[1] : -1);
    for (int u = 0; u < n_units; u++) {
        pool_take(r, d->pool, d->place.mods[1 + u]);
        mod_unit(r, d, u, rows_of(c, 0, n_full), ret->blocks);
        pool_next(r, d->pool, d->place.mods[1 + u], u + 1 < n_units ? d->place.mods[2 + u] : -1);
    }
    run_rewind(r, mark);
    run_pop(r);
}

static struct tensor vector_at(struct tensor table, int row, int64_t column, int64_t width)
{
    return tensor_slice(tensor_at(table, 0, row), 0, column, width);
}

struct tensor dit_cond_mod_image(const struct dit *d, const struct dit_mods *m, int row, int i)
{
    return vector_at(m->blocks, row, column_double(&d->dims, i), 6 * d->dims.hidden);
}

struct tensor dit_cond_mod_text(const struct dit *d, const struct dit_mods *m, int row, int i)
{
    return vector_at(m->blocks, row, column_double(&d->dims, i) + 6 * d->dims.hidden, 6 * d->dims.hidden);
}

struct tensor dit_cond_mod_single(const struct dit *d, const struct dit_mods *m, int row, int i)
{
    return vector_at(m->blocks, row, column_single(&d->dims, i), 3 * d->dims.hidden);
}

struct tensor dit_cond_mod_last(const struct dit_mods *m, int row)
{
    return tensor_at(m->last, 0, row);
}
