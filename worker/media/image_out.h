/* image_out.h -- RGB to a PNG file (thumbnails). */
#ifndef WORKER_MEDIA_IMAGE_OUT_H
#define WORKER_MEDIA_IMAGE_OUT_H

#include "common/err.h"
#include "worker/media/media.h"

/* Writes the file and syncs it. ERR_IO, ERR_NOSPACE, ERR_NOMEM. */
int image_out_png(const struct image *im, const char *path, struct err *err);

#endif
