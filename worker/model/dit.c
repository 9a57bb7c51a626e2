#include "worker/model/dit.h"

#include "common/mem.h"

/* Every list: member, name, shape (letters are locals of the function that expands it). */
#define PREPARE_LINEARS(X)                                                                                   \
    X(text_in, "txt_in.input_embedder", H, s->text)                                                          \
    X(text_time.in, "txt_in.t_embedder.mlp.0", H, DIT_FREQS)                                                 \
    X(text_time.out, "txt_in.t_embedder.mlp.2", H, H)                                                        \
    X(text_context.in, "txt_in.c_embedder.linear_1", H, s->text)                                             \
    X(text_context.out, "txt_in.c_embedder.linear_2", H, H)                                                  \
    X(time.in, "time_in.mlp.0", H, DIT_FREQS)                                                                \
    X(time.out, "time_in.mlp.2", H, H)                                                                       \
    X(vector.in, "vector_in.in_layer", H, s->text2)                                                          \
    X(vector.out, "vector_in.out_layer", H, H)                                                               \
    X(motion_exp.in, "motion_exp.mlp.0", H / 4, DIT_FREQS)                                                   \
    X(motion_exp.out, "motion_exp.mlp.2", H / 4, H / 4)                                                      \
    X(motion_pose.in, "motion_pose.mlp.0", H / 4, DIT_FREQS)                                                 \
    X(motion_pose.out, "motion_pose.mlp.2", H / 4, H / 4)                                                    \
    X(fps.in, "fps_proj.mlp.0", H, DIT_FREQS)                                                                \
    X(fps.out, "fps_proj.mlp.2", H, H)                                                                       \
    X(audio1, "audio_proj.proj1", s->audio_inner, s->audio)                                                  \
    X(audio2, "audio_proj.proj2", s->audio_inner, s->audio_inner)                                            \
    X(audio3, "audio_proj.proj3", s->audio_tokens *H, s->audio_inner)

#define STREAM_LINEARS(X)                                                                                    \
    X(qkv, "attn_qkv", 3 * H, H)                                                                             \
    X(proj, "attn_proj", H, H)                                                                               \
    X(fc1, "mlp.fc1", s->mlp, H)                                                                             \
    X(fc2, "mlp.fc2", H, s->mlp)

#define SINGLE_LINEARS(X)                                                                                    \
    X(linear1, "linear1", 3 * H + s->mlp, H)                                                                 \
    X(linear2, "linear2", H, H + s->mlp)

#define REFINER "txt_in.individual_token_refiner.blocks."
#define DOUBLE "double_blocks."
#define SINGLE "single_blocks."
#define ADAPTER "audio_adapter_blocks."

int dit_units(const struct dit *d)
{
    return d->dims.n_double + d->dims.n_single;
}

int dit_adapter_before(const struct dit *d, int unit)
{
    const int a = unit / 2 - 1;
    return unit % 2 == 0 && unit <= d->dims.n_double && a < d->dims.n_adapters ? a : -1;
}

/* prefix.weight [n, k] and prefix.bias [n]; k = 0: a norm's, [n] both. */
static void bind_linear(struct binder *b, struct dit_linear *l, const char *prefix, int64_t n, int64_t k)
{
    binder_bindf(b, &l->w, k ? 2 : 1, SHAPE(n, k), "%s.weight", prefix);
    binder_bindf(b, &l->b, 1, SHAPE(n), "%s.bias", prefix);
}

static void bind_part(struct binder *b, struct dit_linear *l, const char *prefix, int i, const char *name,
                      int64_t n, int64_t k)
{
    binder_bindf(b, &l->w, k ? 2 : 1, SHAPE(n, k), "%s%d.%s.weight", prefix, i, name);
    binder_bindf(b, &l->b, 1, SHAPE(n), "%s%d.%s.bias", prefix, i, name);
}

