/* mp4.h -- frames and sound to an MP4: H.264 High yuv420p (BT.709) + AAC, faststart.
 *
 *     struct mp4 *m;
 *     if ((rc = mp4_open(&m, path, &options, &err)) < 0) ...
 *     rc = mp4_sound(m, &sound, &err);     once, before the first frame; left out for a mute video
 *     rc = mp4_frames(m, yuv, n, &err);    as they are decoded
 *     rc = mp4_finish(m, &err);            flush, trailer, fsync; frees m
 *     mp4_abort(m);                        instead: frees, leaves the (useless) file to the caller
 *
 * The sound is cut to the end of the last frame, plus what is left of a frame. Same frames and sound: same
 * bytes (fixed encoder threads, no dates, no version texts).
 */
#ifndef WORKER_MEDIA_MP4_H
#define WORKER_MEDIA_MP4_H

#include <stdint.h>

#include "common/err.h"
#include "worker/media/audio_in.h"

struct mp4;

struct mp4_options {
    int width, height;  /* even */
    double fps;         /* 25 or 12.5 (any multiple of 0.5) */
    int crf;            /* 0..51; 17 is visually lossless */
    const char *preset; /* of x264; NULL: "medium" */
};

/* ERR_INVALID (an odd size), ERR_IO, ERR_NOSPACE, ERR_NOMEM, ERR_UNSUPPORTED (no encoder in this libav). */
int mp4_open(struct mp4 **ret, const char *path, const struct mp4_options *o, struct err *err);
/* I420, BT.709, limited range, chroma sited in the centre (op_to_yuv420): [n][height * 3/2][width]. */
int mp4_frames(struct mp4 *m, const uint8_t *yuv, int64_t n, struct err *err);
int mp4_sound(struct mp4 *m, const struct sound *s, struct err *err);
int64_t mp4_count(const struct mp4 *m); /* frames so far */
int mp4_finish(struct mp4 *m, struct err *err);
void mp4_abort(struct mp4 *m);

#endif
