/* cuda_runtime.h -- what kernels/cuda/lib_*.c need of it, in C; the rest of the emulation is C++ (../include). */
#ifndef TESTS_CUDAEMU_LIBS_CUDA_RUNTIME_H
#define TESTS_CUDAEMU_LIBS_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

typedef struct cudaemu_stream *cudaStream_t;
typedef struct cudaemu_event *cudaEvent_t;
typedef int cudaError_t;

cudaError_t cudaStreamSynchronize(cudaStream_t s);

#endif
