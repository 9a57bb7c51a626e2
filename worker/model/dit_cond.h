/* dit_cond.h -- everything of the transformer that does not depend on the latents, computed as seldom as it
 * changes.
 *
 * Once a video:
 *     dit_cond_picture   the reference's tokens, positions, face mask
 *     dit_cond_audio     keys and values of every adapter and audio frame, and of one frame of silence
 *     dit_cond_text      a prompt: embedded states, context, pooled vector, the refiner's first attention
 *                        (only the gates behind it depend on the time)
 *     dit_cond_vec, dit_cond_mods, dit_cond_gates
 *                        modulation of all steps at once: each weight is read once
 * Once a step and text:
 *     dit_cond_refine
 *
 * Everything is allocated from the arena and stays until the caller rewinds.
 */
#ifndef WORKER_MODEL_DIT_COND_H
#define WORKER_MODEL_DIT_COND_H

#include <stdint.h>

#include "kernels/ops.h"
#include "worker/model/dit.h"

/* out(silu(in(x))). */
struct tensor dit_cond_embed(struct run *r, const struct dit_embedder *e, struct tensor x);

/* ---- picture ------------------------------------------------------------------------------------------- */

struct dit_picture {
    int64_t T, h, w, P, N;  /* P, N and all below: of the tokens that this rank has (dit_share.h) */
    int64_t P_all;          /* all tokens of a frame */
    struct tensor front;    /* [P, H]: img_in of the first reference latent */
    struct tensor ref;      /* [T P, H]: before_proj(ref_in(reference)); compact: [T P, 4 channels], the reference's patches */
    struct tensor cos, sin; /* [N, D/2] */
    int64_t n_face; /* tokens of a frame that the face mask lets hear the sound, K; the others are left out */
    struct tensor face;       /* i32 [K]: which; none when all of them (K = P), or when K = 0 */
    struct tensor mask;       /* [K]: face mask at those tokens, steps from the tenth on */
    struct tensor mask_early; /* [K]: times 0.6 */
};
struct tensor dit_cond_face(struct run *r, struct tensor face); /* [h, w] -> [P] */
/* ref [16, T, h, w], face [h, w]. Waits for the device once, to see where the mask is 0. */
void dit_cond_picture(struct run *r, const struct dit *d, struct tensor ref, struct tensor face,
                      struct dit_picture *ret);

/* ---- sound --------------------------------------------------------------------------------------------- */

/* audio [F, window, layers, width] -> tokens [F, 4, H]. */
struct tensor dit_cond_audio_tokens(struct run *r, const struct dit *d, struct tensor audio);
/* tokens [F, 4, H] -> [F, 4, 2 inner] of adapter a: keys, then values. */
struct tensor dit_cond_audio_kv(struct run *r, const struct dit *d, int a, struct tensor tokens);
/* Keys and values of all adapters for n frames of audio and one of silence behind them: [adapters, n + 1, 4,
 * 2 inner]; none where the network has no adapters. */
struct tensor dit_cond_audio(struct run *r, const struct dit *d, struct tensor audio, int64_t n);
/* Those of a window: idx i32 [4 T] audio frames in token order -> [T, 16, 2 inner]. */
struct tensor dit_cond_audio_window(struct run *r, const struct dit *d, struct tensor kv_all, int a,
                                    struct tensor idx);

/* ---- text ---------------------------------------------------------------------------------------------- */

struct dit_text {
    int64_t n_tokens;       /* S */
    int64_t n_valid;        /* n: the first n refined tokens reach the blocks */
    struct tensor embedded; /* [S, H] */
    struct tensor attended; /* [S, H]: the first refiner block's attention branch, before its gate */
    struct tensor context;  /* [1, H] */
    struct tensor vector;   /* [1, H]: of the pooled text */
    struct tensor mask;     /* u8 [S, S]: what the refiner's queries see */
};
/* states [S, text], text2 [text2]; mask host [S] of 0 and 1, or NULL while planning: then n_valid of them
 * count. */
void dit_cond_text(struct run *r, const struct dit *d, struct tensor states, struct tensor text2,
                   const uint8_t *mask, int64_t n_valid, struct dit_text *ret);
/* First n_out refined tokens [n_out, H]. gates: a row of dit_cond_gates. */
struct tensor dit_cond_refine(struct run *r, const struct dit *d, const struct dit_text *t,
                              struct tensor gates, int64_t n_out);

/* ---- time ---------------------------------------------------------------------------------------------- */

/* A row is a pair of time and text. The first n_a rows go with text a, the other ones with b (which may be
 * NULL when there are none). */
struct dit_rows {
    const float *t; /* host, n of them: 1000 sigma */
    int n, n_a;
    const struct dit_text *a, *b;
};
struct tensor dit_cond_time(struct run *r, const struct dit_embedder *e, const float *t,
                            int n); /* [n, width] */
/* The modulation vector [n, H]: time + expression + pose + fps + pooled text. */
struct tensor dit_cond_vec(struct run *r, const struct dit *d, const struct dit_rows *rows, double fps);
/* The refiner's gates of the first n rows: [n, 2 blocks, 2H] flattened. */
struct tensor dit_cond_gates(struct run *r, const struct dit *d, const struct dit_rows *rows, int n);

struct dit_mods {
    struct tensor blocks; /* [n_full, 12 H n_double + 3 H (n_single - 1)] */
    struct tensor last;   /* [n, 5H]: last single block, final layer */
};
/* vec [n, H]; the first n_full rows are those of full steps, the others need the last block only. */
void dit_cond_mods(struct run *r, const struct dit *d, struct tensor vec, int n_full, struct dit_mods *ret);
struct tensor dit_cond_mod_image(const struct dit *d, const struct dit_mods *m, int row, int i); /* [6H] */
struct tensor dit_cond_mod_text(const struct dit *d, const struct dit_mods *m, int row, int i);  /* [6H] */
struct tensor dit_cond_mod_single(const struct dit *d, const struct dit_mods *m, int row,
                                  int i);                           /* [3H]; not the last */
struct tensor dit_cond_mod_last(const struct dit_mods *m, int row); /* [5H] */

#endif