/* A 1x2x2 convolution of stride 1x2x2 is a linear layer over patches. */
static void bind_patch(struct binder *b, struct dit_linear *l, const char *prefix, const struct dit_dims *s)
{
    binder_bindf(b, &l->w, 5, SHAPE(s->hidden, s->channels, 1, 2, 2), "%s.proj.weight", prefix);
    binder_bindf(b, &l->b, 1, SHAPE(s->hidden), "%s.proj.bias", prefix);
    l->w = tensor_view(l->w, 2, SHAPE(s->hidden, 4 * s->channels));
}

static void bind_front(struct binder *b, struct dit *d)
{
    const struct dit_dims *s = &d->dims;
    const int64_t H = s->hidden;
    bind_patch(b, &d->img_in, "img_in", s);
    bind_patch(b, &d->ref_in, "ref_in", s);
    bind_linear(b, &d->before, "before_proj", H, H);
    bind_linear(b, &d->final, "final_layer.linear", 4 * s->channels, H);
}

/* The refiner's first attention and all its gates do not depend on the latents; the rest is dit_cond_refine's. */
static void bind_attention(struct binder *b, struct dit_refiner *w, int i, int64_t H)
{
    bind_part(b, &w->norm1, REFINER, i, "norm1", H, 0);
    bind_part(b, &w->qkv, REFINER, i, "self_attn_qkv", 3 * H, H);
    bind_part(b, &w->proj, REFINER, i, "self_attn_proj", H, H);
}

static void bind_prepare(struct binder *b, struct dit *d)
{
    const struct dit_dims *s = &d->dims;
    const int64_t H = s->hidden;
#define X(member, name, n, k) bind_linear(b, &d->member, name, n, k);
    PREPARE_LINEARS(X)
#undef X
    bind_linear(b, &d->audio_norm, "audio_proj.norm", H, 0);
    bind_attention(b, &d->refiner[0], 0, H);
    for (int i = 0; i < DIT_REFINER_BLOCKS; i++)
        bind_part(b, &d->refiner[i].gates, REFINER, i, "adaLN_modulation.1", 2 * H, H);
    for (int a = 0; a < s->n_adapters; a++) {
        bind_part(b, &d->adapters[a].norm1, ADAPTER, a, "norm1", H, 0);
        binder_bindf(b, &d->adapters[a].to_kv, 2, SHAPE(2 * s->inner, H), ADAPTER "%d.to_kv.weight", a);
    }
}

static void bind_refiner(struct binder *b, struct dit *d)
{
    const struct dit_dims *s = &d->dims;
    const int64_t H = s->hidden;
    bind_attention(b, &d->refiner[1], 1, H);
    for (int i = 0; i < DIT_REFINER_BLOCKS; i++) {
        bind_part(b, &d->refiner[i].norm2, REFINER, i, "norm2", H, 0);
        bind_part(b, &d->refiner[i].fc1, REFINER, i, "mlp.fc1", s->mlp, H);
        bind_part(b, &d->refiner[i].fc2, REFINER, i, "mlp.fc2", H, s->mlp);
    }
}

static void bind_double(struct binder *b, struct dit_double *w, int i, const struct dit_dims *s)
{
    const int64_t H = s->hidden;
#define X(member, name, n, k) bind_part(b, &w->img.member, DOUBLE, i, "img_" name, n, k);
    STREAM_LINEARS(X)
#undef X
#define X(member, name, n, k) bind_part(b, &w->txt.member, DOUBLE, i, "txt_" name, n, k);
    STREAM_LINEARS(X)
#undef X
    binder_bindf(b, &w->img.q_norm, 1, SHAPE(s->head), DOUBLE "%d.img_attn_q_norm.weight", i);
    binder_bindf(b, &w->img.k_norm, 1, SHAPE(s->head), DOUBLE "%d.img_attn_k_norm.weight", i);
    binder_bindf(b, &w->txt.q_norm, 1, SHAPE(s->head), DOUBLE "%d.txt_attn_q_norm.weight", i);
    binder_bindf(b, &w->txt.k_norm, 1, SHAPE(s->head), DOUBLE "%d.txt_attn_k_norm.weight", i);
}

