/* clip_vision.h -- CLIP's vision tower up to its last but one layer, without the class row.
 *
 *     clip_vision_bind(&v, &binder, &config, "vision_tower.vision_model");
 *     struct tensor y = clip_vision_forward(r, &v, pixels);          u8 [336, 336, 3] -> [576, C]
 *
 * Flow (ViT-L/14 at 336: C 1024, 24 layers, 16 heads):
 *     1. (u8/255 - mean) / std; convolution 14 x 14 every 14 px, no bias      [576, C], row-major
 *     2. the class row in front; + position table; LayerNorm pre_layrnorm     [577, C]
 *     3. all layers but the last                                              [577, C]
 *     4. rows 1..576
 * The last layer and post_layernorm are not bound: nothing reads them.
 * Source: Radford et al. 2021, arXiv 2103.00020; transformers 4.45 modeling_clip.py; mean and std of the
 * avatar's data loader, not those of preprocessor_config.json.
 */
#ifndef WORKER_MODEL_CLIP_VISION_H
#define WORKER_MODEL_CLIP_VISION_H

#include "worker/model/encoder_layer.h"

struct clip_vision_config {
    int64_t size; /* pixels of a side, 336 */
    int64_t layers, heads;
    float eps;
    enum act act;
};

struct clip_vision {
    struct clip_vision_config config;
    int64_t C, F, patch, side; /* channels, MLP, pixels of a patch, patches of a side */
    struct tensor class_row, patch_w, position, norm_w, norm_b;
    struct encoder_layer *layer; /* owned; n_layers of them */
    int n_layers;                /* that are computed: one less than there are */
};

/* Dims from the checkpoint's shapes. ERR_WEIGHTS, ERR_NOMEM; missing tensors are the binder's to report. */
int clip_vision_bind(struct clip_vision *v, struct binder *b, const struct clip_vision_config *config,
                     const char *prefix, struct err *err);
void clip_vision_done(struct clip_vision *v);
/* pixels u8 [size, size, 3] -> [side^2, C] */
struct tensor clip_vision_forward(struct run *r, const struct clip_vision *v, struct tensor pixels);

#endif
