/* mask.h -- from a face's box to the region that the sound may move.
 *
 * Source: get_facemask of the reference's audio_preprocessor: a rectangle of three times the box's sides
 * around its centre, cut at the picture's edges.
 */
#ifndef WORKER_FACE_MASK_H
#define WORKER_FACE_MASK_H

#include "kernels/run.h"
#include "worker/face/pick.h"

#define MASK_AREA 3.0

/* x1, y1, x2, y2 in pixels, ends excluded; all 0 when nothing is inside. An end left of or above the picture
 * counts from the far edge, as a Python slice does. */
void mask_rect(double x, double y, double w, double h, double area, int width, int height, int rect[4]);
/* 1 inside the rectangle, 0 outside, at latent size: f32 [height/8, width/8], mean of the pixels that
 * bilinear reading would take. width and height are multiples of 8. */
struct tensor mask_latent(struct run *r, const int rect[4], int width, int height);

#endif
