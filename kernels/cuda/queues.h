/* queues.h -- copies of weights beside the ops (device_hooks of kernels/pool.h). For module.cu. */
#ifndef KERNELS_CUDA_QUEUES_H
#define KERNELS_CUDA_QUEUES_H

#include "kernels/cuda/cuda.h"

int queues_open(struct device *d, struct err *err); /* the events; queues_close also after a failure */
void queues_close(struct device *d);
void queues_hooks(struct device_hooks *h); /* sets copy, mark, wait, pin, unpin */

#endif
