#include "worker/model/encoder_layer.h"

#include <math.h>

void encoder_layer_bind(struct binder *b, struct encoder_layer *w, enum encoder_layer_names names, int64_t C,
                        int64_t F, const char *prefix, int i)
{
    *w = (struct encoder_layer){0};
#define W(field, clip, whisper, n_dims, ...)                                                                 \
    {                                                                                                        \
        const char *name = names == ENCODER_LAYER_CLIP ? clip : whisper;                                     \
        if (*name)                                                                                           \
            binder_bindf(b, &w->field, n_dims, SHAPE(__VA_ARGS__), "%s.layers.%d.%s", prefix, i, name);             \
    }
    ENCODER_LAYER(W)
#undef W
}

/* x += out(attention(LN1 x)) */
static void attend(struct run *r, const struct encoder_layer *w, struct tensor x,
                   const struct encoder_layer_kind *kind)
{
    size_t mark = run_mark(r);
    int64_t S = x.shape[0], C = x.shape[1], D = C / kind->heads;
    const int64_t split[4] = {1, S, kind->heads, D};
    struct tensor h = op_layer_norm(r, x, w->norm1_w, w->norm1_b, kind->eps);
    struct tensor q = op_linear(r, h, w->q_w, w->q_b, ACT_NONE); /* [S, C] */
    struct tensor k = op_linear(r, h, w->k_w, w->k_b, ACT_NONE);
    struct tensor v = op_linear(r, h, w->v_w, w->v_b, ACT_NONE);
    struct attn a = {.kind = kind->attn, .scale = 1 / sqrtf((float)D)};
    struct tensor y =
        op_attention(r, tensor_view(q, 4, split), tensor_view(k, 4, split), tensor_view(v, 4, split), a);
    op_linear_add(r, x, tensor_view(y, 2, SHAPE(S, C)), w->out_w, w->out_b, TENSOR_NONE);
    run_rewind(r, mark);
}

void encoder_layer_forward(struct run *r, const struct encoder_layer *w, struct tensor x,
                           const struct encoder_layer_kind *kind)
{
    attend(r, w, x, kind);
    size_t mark = run_mark(r);
    struct tensor h = op_layer_norm(r, x, w->norm2_w, w->norm2_b, kind->eps);
    h = op_linear(r, h, w->fc1_w, w->fc1_b, kind->act); /* [S, F] */
    op_linear_add(r, x, h, w->fc2_w, w->fc2_b, TENSOR_NONE);
    run_rewind(r, mark);
}
