/* llama.h -- Llama-3's layers up to the one whose output is wanted: no final norm, no logits, no cache of
 * keys.
 *
 *     llama_bind(&m, &binder, &config, "language_model.model", 2, err);          all layers but the last 2
 *     struct tensor y = llama_forward(r, &m, x, n, n_skip);                      x [S, H] is overwritten
 *
 * Flow of a layer (8B: H 4096, 32 query and 8 key heads of 128, MLP 14336):
 *     x += o(attention(rope(q(RMS x)), rope(k(RMS x)), v(RMS x)));  x += down(silu(gate(RMS x)) * up(RMS x))
 * Rows [0, n) are real: causal, positions 0..n-1. A row behind them is *the* pad: position 1, it sees all
 * real rows, not itself, and nobody sees it. (Every pad row of a padded prompt is this one row: same
 * embedding, same position, same visible keys.) The first n_skip rows are not wanted: in the last layer they
 * give only keys and values.
 *
 * Source: Llama 3, arXiv 2407.21783; transformers 4.45 modeling_llama.py.
 */
#ifndef WORKER_MODEL_LLAMA_H
#define WORKER_MODEL_LLAMA_H

#include "kernels/ops.h"
#include "kernels/pool.h"
#include "kernels/run.h"
#include "worker/model/ckpt.h"

/* field, name, dimensions: H hidden, Q width of all queries, K of all keys, F MLP */
#define LLAMA_LAYER(W)                                                                                       \
    W(norm1, "input_layernorm.weight", 1, H)                                                                 \
    W(q, "self_attn.q_proj.weight", 2, Q, H)                                                                 \
    W(k, "self_attn.k_proj.weight", 2, K, H)                                                                 \
    W(v, "self_attn.v_proj.weight", 2, K, H)                                                                 \
    W(o, "self_attn.o_proj.weight", 2, H, Q)                                                                 \
    W(norm2, "post_attention_layernorm.weight", 1, H)                                                        \
    W(gate, "mlp.gate_proj.weight", 2, F, H)                                                                 \
    W(up, "mlp.up_proj.weight", 2, F, H)                                                                     \
    W(down, "mlp.down_proj.weight", 2, H, F)

struct llama_layer {
#define W(field, ...) struct tensor field;
    LLAMA_LAYER(W)
#undef W
};

struct llama_config {
    int64_t layers, heads;
    int64_t key_heads; /* 0: as many as heads */
    float eps, theta;
};

struct llama {
    struct llama_config config;
    int64_t H, F, V, D;        /* hidden, MLP, vocabulary, width of a head */
    struct tensor token;       /* [V, H] in host memory: few of its rows are read, once */
    struct llama_layer *layer; /* owned; n_layers of them */
    int n_layers;              /* that are computed */
    struct pool *pool;         /* borrowed; NULL: all weights are there */
    int *place;                /* owned: blocks of the pool, one a layer; not streamed: all the same one */
};

/* Dims from the checkpoint's shapes; the last n_unused layers, the norm and the head are known and not bound.
 * ERR_WEIGHTS, ERR_NOMEM; missing tensors are the binder's to report. */
int llama_bind(struct llama *m, struct binder *b, const struct llama_config *config, const char *prefix,
               int n_unused, struct err *err);
void llama_done(struct llama *m);

/* Rows of the tokens' embeddings: f32 [n, H]. ids NULL: planning. */
struct tensor llama_embed(struct run *r, const struct llama *m, const int32_t *ids, int n);
/* x [S, H], S = n or n + 1 (with the pad row last) -> rows [n_skip, S) of the last computed layer, a view of
 * x. Tap "mid.hidden<k>": x after k layers. */
struct tensor llama_forward(struct run *r, const struct llama *m, struct tensor x, int64_t n, int64_t n_skip);

#endif
