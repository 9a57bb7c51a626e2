/* size.h -- the reference's rule for the size of the video: sides are multiples of 64, the short side near
 * `size`, the area bounded by size x {704: 1216, 512: 768, 384: 576, 256: 384, other: 1.5 size}. Arithmetic
 * in f64, halves to even. Source: hymm_sp/data_kits/audio_dataset.py of the reference; cases image/sizes.
 */
#ifndef WORKER_MEDIA_SIZE_H
#define WORKER_MEDIA_SIZE_H

/* A very long picture can give 0 for a side (the reference then crashes): the caller decides what to do. */
void size_rule(int width, int height, int size, int *ret_w, int *ret_h);
/* The bound on width x height that the rule keeps to (before the last rounding). */
double size_area(int size);

#endif
