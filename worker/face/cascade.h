/* cascade.h -- faces without a network: a boosted cascade of local binary patterns, as OpenCV trains them.
 *
 * Stands in where det_align/detface.pt is not there. Reads OpenCV's XML (LBP stumps only) and scans a pyramid
 * of the grey picture, finding what OpenCV's CascadeClassifier finds. Sources: Liao et al. 2007 (LBP
 * features), Viola and Jones 2001 (cascades); parameters: factor 1.1 between scales, 4 neighbours.
 *
 *     struct cascade *c;
 *     if ((rc = cascade_open(&c, xml, len, &err)) < 0) ...
 *     n = cascade_find(c, grey, width, height, min_size, 4, boxes, 100);
 */
#ifndef WORKER_FACE_CASCADE_H
#define WORKER_FACE_CASCADE_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct cascade;

struct cascade_box {
    int x, y, w, h; /* pixels */
    int hits;       /* windows that were merged into it */
};

/* ERR_FORMAT with what is wrong; ERR_NOMEM. xml is not needed afterwards. */
int cascade_open(struct cascade **ret, const char *xml, size_t len, struct err *err);
void cascade_close(struct cascade *c);

/* grey [h][w]. Windows of at least min_size pixels; those that lie together are merged, groups of
 * `neighbours` or fewer dropped; neighbours 0: every window as it is. At most max boxes. Returns how many, or
 * ERR_NOMEM. */
int cascade_find(const struct cascade *c, const uint8_t *grey, int w, int h, int min_size, int neighbours,
                 struct cascade_box *ret, int max);
/* Grey of packed RGB, OpenCV's 14-bit weights. n pixels. */
void cascade_grey(const uint8_t *rgb, uint8_t *grey, size_t n);

#endif
