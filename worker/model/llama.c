#include "worker/model/llama.h"

#include <math.h>

#include "common/mem.h"
#include "common/str.h"

static int64_t dim_of(const struct binder *b, const char *prefix, const char *name, int dim)
{
    char full[256];
    return str_format(full, sizeof full, "%s.%s", prefix, name) < 0 ? 0 : ckpt_dim(b->ckpt, full, dim);
}

struct layers {
    struct llama *m;
    const char *prefix;
};

/* A binder_layer_fn. */
static void bind_layer(struct binder *b, void *arg, int i)
{
    const struct layers *l = arg;
    struct llama *m = l->m;
    const char *prefix = l->prefix;
    const int64_t H = m->H, F = m->F, Q = m->D * m->config.heads, K = m->D * m->config.key_heads;
    struct llama_layer *w = &m->layer[i];
    char name[256];
#define W(field, text, n_dims, ...)                                                                          \
    binder_bindf(b, &w->field, n_dims, SHAPE(__VA_ARGS__), "%s.layers.%d." text, prefix, i);
    LLAMA_LAYER(W)
#undef W
    str_format(name, sizeof name, "%s.layers.%d.self_attn.rotary_emb.", prefix,
               i); /* a constant of older files */
    bind_ignore(b, name);
}

int llama_bind(struct llama *m, struct binder *b, const struct llama_config *config, const char *prefix,
               int n_unused, struct err *err)
{
    char name[256];
    *m = (struct llama){.config = *config, .n_layers = (int)config->layers - n_unused};
    if (m->config.key_heads == 0)
        m->config.key_heads = config->heads;
    m->V = dim_of(b, prefix, "embed_tokens.weight", 0);
    m->H = dim_of(b, prefix, "embed_tokens.weight", 1);
    m->F = dim_of(b, prefix, "layers.0.mlp.gate_proj.weight", 0);
    m->D = dim_of(b, prefix, "layers.0.self_attn.q_proj.weight", 0) / config->heads;
    if (m->V < 1 || m->H < 1 || m->F < 1 || m->D < 2 || m->D % 2 || m->n_layers < 1 ||
        config->heads % m->config.key_heads)
        return err_set(err, ERR_WEIGHTS,
                       "%s: vocabulary %lld, hidden %lld, MLP %lld, %lld heads of %lld, %lld key heads, "
                       "%lld layers do not make a language model",
                       prefix, (long long)m->V, (long long)m->H, (long long)m->F, (long long)config->heads,
                       (long long)m->D, (long long)m->config.key_heads, (long long)config->layers);
    m->pool = ckpt_place(b->ckpt)->pool;
    m->layer = mem_calloc((size_t)m->n_layers, sizeof *m->layer);
    m->place = mem_calloc((size_t)m->n_layers, sizeof *m->place);
    if (!m->layer || !m->place)
        return err_set(err, ERR_NOMEM, "%s: no memory for %d layers", prefix, m->n_layers);
    str_format(name, sizeof name, "%s.embed_tokens.weight", prefix);
    binder_host(b, &m->token, name, 2, SHAPE(m->V, m->H));
    size_t at = 0, end;
    binder_slots(b, "llama", m->n_layers, &at, bind_layer, &(struct layers){m, prefix}, m->place, &end);
    for (int i = m->n_layers; i < (int)config->layers; i++) {
        str_format(name, sizeof name, "%s.layers.%d.", prefix, i);
        bind_ignore(b, name);
    }
    str_format(name, sizeof name, "%s.norm.", prefix);
    bind_ignore(b, name);
    str_format(name, sizeof name, "%s.rotary_emb.", prefix); /* a constant, of the whole model in later files */
    bind_ignore(b, name);
    return 0;
}

void llama_done(struct llama *m)
{
    mem_free(m->layer);
    mem_free(m->place);
    *m = (struct llama){0};
}

static struct tensor split(struct tensor x, int64_t heads)
{
    return tensor_view(x, 3, SHAPE(tensor_rows(x), heads, tensor_dim(x, -1) / heads));
}

static struct tensor batch(struct tensor x)
{
    return tensor_view(x, 4, SHAPE(1, tensor_dim(x, 0), tensor_dim(x, 1), tensor_dim(x, 2)));
}

/* q [Sq, heads, D] are the rows from n - Sq (or n + 1 - Sq with the pad) on; k, v [n, key heads, D] -> [Sq,
 * heads D] */
static struct tensor attend(struct run *r, struct tensor q, struct tensor k, struct tensor v, bool pad)
{
    struct attn a = {.kind = ATTN_CAUSAL, .scale = 1 / sqrtf((float)tensor_dim(q, 2))};
    const int64_t real = tensor_dim(q, 0) - pad, width = tensor_dim(q, 1) * tensor_dim(q, 2);
    struct tensor y = op_attention(r, batch(tensor_slice(q, 0, 0, real)), batch(k), batch(v), a);
    y = tensor_view(y, 2, SHAPE(real, width));
    if (!pad)
        return y;
    a.kind = ATTN_FULL;
    struct tensor last = op_attention(r, batch(tensor_slice(q, 0, real, 1)), batch(k), batch(v), a);
    struct tensor both[2] = {y, tensor_view(last, 2, SHAPE(1, width))};
    return op_concat(r, both, 2, 0);
}

