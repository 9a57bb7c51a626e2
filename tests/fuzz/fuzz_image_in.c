/* fuzz_image_in.c -- any bytes as a picture: read without a sandbox, so that every fault shows. What opens
 * has all its pixels. */
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "worker/media/claim.h"
#include "worker/media/image_in.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct image im = {0};
    struct err err = {0};
    uint64_t w, h;
    claim_size(data, size, &w, &h);
    (void)claim_is_cut(data, size);
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0)
        return 0;
    if (write(fd, data, size) == (ssize_t)size && image_in_fd(fd, true, &im, &err) == 0) {
        volatile uint8_t last = im.pixels[(size_t)im.width * (size_t)im.height * 3 - 1];
        (void)last;
    }
    image_done(&im);
    close(fd);
    return 0;
}