static void bind_single(struct binder *b, struct dit_single *w, int i, const struct dit_dims *s)
{
    const int64_t H = s->hidden;
#define X(member, name, n, k) bind_part(b, &w->member, SINGLE, i, name, n, k);
    SINGLE_LINEARS(X)
#undef X
    binder_bindf(b, &w->q_norm, 1, SHAPE(s->head), SINGLE "%d.q_norm.weight", i);
    binder_bindf(b, &w->k_norm, 1, SHAPE(s->head), SINGLE "%d.k_norm.weight", i);
}

static void bind_adapter(struct binder *b, struct dit_adapter *w, int i, const struct dit_dims *s)
{
    bind_part(b, &w->norm2, ADAPTER, i, "norm2", s->hidden, 0);
    binder_bindf(b, &w->to_q, 2, SHAPE(s->inner, s->hidden), ADAPTER "%d.to_q.weight", i);
    binder_bindf(b, &w->to_out, 2, SHAPE(s->hidden, s->inner), ADAPTER "%d.to_out.weight", i);
}

/* A binder_layer_fn: the adapter before the unit, if there is one, and the unit. */
static void bind_unit(struct binder *b, void *arg, int u)
{
    struct dit *d = arg;
    const struct dit_dims *s = &d->dims;
    const int a = dit_adapter_before(d, u);
    if (a >= 0)
        bind_adapter(b, &d->adapters[a], a, s);
    if (u < s->n_double)
        bind_double(b, &d->doubles[u], u, s);
    else
        bind_single(b, &d->singles[u - s->n_double], u - s->n_double, s);
}

/* The same for mods. */
static void bind_mod(struct binder *b, void *arg, int i)
{
    struct dit *d = arg;
    const struct dit_dims *s = &d->dims;
    const int64_t H = s->hidden;
    const int u = i == 0 ? dit_units(d) - 1 : i - 1;
    if (i == 0)
        bind_linear(b, &d->final_mod, "final_layer.adaLN_modulation.1", 2 * H, H);
    if (u < s->n_double) {
        bind_part(b, &d->doubles[u].img.mod, DOUBLE, u, "img_mod.linear", 6 * H, H);
        bind_part(b, &d->doubles[u].txt.mod, DOUBLE, u, "txt_mod.linear", 6 * H, H);
    } else {
        bind_part(b, &d->singles[u - s->n_double].mod, SINGLE, u - s->n_double, "modulation.linear", 3 * H, H);
    }
}

/* name, dimension, where it goes: each must be there and not zero before anything can be bound. */
#define DIM_SOURCES(X)                                                                                       \
    X("img_in.proj.weight", 0, hidden)                                                                       \
    X("img_in.proj.weight", 1, channels)                                                                     \
    X("double_blocks.0.img_attn_q_norm.weight", 0, head)                                                     \
    X("double_blocks.0.img_mlp.fc1.weight", 0, mlp)                                                          \
    X("txt_in.input_embedder.weight", 1, text)                                                               \
    X("vector_in.in_layer.weight", 1, text2)                                                                 \
    X("audio_proj.proj1.weight", 0, audio_inner)                                                             \
    X("audio_proj.proj1.weight", 1, audio)

