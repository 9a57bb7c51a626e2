#include "worker/model/dit.h"

#include "common/mem.h"

/* Every list: member, name, shape (letters are locals of the function that expands it). */
#define TOP_LINEARS(X)                                                                                       \
    X(before, "before_proj", H, H)                                                                           \
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
    X(audio3, "audio_proj.proj3", s->audio_tokens *H, s->audio_inner)                                        \
    X(final_mod, "final_layer.adaLN_modulation.1", 2 * H, H)                                                 \
    X(final, "final_layer.linear", 4 * s->channels, H)

#define STREAM_LINEARS(X)                                                                                    \
    X(mod, "mod.linear", 6 * H, H)                                                                           \
    X(qkv, "attn_qkv", 3 * H, H)                                                                             \
    X(proj, "attn_proj", H, H)                                                                               \
    X(fc1, "mlp.fc1", s->mlp, H)                                                                             \
    X(fc2, "mlp.fc2", H, s->mlp)

#define SINGLE_LINEARS(X)                                                                                    \
    X(mod, "modulation.linear", 3 * H, H)                                                                    \
    X(linear1, "linear1", 3 * H + s->mlp, H)                                                                 \
    X(linear2, "linear2", H, H + s->mlp)

#define REFINER_LINEARS(X)                                                                                   \
    X(qkv, "self_attn_qkv", 3 * H, H)                                                                        \
    X(proj, "self_attn_proj", H, H)                                                                          \
    X(fc1, "mlp.fc1", s->mlp, H)                                                                             \
    X(fc2, "mlp.fc2", H, s->mlp)                                                                             \
    X(gates, "adaLN_modulation.1", 2 * H, H)

#define REFINER "txt_in.individual_token_refiner.blocks."

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

static void bind_top(struct binder *b, struct dit *d)
{
    const struct dit_dims *s = &d->dims;
    const int64_t H = s->hidden;
    bind_patch(b, &d->img_in, "img_in", s);
    bind_patch(b, &d->ref_in, "ref_in", s);
#define X(member, name, n, k) bind_linear(b, &d->member, name, n, k);
    TOP_LINEARS(X)
#undef X
    bind_linear(b, &d->audio_norm, "audio_proj.norm", H, 0);
}

static void bind_refiner(struct binder *b, struct dit_refiner *w, int i, const struct dit_dims *s)
{
    const int64_t H = s->hidden;
    bind_part(b, &w->norm1, REFINER, i, "norm1", H, 0);
    bind_part(b, &w->norm2, REFINER, i, "norm2", H, 0);
#define X(member, name, n, k) bind_part(b, &w->member, REFINER, i, name, n, k);
    REFINER_LINEARS(X)
#undef X
}

static void bind_double(struct binder *b, struct dit_double *w, int i, const struct dit_dims *s)
{
    const int64_t H = s->hidden;
#define X(member, name, n, k) bind_part(b, &w->img.member, "double_blocks.", i, "img_" name, n, k);
    STREAM_LINEARS(X)
#undef X
#define X(member, name, n, k) bind_part(b, &w->txt.member, "double_blocks.", i, "txt_" name, n, k);
    STREAM_LINEARS(X)
#undef X
    binder_bindf(b, &w->img.q_norm, 1, SHAPE(s->head), "double_blocks.%d.img_attn_q_norm.weight", i);
    binder_bindf(b, &w->img.k_norm, 1, SHAPE(s->head), "double_blocks.%d.img_attn_k_norm.weight", i);
    binder_bindf(b, &w->txt.q_norm, 1, SHAPE(s->head), "double_blocks.%d.txt_attn_q_norm.weight", i);
    binder_bindf(b, &w->txt.k_norm, 1, SHAPE(s->head), "double_blocks.%d.txt_attn_k_norm.weight", i);
}

static void bind_single(struct binder *b, struct dit_single *w, int i, const struct dit_dims *s)
{
    const int64_t H = s->hidden;
#define X(member, name, n, k) bind_part(b, &w->member, "single_blocks.", i, name, n, k);
    SINGLE_LINEARS(X)
#undef X
    binder_bindf(b, &w->q_norm, 1, SHAPE(s->head), "single_blocks.%d.q_norm.weight", i);
    binder_bindf(b, &w->k_norm, 1, SHAPE(s->head), "single_blocks.%d.k_norm.weight", i);
}

static void bind_adapter(struct binder *b, struct dit_adapter *w, int i, const struct dit_dims *s)
{
    bind_part(b, &w->norm1, "audio_adapter_blocks.", i, "norm1", s->hidden, 0);
    bind_part(b, &w->norm2, "audio_adapter_blocks.", i, "norm2", s->hidden, 0);
    binder_bindf(b, &w->to_q, 2, SHAPE(s->inner, s->hidden), "audio_adapter_blocks.%d.to_q.weight", i);
    binder_bindf(b, &w->to_kv, 2, SHAPE(2 * s->inner, s->hidden), "audio_adapter_blocks.%d.to_kv.weight", i);
    binder_bindf(b, &w->to_out, 2, SHAPE(s->hidden, s->inner), "audio_adapter_blocks.%d.to_out.weight", i);
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

static int bind_all(struct dit *d, struct ckpt *c, struct device *device, struct err *err)
{
    const struct dit_dims *s = &d->dims;
    struct binder b;
    binder_init(&b, c, device, "transformer");
    bind_top(&b, d);
    for (int i = 0; i < DIT_REFINER_BLOCKS; i++)
        bind_refiner(&b, &d->refiner[i], i, s);
    for (int i = 0; i < s->n_double; i++)
        bind_double(&b, &d->doubles[i], i, s);
    for (int i = 0; i < s->n_single; i++)
        bind_single(&b, &d->singles[i], i, s);
    for (int i = 0; i < s->n_adapters; i++)
        bind_adapter(&b, &d->adapters[i], i, s);
    return binder_finish(&b, true, err);
}

void dit_close(struct dit *d)
{
    if (!d)
        return;
    mem_free(d->doubles);
    mem_free(d->singles);
    mem_free(d->adapters);
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
    if (!d->doubles || !d->singles || !d->adapters) {
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
