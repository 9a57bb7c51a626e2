/* detector.h -- the face network of the published model: YOLOv5-face, from its TorchScript file, on ops.
 *
 * Two members of the family are known, C3 and ShuffleNetV2 backbones; which one a file holds, all channel
 * counts and the depths are read from the names and shapes of its tensors. Batch norm eps 1e-3. Source:
 * YOLOv5-face (Qi et al. 2021, arXiv:2105.12931) as the reference's det_align/detface.pt is called:
 * model(image, [grid8, grid16, grid32]).
 *
 *     struct detector *d;
 *     if ((rc = detector_open(&d, "ckpts/det_align/detface.pt", device, &err)) < 0) ...
 *     rc = detector_find(d, &run, rgb, width, height, &rows, &n, &err);
 */
#ifndef WORKER_FACE_DETECTOR_H
#define WORKER_FACE_DETECTOR_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/run.h"
#include "worker/face/pick.h"
#include "worker/model/ckpt.h"

#define DETECTOR_MAX 1024 /* faces kept at most */

struct detector;

/* ERR_WEIGHTS when the file holds neither layout; else as ckpt_open. */
int detector_open(struct detector **ret, const char *path, struct device *device, struct err *err);
void detector_close(struct detector *d);

/* Network input size of a picture: the short side 416, both rounded up to multiples of 32; a plain stretch.
 */
void detector_size(int width, int height, int *ret_w, int *ret_h);
/* The network alone: rgb u8 [h][w][3], both multiples of 32. *ret is [n][PICK_ROW], owned by the caller
 * (mem_free), in the order level, anchor, y, x. */
int detector_rows(struct detector *d, struct run *r, const uint8_t *rgb, int w, int h, float **ret,
                  size_t *ret_n, struct err *err);
/* Stretch, network, thresholds, suppression: at most DETECTOR_MAX faces in pixels of the picture, surest
 * first. points, if not NULL, takes five (x, y) a face. Returns how many or ERR_*. The run is rewound. */
int detector_find(struct detector *d, struct run *r, const uint8_t *rgb, int width, int height,
                  struct face_box *ret, float (*points)[10], struct err *err);

#endif
