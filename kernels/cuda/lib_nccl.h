/* lib_nccl.h -- the door to NCCL. The library is looked for at first use and not before: on a machine without it the module
 * loads, and groups go through host memory.
 *
 *     const struct lib_nccl *nccl = lib_nccl_load(&err);           NULL: ERR_UNSUPPORTED, with the loader's reason
 *     nccl->GroupStart();
 */
#ifndef KERNELS_CUDA_LIB_NCCL_H
#define KERNELS_CUDA_LIB_NCCL_H

#include <nccl.h>

#include "common/err.h"

#define LIB_NCCL_CALLS(X)                                                                                            \
    X(GetVersion) X(GetUniqueId) X(GetErrorString) X(CommInitRankConfig) X(CommGetAsyncError) X(CommFinalize)        \
    X(CommDestroy) X(CommAbort) X(GroupStart) X(GroupEnd) X(Send) X(Recv)

struct lib_nccl {
#define LIB_NCCL_MEMBER(name) __typeof__(nccl##name) *name;
    LIB_NCCL_CALLS(LIB_NCCL_MEMBER)
#undef LIB_NCCL_MEMBER
};

/* For the life of the process; any thread. */
const struct lib_nccl *lib_nccl_load(struct err *err);

#endif
