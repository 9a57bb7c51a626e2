/* audio_in.h -- any sound file that libav decodes, to f32 samples.
 *
 *     struct sound s;
 *     if ((rc = audio_in_open(path, &limit, &s, &err)) < 0) ...     decoded, as it is in the file
 *     rc = audio_in_wave(&s, &wave, &err);     for the model: mono (mean of the channels), 16 kHz
 *     sound_done(&s);
 *
 * i16 samples become s/32768, the mean over channels comes before resampling (both as the reference's loader
 * does).
 */
#ifndef WORKER_MEDIA_AUDIO_IN_H
#define WORKER_MEDIA_AUDIO_IN_H

#include <stdint.h>

#include "common/err.h"
#include "worker/media/media.h"

struct sound {
    float *samples; /* owned: [n][channels], in [-1, 1] */
    int64_t n;      /* per channel */
    int channels;   /* 1 or 2: files with more are mixed to mono */
    int rate;
};

struct audio_limit {
    double min_s,
        max_s; /* seconds; outside: ERR_INVALID naming both. The container's own length is checked first */
};

/* ERR_MEDIA: not decodable, no audio stream, samples that are not finite. ERR_NOTFOUND, ERR_NOMEM. */
int audio_in_open(const char *path, const struct audio_limit *limit, struct sound *ret, struct err *err);
/* The same from an open regular file (borrowed, its position moves); opens nothing itself. */
int audio_in_fd(int fd, const struct audio_limit *limit, struct sound *ret, struct err *err);
int audio_in_wave(const struct sound *s, struct wave *ret, struct err *err);
void sound_done(struct sound *s);

/* Both at once, no limits: for tools and tests. */
int audio_in_read(const char *path, struct wave *ret, struct err *err);

#endif
