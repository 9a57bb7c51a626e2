/* vae_slab.h -- the VAE's blocks on tensors of which few fit into memory: the same numbers, some frames at a time.
 *
 * A causal convolution needs two frames more than it makes, a group norm the statistics of all frames. So a block takes
 * statistics first and then goes through its input in slabs of frames, keeping two normalised ones from slab to slab.
 * Sums are those of the whole tensor in the same order: on the table `cpu` results are the same bit by bit.
 *
 *     if (vae_slab_wanted(n, x))
 *         y = vae_slab_resnet(r, n, w, x);
 *
 * What is alive beside a few slabs: in a resnet that keeps the width, x and a tensor as large; in one that halves it, x
 * alone; while upsampling, the result alone. Compact (vae_set_compact), where tensors are larger still: in a resnet x alone,
 * its inner tensor is computed twice; an upsampled tensor in front of a narrowing resnet is nowhere whole, it is computed
 * three times.
 */
#ifndef WORKER_MODEL_VAE_SLAB_H
#define WORKER_MODEL_VAE_SLAB_H

#include "worker/model/vae_net.h"

/* Whether x, or what vae_net_up makes of it, is larger than n->slab. */
bool vae_slab_wanted(const struct vae_net *n, struct tensor x);
bool vae_slab_up_wanted(const struct vae_net *n, const struct vae_level *l, struct tensor x);
/* Whether the resnet makes at most half as many channels as it is given. */
bool vae_slab_packs(const struct vae_resnet *w);
/* Whether what vae_net_up makes of x is to be made piece by piece for the resnet behind it, and never whole. */
bool vae_slab_joins(const struct vae_net *n, const struct vae_level *l, const struct vae_resnet *next, struct tensor x);

/* As vae_net_resnet; x is contiguous. The result lies where x began when the width stays or at least halves; otherwise it is
 * new. */
struct tensor vae_slab_resnet(struct run *r, const struct vae_net *n, const struct vae_resnet *w, struct tensor x);
/* As vae_net_up. x begins at `at` and is the newest tensor; the result lies there instead, over x. */
struct tensor vae_slab_up(struct run *r, const struct vae_net *n, const struct vae_level *l, struct tensor x, size_t at);
/* As vae_net_up, then vae_net_resnet of a narrowing one. x is kept, the result is new. */
struct tensor vae_slab_up_resnet(struct run *r, const struct vae_net *n, const struct vae_level *l,
                                 const struct vae_resnet *w, struct tensor x);
/* GroupNorm, silu, conv_out. x is kept, the result is new. */
struct tensor vae_slab_tail(struct run *r, const struct vae_net *n, const struct vae_half *h, struct tensor x);

#endif
