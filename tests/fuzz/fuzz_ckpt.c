/* fuzz_ckpt.c -- any bytes as a checkpoint file: safetensors or PyTorch zip, as its first bytes say. What
 * opens must be readable to the last byte. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "worker/model/ckpt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64], hex[65];
    struct ckpt *c = NULL;
    struct err err = {0};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0)
        return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (write(fd, data, size) == (ssize_t)size && ckpt_open(&c, path, &err) == 0) {
        ckpt_digest(c, hex, &err);
        ckpt_close(c);
    }
    close(fd);
    return 0;
}
