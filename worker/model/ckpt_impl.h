/* ckpt_impl.h -- the inside of a checkpoint, for the readers of file formats (safetensors.c, ptfile.c) only.
 *
 * A reader maps its file, checks everything it finds there against the mapping, and adds entries:
 *
 *     if ((rc = ckpt_map(c, path, &bytes, &len, err)) < 0) ...
 *     rc = ckpt_add(c, "conv.weight", DTYPE_F16, 4, shape, bytes + offset, err);
 *
 * Data is borrowed from the mapping, which belongs to the checkpoint; where the file does not align an
 * element to its own size the data is copied to memory that the checkpoint owns.
 */
#ifndef WORKER_MODEL_CKPT_IMPL_H
#define WORKER_MODEL_CKPT_IMPL_H

#include <stdint.h>

#include "worker/model/ckpt.h"

/* Ceilings: far above any published model, far below what could exhaust a machine. */
#define CKPT_MAX_TENSORS 200000
#define CKPT_MAX_NAME 512
#define CKPT_MAX_FILES 1000

struct ckpt_entry {
    char *name; /* owned */
    struct tensor t;
};

struct ckpt_block {
    void *data;
    size_t bytes;
    bool mapped; /* munmap instead of mem_free */
};

struct ckpt {
    struct ckpt_entry *items; /* owned; sorted by name once opening is over */
    size_t n_items, cap_items;
    struct ckpt_block *blocks; /* owned: mappings and copies */
    size_t n_blocks, cap_blocks;
    float *scales; /* owned: one an entry, or NULL */
    bool has_data;
    struct ckpt_place place;
    char digest[65]; /* "" until computed */
};

/* Maps a regular file of at least one byte, read-only and private. ERR_NOTFOUND, ERR_IO, ERR_FORMAT. */
int ckpt_map(struct ckpt *c, const char *path, const uint8_t **ret_data, size_t *ret_len, struct err *err);
/* Adds a tensor over data (count * size bytes, NULL: no data). The name is copied; ERR_FORMAT for a name that
 * is empty, too long or holds control characters, ERR_TOOBIG past the ceilings. n_dims 0 (a scalar) becomes
 * [1]. */
int ckpt_add(struct ckpt *c, const char *name, enum dtype dtype, int n_dims, const int64_t *shape,
             const void *data, struct err *err);
/* Memory that ckpt_close gives back: by munmap, or by mem_free. ERR_NOMEM: it stays the caller's. */
int ckpt_add_block(struct ckpt *c, void *data, size_t bytes, bool mapped);
/* count * element size of a shape, checked. ERR_FORMAT for a negative or overflowing dimension. */
int ckpt_shape_bytes(enum dtype dtype, int n_dims, const int64_t *shape, size_t *ret);

#endif
