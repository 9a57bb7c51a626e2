/* pick.h -- from the detector's rows to boxes: thresholds, non-maximum suppression, which face is meant.
 *
 * Source: detface.py of the reference's face_align (non_max_suppression_face, thresholds 0.5 and 0.45) and
 * AlignImage.
 */
#ifndef WORKER_FACE_PICK_H
#define WORKER_FACE_PICK_H

#include <stddef.h>

#define PICK_ROW 16 /* cx cy w h objectness, 5 x (x y), class */

/* Pixels of the picture; (x, y) is the upper left corner and may be negative. */
struct face_box {
    float x, y, w, h;
    float score; /* objectness x class; number of hits for the cascade */
};

/* Rows with objectness > 0.5 and objectness x class > 0.5, surest first, without those that overlap a surer
 * one by more than 0.45: [x1 y1 x2 y2, confidence, 5 x (x y), 0]. At most max rows; rows and ret may not
 * overlap. Returns how many; ERR_NOMEM. */
int pick_nms(const float *rows, size_t n, float *ret, size_t max);

/* Largest area first; equal areas keep their order. */
void pick_sort(struct face_box *list, size_t n);
/* The reference's choice: the *last* box whose area exceeds that of box 0 (the surest), or 0. Not the
 * largest: for comparison only. */
size_t pick_reference(const struct face_box *list, size_t n);

#endif
