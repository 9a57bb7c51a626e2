/* test_nccl_door.c -- the real NCCL where it is: kernels/cuda/lib_nccl.c finds it and all that is called of it, and a group
 * of one rank comes up, or without a GPU is refused in a way that kernels/cuda/comm_nccl.c knows.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/lib_nccl.h"

#define SKIP 77

static int failed;

static void check(int fine, const char *what, int got)
{
    failed += !fine;
    printf("%s %s (%d)\n", fine ? "ok  " : "FAIL", what, got);
}

int main(void)
{
    struct err err = {0};
    ncclUniqueId id = {{0}}, other = {{0}};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm = NULL;
    ncclResult_t now = ncclInProgress;
    int version = 0;
    const struct lib_nccl *nccl = lib_nccl_load(&err);
    if (!nccl) {
        printf("%s\n", err.text);
        return err.code == ERR_UNSUPPORTED && strstr(err.text, "libnccl.so.2") ? SKIP : 1;
    }
    const ncclResult_t known = nccl->GetVersion(&version);
    check(known == ncclSuccess && version >= 21400, "its version", version);
    const ncclResult_t made = nccl->GetUniqueId(&id), again = nccl->GetUniqueId(&other);
    check(made == ncclSuccess && again == ncclSuccess && memcmp(&id, &other, sizeof(id)) != 0, "ids that differ", 0);
    config.blocking = 0;
    const ncclResult_t said = nccl->CommInitRankConfig(&comm, 1, id, 0, &config);
    while (comm && now == ncclInProgress)
        if (nccl->CommGetAsyncError(comm, &now) != ncclSuccess)
            now = ncclInternalError;
    check(comm ? now == ncclSuccess : said != ncclSuccess && said != ncclInProgress && nccl->GetErrorString(said)[0],
          comm ? "a group of one" : "no GPU, no communicator", comm ? now : said);
    if (comm)
        check(nccl->CommAbort(comm) == ncclSuccess, "and its end", 0);
    return failed > 0;
}
