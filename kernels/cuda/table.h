/* table.h -- the op table of the module. */
#ifndef KERNELS_CUDA_TABLE_H
#define KERNELS_CUDA_TABLE_H

#include "kernels/cuda/cuda.h"

const struct op_table *table_get(void);

#endif
