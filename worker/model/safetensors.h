/* safetensors.h -- reading and writing the safetensors format: 8 bytes little-endian header length, a JSON
 * header, data.
 *
 * Everything is checked before a byte of data is used: the header lies inside the file, every entry's range
 * lies inside the data and is exactly shape * element size, ranges follow each other without overlap or hole,
 * the file ends where the last one does, no name comes twice. Source: the format's README at
 * github.com/huggingface/safetensors.
 *
 *     struct safetensors_item list[] = {{"out.x", x}};
 *     rc = safetensors_write("dump.safetensors", list, 1, &err);
 */
#ifndef WORKER_MODEL_SAFETENSORS_H
#define WORKER_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "kernels/tensor.h"

struct ckpt;

/* Adds the file's tensors to c. ERR_FORMAT with what and where, ERR_UNSUPPORTED for an element type that we
 * do not keep. */
int safetensors_read(struct ckpt *c, const char *path, struct err *err);
/* The same from a folder: one *.safetensors.index.json naming its shards, or model.safetensors. */
int safetensors_read_dir(struct ckpt *c, const char *dir, struct err *err);
/* Whether these first bytes look like a safetensors file of len bytes (a plausible length, then '{'). */
bool safetensors_probe(const void *data, size_t len);

struct safetensors_item {
    const char *name;
    struct tensor t; /* contiguous, host memory */
};
/* Writes to path.part, syncs and renames. Items in the order given; duplicate names are ERR_INVALID. */
int safetensors_write(const char *path, const struct safetensors_item *list, size_t n, struct err *err);

#endif
