/* media.h -- what comes out of media files and goes into them: plain host memory. */
#ifndef WORKER_MEDIA_MEDIA_H
#define WORKER_MEDIA_MEDIA_H

#include <stdint.h>

#include "common/err.h"

/* RGB, 8 bit, rows packed. pixels owned (mem_free, or image_done). */
struct image {
    uint8_t *pixels; /* [height][width][3] */
    int width, height;
};

/* Mono f32 in [-1, 1]. samples owned. */
struct wave {
    float *samples;
    int64_t n;
    int rate; /* Hz */
};

void image_done(struct image *im);
void wave_done(struct wave *w);

/* Opens a regular file to be read; what ("image", "audio") starts the sentence. The caller closes *ret_fd.
 * ERR_NOTFOUND, ERR_IO, ERR_MEDIA (no regular file). */
int media_open(const char *what, const char *path, int *ret_fd, struct err *err);

#endif
