/* encoder_layer.h -- the pre-norm transformer layer that CLIP's two towers and Whisper's encoder share:
 *
 *     x += out(attention(LN1 x));  x += fc2(act(fc1(LN2 x)))
 *
 *     encoder_layer_bind(&b, &w, ENCODER_LAYER_CLIP, C, F, "text_model.encoder", i);
 *     encoder_layer_forward(r, &w, x, &kind);                        x [S, C], in place
 *
 * S rows, C channels, F width of the MLP. Weights [out, in]; Whisper's keys have no bias.
 * Source: transformers 4.45, modeling_clip.py and modeling_whisper.py.
 */
#ifndef WORKER_MODEL_ENCODER_LAYER_H
#define WORKER_MODEL_ENCODER_LAYER_H

#include "kernels/ops.h"
#include "kernels/run.h"
#include "worker/model/ckpt.h"

/* field, CLIP's name, Whisper's name ("": has none), dimensions */
#define ENCODER_LAYER(W)                                                                                     \
    W(norm1_w, "layer_norm1.weight", "self_attn_layer_norm.weight", 1, C)                                    \
    W(norm1_b, "layer_norm1.bias", "self_attn_layer_norm.bias", 1, C)                                        \
    W(q_w, "self_attn.q_proj.weight", "self_attn.q_proj.weight", 2, C, C)                                    \
    W(q_b, "self_attn.q_proj.bias", "self_attn.q_proj.bias", 1, C)                                           \
    W(k_w, "self_attn.k_proj.weight", "self_attn.k_proj.weight", 2, C, C)                                    \
    W(k_b, "self_attn.k_proj.bias", "", 1, C)                                                                \
    W(v_w, "self_attn.v_proj.weight", "self_attn.v_proj.weight", 2, C, C)                                    \
    W(v_b, "self_attn.v_proj.bias", "self_attn.v_proj.bias", 1, C)                                           \
    W(out_w, "self_attn.out_proj.weight", "self_attn.out_proj.weight", 2, C, C)                              \
    W(out_b, "self_attn.out_proj.bias", "self_attn.out_proj.bias", 1, C)                                     \
    W(norm2_w, "layer_norm2.weight", "final_layer_norm.weight", 1, C)                                        \
    W(norm2_b, "layer_norm2.bias", "final_layer_norm.bias", 1, C)                                            \
    W(fc1_w, "mlp.fc1.weight", "fc1.weight", 2, F, C)                                                        \
    W(fc1_b, "mlp.fc1.bias", "fc1.bias", 1, F)                                                               \
    W(fc2_w, "mlp.fc2.weight", "fc2.weight", 2, C, F)                                                        \
    W(fc2_b, "mlp.fc2.bias", "fc2.bias", 1, C)

struct encoder_layer {
#define W(field, ...) struct tensor field;
    ENCODER_LAYER(W)
#undef W
};

enum encoder_layer_names { ENCODER_LAYER_CLIP, ENCODER_LAYER_WHISPER };

struct encoder_layer_kind {
    int64_t heads;
    float eps;           /* of both norms */
    enum act act;        /* of the MLP */
    enum attn_kind attn; /* ATTN_FULL or ATTN_CAUSAL */
};

/* Names are prefix + ".layers." + i + "." + the list's. */
void encoder_layer_bind(struct binder *b, struct encoder_layer *w, enum encoder_layer_names names, int64_t C,
                        int64_t F, const char *prefix, int i);
void encoder_layer_forward(struct run *r, const struct encoder_layer *w, struct tensor x,
                           const struct encoder_layer_kind *kind);

#endif
