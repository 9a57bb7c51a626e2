/* vae.h -- pictures to latents and latents to frames: the causal 3-D VAE with its tiles, noise and scaling.
 *
 *     struct vae *v;
 *     if ((rc = vae_open(&v, &config, ckpt, device, err)) < 0) ...         ckpt stays until vae_close
 *     m = vae_encode(r, v, x, true);                                       x [1, H, W, 3] in [-1, 1]
 *     ref = vae_sample(r, v, m, noise, vae_scaling(v));                    noise [16, 33, h, w] -> ref [16,
 * 33, h, w] rc = vae_decode(r, v, latents, n_frames, take_frames, arg);          latents [16, T, h, w],
 * scaled
 *
 * Large inputs are cut into overlapping tiles, first in time, then in space, as the reference does; tiles
 * have statistics and padding of their own, so the cuts are part of the result. What crosses a tile's border:
 * only the blended strips (the last quarter of the tile before, in time; the bottom and right quarters in
 * space). So frames leave as soon as a temporal tile is blended, and memory is that of one temporal tile, not
 * of the video. A temporal tile of which nothing is kept (one latent at the end), or that begins behind the
 * last frame asked for, is not computed.
 *
 * Source: hymm_sp/vae/autoencoder_kl_causal_3d.py. Formulas: MODEL.md, VAE.
 */
#ifndef WORKER_MODEL_VAE_H
#define WORKER_MODEL_VAE_H

#include "kernels/run.h"
#include "kernels/tensor.h"
#include "worker/model/ckpt.h"
#include "worker/model/vae_config.h"
#include "worker/model/vae_net.h"

struct vae;

/* c is borrowed until vae_close (its names lose "vae." here). device NULL: planning. ERR_WEIGHTS lists what
 * does not match. */
int vae_open(struct vae **ret, const struct vae_config *config, struct ckpt *c, struct device *device,
             struct err *err);
void vae_close(struct vae *v);

/* Compact: about a quarter less memory for about half as much work more (vae_slab.h); the results are the same. */
void vae_set_compact(struct vae *v, bool on);
/* Tensors of more bytes are worked on some frames at a time; 256 MiB. For tests. */
void vae_set_slab(struct vae *v, size_t bytes);

const struct vae_net *vae_get_net(const struct vae *v); /* lent */
float vae_scaling(const struct vae *v);

/* x [T, H, W, 3], T = 4k+1 -> moments [k+1, H/8, W/8, 2C] (C latent channels: means, then log variances). */
struct tensor vae_encode(struct run *r, const struct vae *v, struct tensor x, bool tiled);
/* scale (mean + exp(clamp(logvar, -30, 20)/2) noise); moments [t, h, w, 2C], noise [C, T, h, w] -> [C, T, h,
 * w]. t is T, or 1: the same moments for all frames. */
struct tensor vae_sample(struct run *r, const struct vae *v, struct tensor moments, struct tensor noise,
                         float scale);

/* Takes the next frames y [n, H, W, 3], about -1..1, not clamped; lent. Non-zero (an ERR_*) stops. */
typedef int vae_frames_fn(void *arg, struct run *r, struct tensor y);

/* In a group (run.group) all ranks call with the same z; each runs some of the tiles and rank 0 alone is given frames.
 * z [T, h, w, C], not scaled; in order, at most max_frames frames (0: all). Returns the run's error or
 * take's. */
int vae_decode(struct run *r, const struct vae *v, struct tensor z, bool tiled, int64_t max_frames,
               vae_frames_fn *take, void *arg);
/* latents [C, T, h, w] as the sampler leaves them -> z [T, h, w, C] = latents / scaling. */
struct tensor vae_unscale(struct run *r, const struct vae *v, struct tensor latents);

#endif
