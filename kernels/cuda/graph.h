/* graph.h -- recordings of what the compute stream gets (device_hooks of kernels/run_repeat.h). For module.cu. */
#ifndef KERNELS_CUDA_GRAPH_H
#define KERNELS_CUDA_GRAPH_H

#include "kernels/cuda/cuda.h"

void graph_hooks(struct device_hooks *h); /* sets repeat_* */

#endif
