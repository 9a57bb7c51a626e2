/* ckpt_random.h -- a checkpoint of random numbers: a published model's names, types and shapes at a fraction of its memory,
 * for timing where the weights are not.
 *
 *     rc = ckpt_open_random(&c, (const char *)avatar_full_dit_tsv, avatar_full_dit_tsv_len, 1, &err);
 *     rc = dit_open(&d, c, device, &err);                       as with any other
 *     ckpt_close(c);
 *
 * Matrices and convolutions [n, k...] are about normal with deviation 1/sqrt(k), so that a layer keeps its input's size.
 * Vectors are real: biases of deviation 0.02, scales of norms 1 with deviation 0.1. Whole numbers are 0.
 *
 * Every tensor has addresses of its own, as devices tell weights apart by them, but matrices of one element type and k share
 * their bytes: at most CKPT_RANDOM_POOL for all, mapped again and again from a page of each tensor's own choice on. They are
 * read-only. What the system counts as resident grows with what is read of the mappings, the memory behind them does not.
 */
#ifndef WORKER_MODEL_CKPT_RANDOM_H
#define WORKER_MODEL_CKPT_RANDOM_H

#include <stdint.h>

#include "worker/model/ckpt.h"

#define CKPT_RANDOM_POOL ((size_t)128 << 20)

/* list: as ckpt_open_list takes it. The same seed gives the same numbers. */
int ckpt_open_random(struct ckpt **ret, const char *list, size_t len, uint64_t seed, struct err *err);

#endif
