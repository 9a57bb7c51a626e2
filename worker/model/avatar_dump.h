/* avatar_dump.h -- named intermediate tensors of one job, kept in memory and written as one safetensors file
 * at the end.
 *
 *     struct avatar_dump d = {0};                       off: every call does nothing
 *     avatar_dump_init(&d, q->dump_path);               NULL: stays off
 *     avatar_dump_tensor(&d, r, "mid.ref", t, 5, SHAPE(1, 16, 33, h, w));
 *     rc = avatar_dump_write(&d, &err);
 *     avatar_dump_done(&d);
 *
 * The first failure (no memory, past AVATAR_DUMP_MAX_BYTES) is kept and reported by avatar_dump_write.
 */
#ifndef WORKER_MODEL_AVATAR_DUMP_H
#define WORKER_MODEL_AVATAR_DUMP_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "kernels/run.h"
#include "kernels/tensor.h"

#define AVATAR_DUMP_MAX_BYTES ((size_t)16 << 30)
#define AVATAR_DUMP_MAX_ITEMS 2048

struct avatar_dump {
    const char *path;               /* borrowed; NULL: off */
    struct safetensors_item *items; /* owned, with names and data */
    size_t n, cap, bytes;
    struct err err;
};

void avatar_dump_init(struct avatar_dump *d, const char *path);
void avatar_dump_done(struct avatar_dump *d);
bool avatar_dump_is_on(const struct avatar_dump *d);

/* Room for one more tensor, to be filled by the caller; data NULL (and the failure kept) where there is none.
 */
struct tensor avatar_dump_room(struct avatar_dump *d, const char *name, enum dtype dtype, int n_dims,
                               const int64_t *shape);
/* A copy of host data, contiguous. */
void avatar_dump_host(struct avatar_dump *d, const char *name, enum dtype dtype, int n_dims,
                      const int64_t *shape, const void *data);
/* A copy of a tensor of the run (any strides), stored under the given shape of as many elements. */
void avatar_dump_tensor(struct avatar_dump *d, struct run *r, const char *name, struct tensor t, int n_dims,
                        const int64_t *shape);
int avatar_dump_write(struct avatar_dump *d, struct err *err);

#endif
