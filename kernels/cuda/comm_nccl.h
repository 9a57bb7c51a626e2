/* comm_nccl.h -- the carrier between GPUs: NCCL's sends and receives on the compute stream, device memory to device memory.
 *
 * control is another carrier between the same ranks (sockets or threads), borrowed: it hands NCCL's id around, carries
 * agreement, and is how a rank that died or gave up is noticed. A thread looks at it ten times a second; on a failure, of
 * NCCL's own too, it aborts the communicator, which ends the kernels that wait on the stream.
 *
 *     rc = comm_nccl_open(&c, control, stream, 60 * CLOCK_S, &err);      all ranks, each with its device current
 *
 * exchange only enqueues: its failure may be seen by a later call, or by whoever waits for the stream.
 *
 * Not run yet: it compiles against NCCL 2.27 and later headers; no machine with two GPUs was at hand.
 */
#ifndef KERNELS_CUDA_COMM_NCCL_H
#define KERNELS_CUDA_COMM_NCCL_H

#include <cuda_runtime.h>

#include "kernels/comm/comm.h"

int comm_nccl_open(struct comm **ret, struct comm *control, cudaStream_t stream, int64_t deadline_us, struct err *err);

#endif
