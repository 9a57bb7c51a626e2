/* memory.h -- the device's memory: the arena, the work buffer, staging, weights. For module.cu; ops see cuda.h alone. */
#ifndef KERNELS_CUDA_MEMORY_H
#define KERNELS_CUDA_MEMORY_H

#include "kernels/cuda/cuda.h"

int memory_open(struct device *d, struct err *err); /* work buffer and staging; memory_close also after a failure */
void memory_close(struct device *d);
void memory_hooks(struct device_hooks *h); /* sets all but close */
/* device_hooks' read: waits for the ops before it. */
int memory_read(struct device *d, void *host, const void *src, size_t bytes);

#endif