/* One layer on x [S, H] in place; rows before `from` only give keys and values. pos i32 [S]. */
static void layer(struct run *r, const struct llama *m, const struct llama_layer *w, struct tensor x,
                  struct tensor pos, int64_t n, int64_t from)
{
    const struct llama_config *c = &m->config;
    const int64_t S = x.shape[0];
    struct tensor rest = tensor_slice(x, 0, from, S - from);
    size_t mark = run_mark(r);
    struct tensor h = op_rms_norm(r, x, w->norm1, c->eps);
    struct tensor real = tensor_slice(h, 0, 0, n);
    struct tensor q =
        split(op_linear(r, tensor_slice(h, 0, from, S - from), w->q, TENSOR_NONE, ACT_NONE), c->heads);
    struct tensor k = split(op_linear(r, real, w->k, TENSOR_NONE, ACT_NONE), c->key_heads);
    struct tensor v = split(op_linear(r, real, w->v, TENSOR_NONE, ACT_NONE), c->key_heads);
    op_rope_halves(r, q, tensor_slice(pos, 0, from, S - from), c->theta);
    op_rope_halves(r, k, tensor_slice(pos, 0, 0, n), c->theta);
    op_linear_add(r, rest, attend(r, q, k, v, S > n), w->o, TENSOR_NONE, TENSOR_NONE);
    run_rewind(r, mark);

    h = op_rms_norm(r, rest, w->norm2, c->eps);
    struct tensor gate = op_linear(r, h, w->gate, TENSOR_NONE, ACT_NONE); /* [S - from, F] */
    struct tensor up = op_linear(r, h, w->up, TENSOR_NONE, ACT_NONE);
    op_act_mul(r, gate, up, ACT_SILU);
    op_linear_add(r, rest, gate, w->down, TENSOR_NONE, TENSOR_NONE);
    run_rewind(r, mark);
}

/* 0..n-1, and 1 for the pad. */
static struct tensor positions(struct run *r, int64_t S, int64_t n)
{
    int32_t *pos = mem_alloc((size_t)S * sizeof *pos);
    if (!pos)
        run_fail(r, ERR_NOMEM, "no memory for %lld positions", (long long)S);
    for (int64_t i = 0; pos && i < S; i++)
        pos[i] = i < n ? (int32_t)i : 1;
    struct tensor t = run_write(r, pos, DTYPE_I32, 1, SHAPE(S));
    mem_free(pos);
    return t;
}

struct tensor llama_embed(struct run *r, const struct llama *m, const int32_t *ids, int n)
{
    const size_t width = (size_t)m->H * dtype_bytes(m->token.dtype);
    float *rows = mem_calloc((size_t)n * (size_t)m->H, sizeof *rows);
    if (!rows)
        run_fail(r, ERR_NOMEM, "no memory for the embeddings of %d tokens", n);
    for (int i = 0; rows && m->token.data && ids && i < n; i++) {
        if (ids[i] < 0 || ids[i] >= m->V) {
            run_fail(r, ERR_INVALID, "token %d is %d: the model knows those from 0 to %lld", i, ids[i], (long long)m->V - 1);
            break;
        }
        dtype_read_f32(rows + i * m->H, (const char *)m->token.data + (size_t)ids[i] * width, m->token.dtype, m->H,
                       m->token.scale ? m->token.scale[0] : 1);
    }
    struct tensor t = run_write(r, rows, DTYPE_F32, 2, SHAPE(n, m->H));
    mem_free(rows);
    return t;
}

struct tensor llama_forward(struct run *r, const struct llama *m, struct tensor x, int64_t n, int64_t n_skip)
{
    if (x.n_dims != 2 || n < 1 || (x.shape[0] != n && x.shape[0] != n + 1) || n_skip < 0 || n_skip >= n) {
        run_fail(r, ERR_SHAPE, "%lld real rows and %lld to skip do not fit the rows given", (long long)n,
                 (long long)n_skip);
        return TENSOR_NONE;
    }
    size_t mark = run_mark(r);
    struct tensor pos = positions(r, x.shape[0], n);
    run_tap(r, x, "mid.hidden0");
    for (int i = 0; i < m->n_layers; i++) {
        run_push(r, "llama %d", i);
        pool_take(r, m->pool, m->place[i]);
        layer(r, m, &m->layer[i], x, pos, n, i + 1 == m->n_layers ? n_skip : 0);
        pool_next(r, m->pool, m->place[i], i + 1 < m->n_layers ? m->place[i + 1] : -1);
        run_pop(r);
        run_tap(r, x, "mid.hidden%d", i + 1);
    }
    run_rewind(r, mark);
    return tensor_slice(x, 0, n_skip, x.shape[0] - n_skip);
}
