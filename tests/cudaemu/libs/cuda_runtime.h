/* cuda_runtime.h -- what kernels/cuda/lib_*.c need of it, in C; the rest of the emulation is C++ (../include). */
#ifndef TESTS_CUDAEMU_LIBS_CUDA_RUNTIME_H
#define TESTS_CUDAEMU_LIBS_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

typedef struct cudaemu_stream *cudaStream_t;
typedef struct cudaemu_event *cudaEvent_t;
typedef int cudaError_t;
enum { cudaSuccess = 0, cudaErrorNotReady = 600 };
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice = 3 };
#define cudaEventDisableTiming 2u

const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError(void);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetPCIBusId(char *ret, int size, int device);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventQuery(cudaEvent_t e);

/* fn with a copy of arg as work of s, in its order; 0 or a cudaError_t. */
int cudaemu_enqueue(cudaStream_t s, void (*fn)(void *arg), const void *arg, size_t bytes);
/* What s gets from here on waits, whatever the order, until another thread says release: once for each hold. */
void cudaemu_hold(cudaStream_t s);
void cudaemu_release(cudaStream_t s);

#endif
