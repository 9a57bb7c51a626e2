/* dit_share.h -- a window's tokens on several ranks (Ulysses): who has which, and the exchanges around attention.
 *
 * A rank has some of the tokens of every frame, the same ones in each, and some of the text tokens: so a cached step moves
 * latents between windows without talking, and every adapter sees all frames. Attention needs all tokens: there each rank has
 * some of the heads instead. Tokens come together in the order of the ranks, each with its image and its text tokens; softmax
 * does not ask for the order.
 *
 *     struct dit_share share;
 *     dit_share_init(&share, &group->tokens, T, P, n_text);
 *     o = dit_share_attend(r, d, &share, share.rows, qkv, share.rows, qkv parts ...)
 *
 * Source: Jacobs and others, DeepSpeed Ulysses (2023).
 */
#ifndef WORKER_MODEL_DIT_SHARE_H
#define WORKER_MODEL_DIT_SHARE_H

#include "kernels/comm/comm.h"
#include "kernels/ops.h"
#include "worker/model/dit.h"

struct dit_share {
    const struct comm_set *set;
    int64_t rows[COMM_MAX];  /* of each place: its image and text tokens */
    int64_t video[COMM_MAX]; /* and without text and the picture's frame in front */
    int64_t at, n;           /* this rank's tokens of a frame */
    int64_t text_at, n_text; /* and its text tokens */
    int64_t P;               /* all tokens of a frame */
    int64_t T;
};

/* The tokens of a frame and of a text that this rank has; all of them without a set. */
void dit_share_init(struct dit_share *ret, const struct comm_set *set, int64_t T, int64_t P, int64_t n_text);

/* softmax(q k^T) v of all tokens: q [S, parts, heads, D] with S = n_q[me], kv the same with n_kv[me] rows and two more parts
 * behind `first`: keys, then values. Returns [S, H] for the rows of q. n_q, n_kv: rows at each place. Without share the heads
 * may be some of the model's. */
struct tensor dit_share_attend(struct run *r, const struct dit_dims *s, const struct dit_share *share, struct tensor q,
                               const int64_t *n_q, struct tensor kv, int first, const int64_t *n_kv);

/* tokens [T n, C] of this rank -> [T P, C] of all, new. */
struct tensor dit_share_tokens(struct run *r, const struct dit_share *share, struct tensor tokens);

/* x [frames P, C], all tokens -> [frames n, C], this rank's, new. */
struct tensor dit_share_rows(struct run *r, const struct dit_share *share, struct tensor x);

#endif
