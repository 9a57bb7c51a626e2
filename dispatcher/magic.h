/* magic.h -- a cheap look at a media file's first bytes: is it of a kind we take, and what size does it claim?
 *
 * Not a decoder: it keeps what cannot possibly be media, and pictures that claim absurd sizes, from costing a worker
 * anything. What passes here is decoded, and judged again, by the worker.
 *
 * Sources: PNG (W3C, 11.2.2 IHDR), JPEG (ITU-T T.81, B.2.2 frame header), WebP (RFC 9649), GIF89a, and for sound the
 * signatures of the containers that libav reads.
 */
#ifndef DISPATCHER_MAGIC_H
#define DISPATCHER_MAGIC_H

#include <stddef.h>

#include "common/err.h"

enum { MAGIC_HEAD = 32 }; /* so many first bytes decide about the kind */

/* field ("image") begins the sentence. n: bytes at hand, at most MAGIC_HEAD are looked at. ERR_MEDIA. */
int magic_image_head(const char *field, const unsigned char *bytes, size_t n, struct err *err);
int magic_audio_head(const char *field, const unsigned char *bytes, size_t n, struct err *err);

/* The whole file: not empty, of a known kind, and for pictures the claimed size within 1..40 megapixels. */
int magic_image_file(const char *field, int fd, int *ret_w, int *ret_h, struct err *err);
int magic_audio_file(const char *field, int fd, struct err *err);

/* How long a recording is: exactly for WAV, whose header says it (RIFF, RF64; a size that was never filled in counts to the
 * file's end); of other kinds a guess from the file's bytes at 16,000 a second. 0 for an empty file. For predictions. */
double magic_audio_seconds(int fd);

/* "image/png", "audio/wav", ... by the first bytes; "application/octet-stream" when not known. */
const char *magic_type(const unsigned char *bytes, size_t n);

#endif
