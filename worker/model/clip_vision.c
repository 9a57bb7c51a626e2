#include "worker/model/clip_vision.h"

#include "common/mem.h"
#include "common/str.h"

/* field, name, dimensions */
#define CLIP_VISION(W)                                                                                       \
    W(class_row, "embeddings.class_embedding", 1, C)                                                         \
    W(patch_w, "embeddings.patch_embedding.weight", 4, C, 3, patch, patch)                                   \
    W(position, "embeddings.position_embedding.weight", 2, side *side + 1, C)                                \
    W(norm_w, "pre_layrnorm.weight", 1, C)                                                                   \
    W(norm_b, "pre_layrnorm.bias", 1, C)

static const float pixel_mean[3] = {0.48145466f, 0.4578275f, 0.4082107f};
static const float pixel_std[3] = {0.26862954f, 0.26130258f, 0.27577711f};

static int64_t dim_of(const struct binder *b, const char *prefix, const char *name, int dim)
{
    char full[256];
    return str_format(full, sizeof full, "%s.%s", prefix, name) < 0 ? 0 : ckpt_dim(b->ckpt, full, dim);
}

/* The last layer and what follows it. */
static void ignore(struct binder *b, const char *prefix, int64_t last)
{
    char name[256];
    str_format(name, sizeof name, "%s.encoder.layers.%lld.", prefix, (long long)last);
    bind_ignore(b, name);
    str_format(name, sizeof name, "%s.post_layernorm.", prefix);
    bind_ignore(b, name);
    str_format(name, sizeof name, "%s.embeddings.position_ids", prefix);
    bind_ignore(b, name);
}

int clip_vision_bind(struct clip_vision *v, struct binder *b, const struct clip_vision_config *config,
                     const char *prefix, struct err *err)
{
    char layers[256];
    const int64_t C = dim_of(b, prefix, "embeddings.class_embedding", 0);
    const int64_t patch = dim_of(b, prefix, "embeddings.patch_embedding.weight", 2);
    const int64_t F = dim_of(b, prefix, "encoder.layers.0.mlp.fc1.weight", 0);
    const int64_t side = patch > 0 ? config->size / patch : 0;

    *v = (struct clip_vision){.config = *config, .C = C, .F = F, .patch = patch, .side = side};
    if (C < 1 || F < 1 || side < 1 || C % config->heads != 0 || config->layers < 2)
        return err_set(err, ERR_WEIGHTS,
                       "%s: %lld channels, MLP %lld, patches of %lld px, %lld heads, %lld layers do not "
                       "make a vision tower",
                       prefix, (long long)C, (long long)F, (long long)patch, (long long)config->heads,
                       (long long)config->layers);
    v->n_layers = (int)config->layers - 1;
    v->layer = mem_calloc((size_t)v->n_layers, sizeof *v->layer);
    if (!v->layer)
        return err_set(err, ERR_NOMEM, "%s: no memory for %d layers", prefix, v->n_layers);
#define W(field, name, n_dims, ...) binder_bindf(b, &v->field, n_dims, SHAPE(__VA_ARGS__), "%s." name, prefix);
    CLIP_VISION(W)
#undef W
    str_format(layers, sizeof layers, "%s.encoder", prefix);
    for (int i = 0; i < v->n_layers; i++)
        encoder_layer_bind(b, &v->layer[i], ENCODER_LAYER_CLIP, C, F, layers, i);
    ignore(b, prefix, v->n_layers);
    return 0;
}

void clip_vision_done(struct clip_vision *v)
{
    mem_free(v->layer);
    *v = (struct clip_vision){0};
}

/* pixels -> [side^2 + 1, C], normalised */
static struct tensor embed(struct run *r, const struct clip_vision *v, struct tensor pixels)
{
    const int64_t C = v->C, n = v->side * v->side, p = v->patch, size = v->config.size;
    const struct conv every = {.stride = {1, (int)p, (int)p}};
    struct tensor x = op_normalize(r, pixels, 255, pixel_mean, pixel_std);
    x = op_conv(r, tensor_view(x, 4, SHAPE(1, size, size, 3)),
                tensor_view(v->patch_w, 5, SHAPE(C, 3, 1, p, p)), TENSOR_NONE, &every);
    struct tensor rows[2] = {op_copy(r, tensor_view(v->class_row, 2, SHAPE(1, C)), DTYPE_F32),
                             tensor_view(x, 2, SHAPE(n, C))};
    x = op_concat(r, rows, 2, 0);
    op_add(r, x, op_copy(r, v->position, DTYPE_F32));
    return op_layer_norm(r, x, v->norm_w, v->norm_b, v->config.eps);
}

struct tensor clip_vision_forward(struct run *r, const struct clip_vision *v, struct tensor pixels)
{
    const struct encoder_layer_kind kind = {v->config.heads, v->config.eps, v->config.act, ATTN_FULL};
    const int64_t n = v->side * v->side;
    struct tensor y = run_new(r, DTYPE_F32, 2, SHAPE(n + 1, v->C));
    size_t mark = run_mark(r);
    run_push(r, "vision");
    op_copy_into(r, y, embed(r, v, pixels));
    run_rewind(r, mark);
    run_tap(r, y, "mid.embeddings");
    for (int i = 0; i < v->n_layers; i++) {
        run_push(r, "layer %d", i);
        encoder_layer_forward(r, &v->layer[i], y, &kind);
        run_pop(r);
    }
    run_pop(r);
    return tensor_slice(y, 0, 1, n);
}
