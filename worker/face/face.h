/* face.h -- where the faces of a picture are: the published detector if its file is there, else a cascade of
 * our own build.
 *
 *     struct face_finder *f;
 *     if ((rc = face_finder_open(&f, ckpts, device, &err)) < 0) ...
 *     rc = face_find(f, &run, &sized, &list, &err);          list.n == 0: no face
 *     int rect[4];
 *     mask_rect(list.box[0].x, ..., MASK_AREA, w, h, rect);  (mask.h)
 *     face_finder_close(f);
 */
#ifndef WORKER_FACE_FACE_H
#define WORKER_FACE_FACE_H

#include "kernels/run.h"
#include "worker/face/pick.h"
#include "worker/media/media.h"

#define FACE_MAX 64 /* told at most; the largest stay */

struct face_finder;

struct face_list {
    struct face_box box[FACE_MAX]; /* pixels of the picture, largest first */
    int n;
};

/* ckpts: the folder that may hold det_align/detface.pt; NULL: the cascade. A file that is there and cannot be
 * used is an error, not a reason to take the cascade. */
int face_finder_open(struct face_finder **ret, const char *ckpts, struct device *device, struct err *err);
void face_finder_close(struct face_finder *f);
/* "detface.pt", "cascade": for people and for the component list. */
const char *face_finder_name(const struct face_finder *f);

/* sized: the picture at the video's size. r is needed by the detector (rewound afterwards) and ignored by the
 * cascade. Boxes that do not touch the picture are left out. */
int face_find(struct face_finder *f, struct run *r, const struct image *sized, struct face_list *ret,
              struct err *err);
/* What face_find will do with such a picture, on a run that plans, by a finder opened without a device. */
void face_plan(struct face_finder *f, struct run *r, int width, int height);

#endif
