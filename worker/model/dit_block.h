/* dit_block.h -- the blocks, one guidance row at a time, in place on x [M, H]: image tokens first, then text
 * tokens.
 *
 *     dit_block_embed(r, d, front, ref, latents, x_image, share);
 *     dit_block_double(r, d, i, mod_img, mod_txt, x, n_image, cos, sin, share);
 *     op_add_masked(r, x_video, dit_block_adapter(r, d, a, kv, x_video), mask);
 *     dit_block_single(r, d, i, mod, x, cos, sin, share);
 *     v = dit_block_last(r, d, mod, x, first_video, cos, sin, T, h, w, share);
 *
 * mod: modulation vectors in the checkpoint's order, f32 [6H] (double), [3H] (single), [5H] (last block, then
 * final layer); see dit_cond.h. cos, sin [n_image, D/2]: the image tokens' positions; text has none. All
 * tokens of x are one attention segment: the caller leaves out the text tokens that are not valid.
 *
 * share: how the tokens are spread over ranks; then x, front, ref, cos and sin are this rank's rows and what is returned is
 * whole. NULL: all are here.
 *
 * Scratch beyond x: 4 M H floats and one piece of rows of the MLP; all but a result is released before the
 * return. Compact (dit_set_compact): 5/3 M H, for queries, keys and values are there for a sixth of the heads at a time.
 */
#ifndef WORKER_MODEL_DIT_BLOCK_H
#define WORKER_MODEL_DIT_BLOCK_H

#include "kernels/ops.h"
#include "worker/model/dit.h"
#include "worker/model/dit_share.h"

/* dst [rows, H] = before_proj(ref_in(patches [rows, 4 channels])). */
void dit_block_reference(struct run *r, const struct dit *d, struct tensor patches, struct tensor dst);

/* image [N, H] = front tokens [P, H], then ref tokens [T P, H] + img_in(latents [16, T, h, w]). Compact: ref [T P, 4
 * channels] are the patches that the tokens are made of. */
void dit_block_embed(struct run *r, const struct dit *d, struct tensor front, struct tensor ref,
                     struct tensor latents, struct tensor image, const struct dit_share *share);

void dit_block_double(struct run *r, const struct dit *d, int i, struct tensor mod_img, struct tensor mod_txt,
                      struct tensor x, int64_t n_image, struct tensor cos, struct tensor sin,
                      const struct dit_share *share);

/* to_out(attention(to_q(LN(video)), k, v)) of video [T P, H], new.  kv [T, keys, 2 inner], k first: the keys
 * of each latent frame; or [1, keys, 2 inner]: the same for all of them. */
struct tensor dit_block_adapter(struct run *r, const struct dit *d, int a, struct tensor kv,
                                struct tensor video);

void dit_block_single(struct run *r, const struct dit *d, int i, struct tensor mod, struct tensor x,
                      struct tensor cos, struct tensor sin, const struct dit_share *share);

/* The last single block and the final layer. x is only read. Keys and values of all tokens, everything else
 * of the video tokens [first, first + T (h/2)(w/2)) alone: nothing reads the others. Returns [16, T, h, w].
 */
struct tensor dit_block_last(struct run *r, const struct dit *d, struct tensor mod, struct tensor x,
                             int64_t first, struct tensor cos, struct tensor sin, int64_t T, int64_t h,
                             int64_t w, const struct dit_share *share);

/* dst [S, 64] = final linear of LN(x) * (1 + scale) + shift; mod [2H]: shift, scale. */
void dit_block_final(struct run *r, const struct dit *d, struct tensor mod, struct tensor x,
                     struct tensor dst);

#endif
