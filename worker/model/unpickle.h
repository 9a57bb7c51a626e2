/* unpickle.h -- reads the pickles of checkpoints and executes nothing.
 *
 * A pickle is a program for a stack machine, and in Python's own reader it may import and call anything. Here
 * names of classes and functions are only recorded; the few calls that a checkpoint needs (rebuilding a
 * tensor from a storage, an OrderedDict, torch.Size) become plain values, every other call is refused with
 * its name. Protocol 2 is what torch.save writes; the opcodes of 3 and 4 are understood as well. Source:
 * Python's Lib/pickletools.py (meaning of the opcodes).
 *
 *     struct unpickle *u;
 *     if ((rc = unpickle_new(&u, bytes, len, &err)) < 0) ...
 *     const struct unpickle_value *root = unpickle_root(u);
 *     ...
 *     unpickle_free(u);
 *
 * Values belong to u. They may be shared and even contain themselves: whoever walks them counts depth and
 * visits.
 */
#ifndef WORKER_MODEL_UNPICKLE_H
#define WORKER_MODEL_UNPICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "kernels/tensor.h"

enum unpickle_kind {
    UNPICKLE_NONE,
    UNPICKLE_BOOL,
    UNPICKLE_INT,
    UNPICKLE_FLOAT,
    UNPICKLE_STR,    /* also byte strings */
    UNPICKLE_GLOBAL, /* "torch.FloatStorage": a name, nothing more */
    UNPICKLE_LIST,   /* tuples too */
    UNPICKLE_DICT,   /* items: key, value, key, value, ... */
    UNPICKLE_OBJECT, /* an instance of a TorchScript class: its attributes as a dict in items */
    UNPICKLE_STORAGE,
    UNPICKLE_TENSOR,
    UNPICKLE_MARK_, /* inside the machine only */
};

struct unpickle_storage {
    const char *key; /* entry data/<key> of the zip */
    bool untyped;    /* then count is in bytes and dtype says nothing */
    enum dtype dtype;
    int64_t count;
};

struct unpickle_tensor {
    const struct unpickle_storage *storage;
    enum dtype dtype;
    int64_t offset; /* in elements */
    int n_dims;     /* 0: a scalar */
    int64_t shape[TENSOR_MAX_DIMS];
    int64_t stride[TENSOR_MAX_DIMS];
};

struct unpickle_value {
    enum unpickle_kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        struct {
            const char *s; /* NUL-terminated; holds no other NUL where kind is GLOBAL */
            size_t len;
        } text;
        struct {
            struct unpickle_value **items;
            size_t n, cap;
        } list;
        struct unpickle_storage *storage;
        struct unpickle_tensor *tensor;
    } u;
};

struct unpickle;

/* ERR_FORMAT for a damaged pickle, for a call that is not a checkpoint's, for opcodes that no checkpoint has;
 * ERR_TOOBIG, ERR_NOMEM. bytes are not needed afterwards. */
int unpickle_new(struct unpickle **ret, const uint8_t *bytes, size_t len, struct err *err);
void unpickle_free(struct unpickle *u);
const struct unpickle_value *unpickle_root(const struct unpickle *u);
/* Value of a DICT or OBJECT under a string key, or NULL. */
const struct unpickle_value *unpickle_get(const struct unpickle_value *v, const char *key);

#endif
