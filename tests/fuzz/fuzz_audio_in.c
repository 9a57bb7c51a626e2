/* fuzz_audio_in.c -- any bytes as a sound file: read without a sandbox, so that every fault shows. What opens
 * keeps the limits and can be made the model's input. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "worker/media/audio_in.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct audio_limit limit = {0.01, 5};
    struct sound s = {0};
    struct wave w = {0};
    struct err err = {0};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0)
        return 0;
    if (write(fd, data, size) == (ssize_t)size && audio_in_fd(fd, &limit, &s, &err) == 0) {
        if (s.channels < 1 || s.channels > 2 || s.rate < 1 || (double)s.n > limit.max_s * s.rate)
            abort();
        (void)audio_in_wave(&s, &w, &err);
    }
    wave_done(&w);
    sound_done(&s);
    close(fd);
    return 0;
}
