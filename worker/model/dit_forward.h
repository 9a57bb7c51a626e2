/* dit_forward.h -- a whole prediction of one window, for one guidance row or for both.
 *
 *     struct dit_scene scene = {.dit = d, .picture = ..., .mods = ..., .kv = dit_cond_audio(...)};
 *     struct dit_row rows[2] = {{.text = ..., .mask = ..., .mod = 0}, {..., .sound = idx, .mod = 1}};
 *     dit_forward_pair(r, &scene, rows, latents, x, v);         x: two buffers of [N + n, H]
 *     v[1] = dit_forward_last(r, &scene, &later_row, x[1]);     cached step: x as the full step left it
 *
 * In a group (run.group) x has this rank's rows only: N of the picture, and its part of the text
 * (dit_forward_share says which). Where the guidance rows are on two halves, dit_forward_pair computes this
 * half's row alone, and the other one's velocity comes from there. Velocities are whole at every rank.
 *
 * A row's x ends as the input of the last single block: that is all a cached step needs of it.
 * Image tokens after double block i are shown to the tap as "dit.double<i>.img", x after single block i as
 * "dit.single<i>".
 */
#ifndef WORKER_MODEL_DIT_FORWARD_H
#define WORKER_MODEL_DIT_FORWARD_H

#include "worker/model/dit_cond.h"
#include "worker/model/dit_share.h"

enum { DIT_ROWS = 2 };

struct dit_scene {
    const struct dit *dit;
    struct dit_picture picture;
    struct dit_mods mods;
    struct tensor kv; /* of dit_cond_audio: the last audio frame is silence */
};

struct dit_row {
    struct tensor text;  /* [n, H] refined, valid tokens only: all of them, at every rank */
    int64_t n_text;      /* n, where text is none (a cached step) */
    struct tensor mask;  /* [K] of the picture */
    struct tensor sound; /* i32 [4 T] audio frames in token order; none: silence */
    int mod;             /* row of mods: a pair of time and text */
};

/* Embeds and runs the double blocks before the first adapter (all of them if there is none). x [N + n, H] is
 * written. */
void dit_forward_head(struct run *r, const struct dit_scene *s, const struct dit_row *row,
                      struct tensor latents, struct tensor x);
/* From the first adapter to the single block before the last. */
void dit_forward_rest(struct run *r, const struct dit_scene *s, const struct dit_row *row, struct tensor x);
/* Last single block and final layer: velocity [16, T, h, w]. */
struct tensor dit_forward_last(struct run *r, const struct dit_scene *s, const struct dit_row *row,
                               struct tensor x);

/* The tokens of this rank for n_text text tokens; false: all are here. */
bool dit_forward_share(const struct run *r, const struct dit_picture *p, int64_t n_text, struct dit_share *ret);
/* Whether this rank computes that guidance row. */
bool dit_forward_has_row(const struct run *r, int row);
/* Velocities of rows that the other half has computed, for those this one has. */
void dit_forward_swap(struct run *r, struct tensor v[DIT_ROWS]);

/* Both rows. With one time and text (rows[0].mod == rows[1].mod) they are equal up to the first adapter,
 * which is the first to hear the sound: that part is computed once. */
void dit_forward_pair(struct run *r, const struct dit_scene *s, const struct dit_row rows[DIT_ROWS],
                      struct tensor latents, const struct tensor x[DIT_ROWS], struct tensor ret_v[DIT_ROWS]);

#endif
