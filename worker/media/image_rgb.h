/* image_rgb.h -- a decoded libav picture to packed RGB, with Pillow's colours (see image_in.h). */
#ifndef WORKER_MEDIA_IMAGE_RGB_H
#define WORKER_MEDIA_IMAGE_RGB_H

#include "common/err.h"
#include "worker/media/media.h"

struct AVFrame;

/* ret->pixels is allocated by the caller for frame->width x height. ERR_UNSUPPORTED for a pixel format
 * without a rule. */
int image_rgb_from(const struct AVFrame *f, struct image *ret);

#endif