static int read_dims(struct dit_dims *s, const struct ckpt *c, struct err *err)
{
#define X(name, dim, member)                                                                                 \
    s->member = ckpt_dim(c, name, dim);                                                                      \
    if (s->member < 1)                                                                                       \
        return err_set(err, ERR_WEIGHTS, "transformer: the checkpoint has no %s", name);
    DIM_SOURCES(X)
#undef X
    s->audio_tokens = ckpt_dim(c, "audio_proj.proj3.weight", 0) / s->hidden;
    s->n_double = ckpt_count_blocks(c, "double_blocks.");
    s->n_single = ckpt_count_blocks(c, "single_blocks.");
    s->n_adapters = ckpt_count_blocks(c, "audio_adapter_blocks.");
    s->inner = s->n_adapters ? ckpt_dim(c, "audio_adapter_blocks.0.to_q.weight", 0) : 1;
    s->heads = s->hidden / s->head;
    s->rope[0] = (int)(s->head / 8);
    s->rope[1] = s->rope[2] = (int)(s->head * 7 / 16);
    if (s->heads * s->head != s->hidden || s->head % 16 || s->hidden % 4)
        return err_set(err, ERR_WEIGHTS,
                       "transformer: a width of %lld with heads of %lld (a multiple of 16 that divides "
                       "it) is not possible",
                       (long long)s->hidden, (long long)s->head);
    if (s->n_single < 1 || s->audio_tokens < 1 || s->inner < 1)
        return err_set(err, ERR_WEIGHTS,
                       "transformer: the checkpoint has no single_blocks, audio_proj.proj3 or "
                       "audio_adapter_blocks.0.to_q");
    if (2 * s->n_adapters > s->n_double)
        return err_set(err, ERR_WEIGHTS,
                       "transformer: %d audio_adapter_blocks do not fit %d double_blocks (one after "
                       "every second)",
                       s->n_adapters, s->n_double);
    return 0;
}

/* The weights' places: front, then two slots that all others take in turn, or lie across. Staged: all but modulation and blocks
 * is with the front, and these two lie over each other. */
static int bind_all(struct dit *d, struct ckpt *c, struct device *device, struct err *err)
{
    const bool is_streamed = ckpt_place(c)->pool && ckpt_place(c)->is_streamed;
    struct dit_places *p = &d->place;
    struct binder b;
    size_t odd, end;
    binder_init(&b, c, device, "transformer");
    d->pool = ckpt_place(c)->pool;
    p->front = p->prepare = p->refiner = b.block;
    bind_front(&b, d);
    const size_t behind = binder_end(&b);
    if (is_streamed)
        p->prepare = binder_block(&b, "preparation", behind);
    bind_prepare(&b, d);
    if (!is_streamed)
        bind_refiner(&b, d);
    const size_t slots = is_streamed ? behind : binder_end(&b);
    binder_block(&b, "blocks", slots);
    odd = slots;
    binder_slots(&b, "block", dit_units(d), &odd, bind_unit, d, p->units, &end);
    if (is_streamed) {
        p->refiner = binder_block(&b, "refiner", odd);
        bind_refiner(&b, d);
    }
    binder_block(&b, "modulation", slots);
    odd = slots;
    binder_slots(&b, "modulation", dit_units(d), &odd, bind_mod, d, p->mods, &end);
    return binder_finish(&b, true, err);
}

void dit_close(struct dit *d)
{
    if (!d)
        return;
    mem_free(d->doubles);
    mem_free(d->singles);
    mem_free(d->adapters);
    mem_free(d->place.mods);
    mem_free(d->place.units);
    mem_free(d);
}

void dit_set_compact(struct dit *d, bool on)
{
    d->compact = on;
}

int dit_open(struct dit **ret, struct ckpt *c, struct device *device, struct err *err)
{
    struct dit_dims dims = {0};
    int rc = read_dims(&dims, c, err);
    if (rc < 0)
        return rc;
    struct dit *d = mem_zalloc(sizeof(*d));
    if (!d)
        return err_set(err, ERR_NOMEM, "transformer: no memory for its table of weights");
    d->dims = dims;
    d->doubles = mem_calloc((size_t)dims.n_double + 1, sizeof(*d->doubles));
    d->singles = mem_calloc((size_t)dims.n_single + 1, sizeof(*d->singles));
    d->adapters = mem_calloc((size_t)dims.n_adapters + 1, sizeof(*d->adapters));
    d->place.mods = mem_calloc((size_t)dit_units(d), sizeof(*d->place.mods));
    d->place.units = mem_calloc((size_t)dit_units(d), sizeof(*d->place.units));
    if (!d->doubles || !d->singles || !d->adapters || !d->place.mods || !d->place.units) {
        rc = err_set(err, ERR_NOMEM, "transformer: no memory for its table of weights");
        goto out;
    }
    rc = bind_all(d, c, device, err);
    if (rc < 0)
        goto out;
    *ret = d;
    d = NULL;
out:
    dit_close(d);
    return rc;
}
