#include "worker/model/clip_text.h"

#include "common/mem.h"
#include "worker/model/model_config.h"

/* field, name, dimensions */
#define CLIP_TEXT(W)                                                                                         \
    W(token, "text_model.embeddings.token_embedding.weight", 2, V, C)                                        \
    W(position, "text_model.embeddings.position_embedding.weight", 2, S, C)                                  \
    W(norm_w, "text_model.final_layer_norm.weight", 1, C)                                                    \
    W(norm_b, "text_model.final_layer_norm.bias", 1, C)

struct clip_text {
    struct clip_text_config config;
    int64_t C, F, S, V; /* channels, MLP, longest text, vocabulary */
    struct tensor token, position, norm_w, norm_b;
    struct encoder_layer *layer; /* owned; config.layers of them */
};

static int fill(struct model_config *c, struct clip_text_config *ret)
{
    model_config_enter(c, "text_config");
    struct clip_text_config config = {
        .layers = model_config_int(c, "num_hidden_layers", 12, 1, 1000),
        .heads = model_config_int(c, "num_attention_heads", 8, 1, 1024),
        .end_id = model_config_int(c, "eos_token_id", 49407, 0, INT32_MAX),
        .eps = model_config_real(c, "layer_norm_eps", 1e-5, 0, 1),
        .act = model_config_act(c, "hidden_act", ACT_QUICK_GELU),
    };
    int rc = model_config_done(c);
    if (rc == 0)
        *ret = config;
    return rc;
}

int clip_text_config_read(struct clip_text_config *ret, const char *path, struct err *err)
{
    struct model_config c;
    model_config_read(&c, path, err);
    return fill(&c, ret);
}

int clip_text_config_parse(struct clip_text_config *ret, const char *text, size_t len, struct err *err)
{
    struct model_config c;
    model_config_parse(&c, text, len, err);
    return fill(&c, ret);
}

static void bind_all(struct clip_text *m, struct binder *b)
{
    /* Of the whole CLIP's file; the projection is not applied to the pooled row. */
    static const char *const ignored[] = {"vision_model.", "visual_projection.", "text_projection.",
                                          "logit_scale", "text_model.embeddings.position_ids"};
    const int64_t C = m->C, S = m->S, V = m->V;
#define W(field, name, n_dims, ...) binder_bind(b, &m->field, name, n_dims, SHAPE(__VA_ARGS__));
    CLIP_TEXT(W)
#undef W
    for (int i = 0; i < (int)m->config.layers; i++)
        encoder_layer_bind(b, &m->layer[i], ENCODER_LAYER_CLIP, C, m->F, "text_model.encoder", i);
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        bind_ignore(b, ignored[i]);
}

int clip_text_open(struct clip_text **ret, const struct clip_text_config *config, struct ckpt *c,
                   struct device *device, struct err *err)
{
    struct clip_text *m = mem_zalloc(sizeof *m);
    if (!m)
        return err_set(err, ERR_NOMEM, "text model: no memory");
    m->config = *config;
    m->V = ckpt_dim(c, "text_model.embeddings.token_embedding.weight", 0);
    m->C = ckpt_dim(c, "text_model.embeddings.token_embedding.weight", 1);
    m->S = ckpt_dim(c, "text_model.embeddings.position_embedding.weight", 0);
    m->F = ckpt_dim(c, "text_model.encoder.layers.0.mlp.fc1.weight", 0);
    m->layer = mem_calloc((size_t)config->layers, sizeof *m->layer);
    int rc =
        m->layer ? 0 : err_set(err, ERR_NOMEM, "text model: no memory for %d layers", (int)config->layers);
    if (rc == 0 && (m->C < 1 || m->S < 1 || m->F < 1 || m->C % config->heads != 0))
        rc = err_set(err, ERR_WEIGHTS,
                     "text model: %lld channels, MLP %lld, %lld positions and %lld heads do not make one",
                     (long long)m->C, (long long)m->F, (long long)m->S, (long long)config->heads);
    if (rc == 0) {
        struct binder b;
        binder_init(&b, c, device, "text model");
        bind_all(m, &b);
        rc = binder_finish(&b, true, err);
    }
    if (rc < 0)
        clip_text_close(m);
    else
        *ret = m;
    return rc;
}

void clip_text_close(struct clip_text *m)
{
    if (!m)
        return;
    mem_free(m->layer);
    mem_free(m);
}

int64_t clip_text_width(const struct clip_text *m)
{
    return m->C;
}

int clip_text_rows(const struct clip_text *m, const int32_t *ids, int n)
{
    int at = 0;
    if (m->config.end_id == 2) {
        for (int i = 1; i < n; i++)
            at = ids[i] > ids[at] ? i : at;
        return at + 1;
    }
    while (at < n && ids[at] != m->config.end_id)
        at++;
    return at < n ? at + 1 : n;
}

struct tensor clip_text_pooled(struct run *r, const struct clip_text *m, const int32_t *ids, int n)
{
    const struct encoder_layer_kind kind = {m->config.heads, m->config.eps, m->config.act, ATTN_CAUSAL};
    run_push(r, "clip text");
    if (n < 1 || n > m->S)
        run_fail(r, ERR_SHAPE, "%d ids; 1 to %lld are allowed", n, (long long)m->S);
    const int S = n < 1 || n > m->S ? 1 : ids ? clip_text_rows(m, ids, n) : n;
    struct tensor pooled = run_new(r, DTYPE_F32, 2, SHAPE(1, m->C));
    size_t mark = run_mark(r);
    struct tensor x = op_gather(r, m->token, 0, run_write(r, ids, DTYPE_I32, 1, SHAPE(S))); /* [S, C] */
    op_add(r, x, op_copy(r, tensor_slice(m->position, 0, 0, S), DTYPE_F32));
    run_tap(r, x, "mid.hidden0");
    for (int i = 0; i < (int)m->config.layers; i++) {
        run_push(r, "layer %d", i);
        encoder_layer_forward(r, &m->layer[i], x, &kind);
        run_pop(r);
        run_tap(r, x, "mid.hidden%d", i + 1);
    }
    op_copy_into(r, pooled,
                 op_layer_norm(r, tensor_slice(x, 0, S - 1, 1), m->norm_w, m->norm_b, m->config.eps));
    run_rewind(r, mark);
    run_pop(r);
    return tensor_view(pooled, 1, SHAPE(m->C));
}
