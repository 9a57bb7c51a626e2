/* pool.h -- device memory for weights that are not all there at once.
 *
 * A pool is one piece of device memory. Blocks of weights have fixed places in it, and places may overlap: taking a block
 * brings it up from host memory (a mapped file, or pinned copies of it) and throws out those it overlaps. As a place never
 * changes, a tensor is bound once, before anything is there, and its data pointer stays right.
 *
 *     rc = pool_new(&p, device, bytes, false, &err);              device NULL: planning: pool_end says how much it takes
 *     int top = pool_block(p, "dit", 0);                          at an offset in bytes
 *     rc = pool_place(p, top, host, &t, &err);                    t: as host, with data where it will be
 *     int even = pool_block(p, "double 0", pool_end(p, top)), odd = pool_block(p, "double 1", ...), ...
 *
 *     pool_take(r, p, even);         ops enqueued from here on see its weights
 *     ...ops that read them...
 *     pool_next(r, p, even, odd);    those are all: odd comes up while they run, if it is not there
 *     pool_free(p);
 *
 * A pool_next that guesses wrong costs a copy, never a wrong result: pool_take brings up what is missing. p NULL: both do
 * nothing (weights are where they are). While planning both only count: run.brought comes out as in the run itself.
 *
 * One thread, like the run. Host memory of placed tensors must stay until pool_free.
 */
#ifndef KERNELS_POOL_H
#define KERNELS_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "kernels/run.h"

struct pool;

/* bytes: of the device, ERR_NOMEM with how much is free. is_pinned: pool_place copies weights into pinned host memory, from
 * which copies run at the bus' full rate without the CPU; otherwise they go through small pinned buffers. */
int pool_new(struct pool **ret, struct device *device, size_t bytes, bool is_pinned, struct err *err);
void pool_free(struct pool *p); /* NULL is fine; waits for the device */

/* A block whose first weight lies at offset (rounded up to 256); its number, or ERR_NOMEM. name is copied, cut. */
int pool_block(struct pool *p, const char *name, size_t offset);
/* Behind the block's other weights. host: contiguous; a scale (fp8) stays host memory. Blocks may be filled in any order.
 * ERR_NOMEM where the pool ends before (not while planning). */
int pool_place(struct pool *p, int block, struct tensor host, struct tensor *ret, struct err *err);
/* A block without weights for what ops write themselves, such as an arena: [offset, offset + bytes), from the next multiple
 * of 256 on. It holds what they wrote from its pool_take on until a block over it is taken. Its number, or ERR_NOMEM where
 * the pool ends before. pool_memory: where it lies; NULL while planning. */
int pool_room(struct pool *p, const char *name, size_t offset, size_t bytes);
void *pool_memory(const struct pool *p, int room);
size_t pool_size(const struct pool *p, int block); /* bytes from its start to its end */
size_t pool_end(const struct pool *p, int block); /* offset behind its last weight, rounded up to 256; of a room, its end */

/* What overlaps block is thrown out as soon as the ops that may read it are over. */
void pool_take(struct run *r, struct pool *p, int block);
/* After a pool_take of block; ops that read block come after another one. next < 0: nothing is guessed. next stays where it
 * is if it would throw out block, or one that was taken and is not through with its ops. ERR_INTERNAL where block was thrown
 * out since it was taken: ops may have read another's weights. */
void pool_next(struct run *r, struct pool *p, int block, int next);

struct pool_stats {
    double bytes;       /* brought up so far */
    int64_t n_taken, n_missing; /* pool_take calls; those that found the block not even on its way */
};
struct pool_stats pool_stats(const struct pool *p);

#endif
