/* comm_nccl.h -- the carrier between GPUs: NCCL's sends and receives on the compute stream, device memory to device memory.
 *
 * control is another carrier between the same ranks (sockets or threads), borrowed: it hands NCCL's id around, carries
 * agreement, and is how a rank that died or gave up is noticed. A thread looks at it ten times a second; on a failure, of
 * NCCL's own too, it aborts the communicator, which ends the kernels that wait on the stream.
 *
 *     rc = comm_nccl_open(device, control, 60 * CLOCK_S, &c, &err);        device_hooks.comm: all ranks call it
 *
 * ERR_UNSUPPORTED is the answer of all ranks alike, with the reason of one: it has no NCCL, another version, NCCL refuses, two
 * share a GPU (which NCCL does not do). control serves as well then. Any other failure is control's own. NCCL has a minute to
 * find all ranks: control's deadline should be longer.
 *
 * NCCL takes memory of the device for its channels, some hundred MiB at the first exchange, which no plan counts; a device that
 * has not so much left fails there.
 *
 * exchange only enqueues: a failure is seen by a later call, or by check after whoever waited for the stream. Lengths that
 * disagree are not noticed: NCCL does not compare them. What was enqueued last has the deadline to be done by the GPU.
 *
 * Written from NCCL's user guide (2.28: communicators, groups, point to point, fault tolerance). Tested on an emulation of
 * that contract (tests/cudaemu/libs/nccl.c) with one emulated GPU a rank; no machine with two GPUs was at hand.
 */
#ifndef KERNELS_CUDA_COMM_NCCL_H
#define KERNELS_CUDA_COMM_NCCL_H

#include <stdint.h>

#include "common/err.h"

struct comm;
struct device;

#ifdef __cplusplus
extern "C" {
#endif
int comm_nccl_open(struct device *d, struct comm *control, int64_t deadline_us, struct comm **ret, struct err *err);
#ifdef __cplusplus
}
#endif

#endif
