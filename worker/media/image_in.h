/* image_in.h -- any picture file that libav decodes, to packed RGB.
 *
 * Colours as Pillow's convert("RGB") gives them, which the reference uses: alpha dropped without blending,
 * grey and 1-bit replicated, palette looked up, 16-bit grey clipped at 255 (16-bit colour: its high byte),
 * CMYK by the simple formula, chroma enlarged by the triangle filter of libjpeg. Of an animation the first
 * frame.
 */
#ifndef WORKER_MEDIA_IMAGE_IN_H
#define WORKER_MEDIA_IMAGE_IN_H

#include <stdbool.h>

#include "common/err.h"
#include "worker/media/media.h"

#define IMAGE_IN_MAX_BYTES (32 << 20)
#define IMAGE_IN_MAX_PIXELS 40000000 /* width x height */
#define IMAGE_IN_MIN_SIDE 8          /* pixels */

/* turn: apply the EXIF orientation (what a person expects; the reference ignores it). The format is taken
 * from the file's first bytes: PNG, JPEG, WebP, GIF, BMP, TIFF. Claimed sizes are checked before anything is
 * decoded. ERR_NOTFOUND, ERR_MEDIA (unknown, truncated, not decodable), ERR_INVALID (too small), ERR_TOOBIG,
 * ERR_NOMEM. */
int image_in_open(const char *path, bool turn, struct image *ret, struct err *err);
/* The same from an open regular file (borrowed, read from its start); opens nothing itself. */
int image_in_fd(int fd, bool turn, struct image *ret, struct err *err);

#endif
