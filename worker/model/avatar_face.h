/* avatar_face.h -- which part of the picture the sound may move: the request's choice, or a face that is
 * found.
 *
 * Source: hymm_sp/data_kits/audio_preprocessor.py. Differences (largest face, clipped boxes): MODEL.md, last
 * section.
 */
#ifndef WORKER_MODEL_AVATAR_FACE_H
#define WORKER_MODEL_AVATAR_FACE_H

#include "kernels/run.h"
#include "worker/model/avatar.h"
#include "worker/model/avatar_input.h"

struct face_finder;

struct avatar_face_choice {
    int box[4];  /* x1, y1, x2, y2 of the face in the sized picture; all -1: the whole picture */
    int rect[4]; /* x1, y1, x2, y2 that may move, ends excluded */
};

/* r runs the detector (and is given back as it was). ERR_INVALID: no face where one is required, or too few.
 */
int avatar_face_find(struct avatar_face_choice *ret, struct face_finder *finder, struct run *r,
                     const struct avatar_input *in, const struct avatar_hooks *hooks, struct err *err);

#endif
