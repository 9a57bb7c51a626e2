/* ckpt.h -- a checkpoint: named tensors from one or more files, memory-mapped; and binding them to a network.
 *
 * Sources: safetensors (one file, or a folder with *.index.json and shards), PyTorch zip (.pt, .bin: bf16, f16, f32, fp8;
 * a restricted unpickler that executes nothing), TorchScript archive (detface.pt), and a list (names, dtypes, shapes and
 * no data: for planning the real sizes without weights). Any integer or float dtype is kept as stored.
 *
 *     struct ckpt *c;
 *     if ((rc = ckpt_open(&c, path, &err)) < 0) ...
 *     struct binder b;
 *     binder_init(&b, c, device, "vae");
 *     binder_bind(&b, &w->conv_in, "encoder.conv_in.conv.weight", 5, SHAPE(c0, 3, 3, 3, 3));
 *     binder_bindf(&b, &w->qkv, 2, SHAPE(3 * H, H), "double_blocks.%d.img_attn_qkv.weight", i);
 *     rc = binder_finish(&b, &err);        one error that lists every missing, extra and misshapen tensor
 */
#ifndef WORKER_MODEL_CKPT_H
#define WORKER_MODEL_CKPT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "common/err.h"
#include "kernels/device.h"
#include "kernels/tensor.h"

struct ckpt;
struct pool;

/* A file or folder, by its contents: .safetensors, a folder with model.safetensors(.index.json), a zip (.pt, .bin,
 * TorchScript). ERR_NOTFOUND, ERR_FORMAT (with what and where), ERR_IO. */
int ckpt_open(struct ckpt **ret, const char *path, struct err *err);
/* The fp8 transformer and its map: weights that are F8E4M3 get their scale. */
int ckpt_open_fp8(struct ckpt **ret, const char *path, const char *map_path, struct err *err);
/* From a list "name<TAB>dtype<TAB>64x3x7<TAB>...": shapes only. The text is copied. */
int ckpt_open_list(struct ckpt **ret, const char *text, size_t len, struct err *err);
void ckpt_close(struct ckpt *c);
/* Drops what the device packed or uploaded of this checkpoint; before ckpt_close where the device lives on: another file
 * may be mapped to the same addresses. */
void ckpt_forget(const struct ckpt *c, struct device *device);

/* Names lose everything up to and including an outer key ("module", "ema", "state_dict") at opening. */
/* Deletes the text `part` from every name wherever it occurs ("vae."). */
int ckpt_strip(struct ckpt *c, const char *part, struct err *err);

size_t ckpt_count(const struct ckpt *c);
const char *ckpt_name(const struct ckpt *c, size_t i); /* sorted by name */
struct tensor ckpt_tensor(const struct ckpt *c, size_t i);
/* TENSOR_NONE if there is none of that name. Host memory, borrowed until ckpt_close. */
struct tensor ckpt_find(const struct ckpt *c, const char *name);
/* Dimension dim of the tensor of that name, 0 if it is not there: for reading dims from a checkpoint. */
int64_t ckpt_dim(const struct ckpt *c, const char *name, int dim);
/* How many k = 0, 1, ... have a name starting with prefix + k + "." ("double_blocks." -> 20). */
int ckpt_count_blocks(const struct ckpt *c, const char *prefix);
bool ckpt_has_data(const struct ckpt *c); /* false for lists */
size_t ckpt_bytes(const struct ckpt *c);  /* of all tensors */
/* SHA-256 over names, dtypes, shapes and bytes as hex (64 + NUL); computed on first call, 1 s per few hundred MB. */
int ckpt_digest(struct ckpt *c, char hex[65], struct err *err);

/* Where bound weights go. */
struct ckpt_place {
    struct pool *pool; /* borrowed; NULL: each tensor is uploaded for itself, for as long as the checkpoint is there */
    bool is_streamed;  /* layers lie in two slots in turn, where the network can (binder_slots); else all are there together */
    int block;         /* set by binder_init: the pool's block, from its offset 0 on */
    size_t bytes;      /* set by binder_finish: what they take of the device; of a pool from 0 to their end */
    size_t apart;      /* the same where each has an allocation of its own, as a GPU rounds it up */
};
/* To be set before binding, read afterwards. Initially no pool. */
struct ckpt_place *ckpt_place(struct ckpt *c);

struct binder {
    struct ckpt *ckpt;
    struct device *device; /* NULL: planning, tensors stay without data */
    const char *what;      /* for messages: "vae" */
    int block;             /* of the pool, where there is one */
    size_t bytes, apart;   /* as in ckpt_place */
    unsigned char *used;   /* owned: one byte a tensor */
    struct buf problems;   /* owned */
    size_t n_problems;
    struct err err;        /* device failures */
};

void binder_init(struct binder *b, struct ckpt *c, struct device *device, const char *what);
/* Takes the tensor of that name if its shape is exactly this; otherwise notes the problem and sets *ret to a tensor of
 * the wanted shape without data. Any float dtype is accepted. */
void binder_bind(struct binder *b, struct tensor *ret, const char *name, int n_dims, const int64_t *shape);
void binder_bindf(struct binder *b, struct tensor *ret, int n_dims, const int64_t *shape, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The same, but it stays host memory, for rows that are picked out there. */
void binder_host(struct binder *b, struct tensor *ret, const char *name, int n_dims, const int64_t *shape);
/* What is bound from here on belongs to a block of its own, from that offset of the pool on. Returns its number; without a pool
 * nothing is done. */
int binder_block(struct binder *b, const char *name, size_t offset);
size_t binder_end(const struct binder *b); /* offset behind the block's last weight; 0 without a pool */
/* Binds n layers by fn. Streamed: each is a block, in two slots in turn, the first at *at; *at becomes the second's offset,
 * *end the offset behind it. Otherwise they go where the binder stands. block[i] is layer i's number. */
typedef void binder_layer_fn(struct binder *b, void *arg, int i);
void binder_slots(struct binder *b, const char *name, int n, size_t *at, binder_layer_fn *fn, void *arg, int *block,
                  size_t *end);
/* Names starting with prefix are known and not needed (decoder of Whisper, lm_head, ...): not "extra". */
void bind_ignore(struct binder *b, const char *prefix);
/* Frees the binder. ERR_WEIGHTS listing what is missing, misshapen, extra (extra ones only if strict). */
int binder_finish(struct binder *b, bool strict, struct err *err);

#endif
