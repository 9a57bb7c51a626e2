/* memory.h -- the device's memory: the arena, the work buffer, staging, weights. For module.cu; ops see cuda.h alone. */
#ifndef KERNELS_CUDA_MEMORY_H
#define KERNELS_CUDA_MEMORY_H

#include "kernels/cuda/cuda.h"

/* Work buffer and staging, and what counts against a memory_limit; memory_close also after a failure. */
int memory_open(struct device *d, size_t memory_limit, struct err *err);
void memory_close(struct device *d);
void memory_hooks(struct device_hooks *h); /* sets all but close */
/* host -> dst on stream s, through pinned memory: host is free again on return. *last: of the last piece. */
cudaError_t memory_send(struct cuda_impl *c, cudaStream_t s, char *dst, const char *host, size_t bytes,
                        struct cuda_slot **last);
/* device_hooks' read: waits for the ops before it. */
int memory_read(struct device *d, void *host, const void *src, size_t bytes);

#endif
