/* stretch.h -- 8-bit bilinear resizing without antialiasing, equal to OpenCV's two kinds bit by bit.
 *
 * Sample positions (i + 0.5) * src/dst - 0.5, edges repeated. The ordinary kind (INTER_LINEAR) has 11-bit
 * weights and drops bits between its two passes; the exact one (INTER_LINEAR_EXACT) has 8-bit weights and
 * rounds once. The detector was trained on the first, the cascade's pyramid is made of the second.
 */
#ifndef WORKER_FACE_STRETCH_H
#define WORKER_FACE_STRETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/* src [h][w][channels] -> dst [dst_h][dst_w][channels], the caller's. All sizes >= 1. ERR_NOMEM. */
int stretch_linear(const uint8_t *src, int w, int h, int channels, uint8_t *dst, int dst_w, int dst_h);
int stretch_exact(const uint8_t *src, int w, int h, int channels, uint8_t *dst, int dst_w, int dst_h);

#endif
