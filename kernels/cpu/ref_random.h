/* ref_random.h -- the counter-based generator under op_randn; the formula is at the head of ref_random.c. */
#ifndef KERNELS_CPU_REF_RANDOM_H
#define KERNELS_CPU_REF_RANDOM_H

#include <stdint.h>

/* Ten rounds of Philox4x32. */
void cpu_ref_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4]);
/* Elements 4 block .. 4 block + 3 of a stream. */
void cpu_ref_normal4(uint64_t seed, uint32_t stream, uint64_t block, float ret[4]);

#endif
