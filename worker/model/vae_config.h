/* vae_config.h -- what vae/config.json says about the 3-D causal VAE.
 *
 *     struct vae_config c;
 *     if ((rc = vae_config_read("ckpts/hunyuan-video-t2v-720p/vae/config.json", &c, err)) < 0) ...
 *
 * Source: the published folder's config.json (diffusers' AutoencoderKLCausal3D).
 */
#ifndef WORKER_MODEL_VAE_CONFIG_H
#define WORKER_MODEL_VAE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define VAE_CONFIG_MAX_LEVELS 6
#define VAE_CONFIG_MAX_LAYERS 6

struct vae_config {
    int n_levels;
    int64_t channels[VAE_CONFIG_MAX_LEVELS]; /* block_out_channels, encoder order */
    int layers;                              /* resnets a level of the encoder; the decoder has one more */
    int groups;                              /* of every GroupNorm */
    int64_t in_channels, latent_channels;
    bool mid_causal;     /* mid attention: a token sees its own and earlier frames only */
    int space_ratio;     /* 8 */
    int time_ratio;      /* 4 */
    int64_t tile_size;   /* sample_size, pixels */
    int64_t tile_frames; /* sample_tsize */
    double scaling;      /* scaling_factor */
};

/* ERR_NOTFOUND, ERR_FORMAT with the field's name. */
int vae_config_read(const char *path, struct vae_config *ret, struct err *err);
int vae_config_parse(const char *text, size_t len, struct vae_config *ret, struct err *err);

/* Strides of the encoder's level i (and factors of the decoder's): t, y, x, each 1 or 2. False: the level has
 * no strided convolution at all. */
bool vae_config_strides(const struct vae_config *c, int level, int ret_strides[3]);

#endif
