/* resize.h -- 8-bit resampling of pictures, equal to Pillow's bit by bit.
 *
 * Horizontal pass, then vertical, each on 8-bit data; a pass is skipped when its size stays, and the vertical
 * one comes first where it removes more than twice as many rows as the other one columns (Pillow 13). Weights
 * in f64, normalised, then 22-bit integers. Source: CONDITIONING of the reference (Pillow's two-pass
 * "convolution" resize); cases image/resize_*.
 */
#ifndef WORKER_MEDIA_RESIZE_H
#define WORKER_MEDIA_RESIZE_H

#include "common/err.h"
#include "worker/media/media.h"

enum resize_filter { RESIZE_BILINEAR, RESIZE_LANCZOS }; /* bilinear is the antialiased one */

/* *ret is new (image_done). ERR_INVALID for a size of 0, ERR_NOMEM. */
int resize_image(const struct image *src, int width, int height, enum resize_filter filter, struct image *ret,
                 struct err *err);

#endif
