/* vae_net.h -- the two networks of the 3-D causal VAE and their blocks, on one piece of video at a time.
 * Tiles, noise and scaling are vae.h's.
 *
 * Activations are channels-last [T, H, W, C]; blocks may overwrite their input x, which the caller gives up.
 *
 *     conv      3x3x3, edges replicated, 2 frames before and none after: a frame sees itself and earlier ones
 *     resnet    shortcut(x) + conv2(silu(gn2(conv1(silu(gn1(x))))))
 *     mid       resnet, x + attention(gn(x)) with one head over all tokens, resnet
 *     encoder   conv_in, levels (resnets, strided conv), mid, gn silu conv_out, quant_conv      -> mean and
 * log variance decoder   post_quant_conv, conv_in, mid, levels (resnets, nearest upsampling, conv), gn silu
 * conv_out
 *
 * Source: HunyuanVideo's AutoencoderKLCausal3D (hymm_sp/vae). Formulas: MODEL.md, VAE.
 */
#ifndef WORKER_MODEL_VAE_NET_H
#define WORKER_MODEL_VAE_NET_H

#include "kernels/run.h"
#include "kernels/tensor.h"
#include "worker/model/ckpt.h"
#include "worker/model/vae_config.h"

#define VAE_NET_EPS 1e-6f
#define VAE_NET_SLAB ((size_t)256 << 20)

/* ---- weights: field, name, shape. ci, co: channels in and out ---- */

#define VAE_NET_RESNET(W)                                                                                    \
    W(norm1_w, "norm1.weight", 1, ci)                                                                        \
    W(norm1_b, "norm1.bias", 1, ci)                                                                          \
    W(conv1_w, "conv1.conv.weight", 5, co, ci, 3, 3, 3)                                                      \
    W(conv1_b, "conv1.conv.bias", 1, co)                                                                     \
    W(norm2_w, "norm2.weight", 1, co)                                                                        \
    W(norm2_b, "norm2.bias", 1, co)                                                                          \
    W(conv2_w, "conv2.conv.weight", 5, co, co, 3, 3, 3)                                                      \
    W(conv2_b, "conv2.conv.bias", 1, co)

/* only where ci differs from co */
#define VAE_NET_SHORTCUT(W)                                                                                  \
    W(short_w, "conv_shortcut.conv.weight", 5, co, ci, 1, 1, 1)                                              \
    W(short_b, "conv_shortcut.conv.bias", 1, co)

#define VAE_NET_ATTENTION(W)                                                                                 \
    W(norm_w, "group_norm.weight", 1, co)                                                                    \
    W(norm_b, "group_norm.bias", 1, co)                                                                      \
    W(q_w, "to_q.weight", 2, co, co)                                                                         \
    W(q_b, "to_q.bias", 1, co)                                                                               \
    W(k_w, "to_k.weight", 2, co, co)                                                                         \
    W(k_b, "to_k.bias", 1, co)                                                                               \
    W(v_w, "to_v.weight", 2, co, co)                                                                         \
    W(v_b, "to_v.bias", 1, co)                                                                               \
    W(out_w, "to_out.0.weight", 2, co, co)                                                                   \
    W(out_b, "to_out.0.bias", 1, co)

/* ci, co: of the whole half; c_in, c_out: widths beside conv_in and conv_out */
#define VAE_NET_ENDS(W)                                                                                      \
    W(conv_in_w, "conv_in.conv.weight", 5, c_in, ci, 3, 3, 3)                                                \
    W(conv_in_b, "conv_in.conv.bias", 1, c_in)                                                               \
    W(norm_out_w, "conv_norm_out.weight", 1, c_out)                                                          \
    W(norm_out_b, "conv_norm_out.bias", 1, c_out)                                                            \
    W(conv_out_w, "conv_out.conv.weight", 5, co, c_out, 3, 3, 3)                                             \
    W(conv_out_b, "conv_out.conv.bias", 1, co)

#define VAE_NET_FIELD(field, ...) struct tensor field;

struct vae_resnet {
    VAE_NET_RESNET(VAE_NET_FIELD)
    VAE_NET_SHORTCUT(VAE_NET_FIELD) /* none where the width stays */
};

struct vae_attention {
    VAE_NET_ATTENTION(VAE_NET_FIELD)
};

struct vae_level {
    int n_resnets;
    struct vae_resnet resnet[VAE_CONFIG_MAX_LAYERS];
    bool has_scale; /* a strided convolution (encoder), or upsampling and a convolution (decoder), at the end
                     */
    int factor[3];  /* t, y, x */
    struct tensor scale_w, scale_b;
};

struct vae_half {
    int place; /* block of the pool */
    VAE_NET_ENDS(VAE_NET_FIELD)
    int n_levels;
    struct vae_level level[VAE_CONFIG_MAX_LEVELS]; /* in the order of computation */
    struct vae_resnet mid[2];
    struct vae_attention attention;
    struct tensor quant_w, quant_b; /* 1x1x1, behind the encoder, in front of the decoder */
};

struct vae_net {
    struct vae_config config;
    struct vae_half encoder, decoder;
    struct pool *pool; /* borrowed, where one half is there at a time; NULL: both are */
    size_t slab;  /* bytes: larger tensors are worked on some frames at a time (vae_slab.h) */
    bool compact; /* and some of them made twice rather than kept */
};

/* Binds every tensor of c, strictly. device NULL: planning. The tensors are borrowed from c and device. */
int vae_net_bind(struct vae_net *n, const struct vae_config *config, struct ckpt *c, struct device *device,
                 struct err *err);

/* ---- blocks ---- */

struct tensor vae_net_conv(struct run *r, struct tensor x, struct tensor w, struct tensor b,
                           const int *strides);
/* May write x (it does where the width stays, and returns it). */
struct tensor vae_net_resnet(struct run *r, const struct vae_net *n, const struct vae_resnet *w,
                             struct tensor x);
struct tensor vae_net_mid(struct run *r, const struct vae_net *n, const struct vae_half *h, bool causal,
                          struct tensor x);
struct tensor vae_net_down(struct run *r, const struct vae_level *l, struct tensor x);
struct tensor vae_net_up(struct run *r, const struct vae_level *l, struct tensor x);

/* x [T, H, W, 3] in [-1, 1], T = 4k+1 -> moments [k+1, H/8, W/8, 2*latent_channels], no tiles. x is kept. */
struct tensor vae_net_encode(struct run *r, const struct vae_net *n, struct tensor x);
/* z [t, h, w, latent_channels], not scaled -> [4(t-1)+1, 8h, 8w, 3], no tiles. z is kept. */
struct tensor vae_net_decode(struct run *r, const struct vae_net *n, struct tensor z);

#endif
