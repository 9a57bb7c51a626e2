/* claim.h -- the width and height that a picture file's header claims, without decoding anything.
 *
 * A lying header is the cheapest way to make a decoder ask for gigabytes; this is looked at first, in the
 * whole file's bytes. Nothing here allocates. Layouts: PNG (W3C), GIF89a, BMP info headers, RIFF WebP
 * container, JPEG (ITU-T T.81 annex B), TIFF 6.0 part 1.
 */
#ifndef WORKER_MEDIA_CLAIM_H
#define WORKER_MEDIA_CLAIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum claim_kind { CLAIM_PNG, CLAIM_JPEG, CLAIM_WEBP, CLAIM_GIF, CLAIM_BMP, CLAIM_TIFF, CLAIM_KINDS };

/* By the first bytes; CLAIM_KINDS for anything else. */
enum claim_kind claim_kind_of(const uint8_t *data, size_t n);

/* 0 and 0 where the header is cut off or says nothing: then the decoder will fail too. */
void claim_size(const uint8_t *data, size_t n, uint64_t *ret_w, uint64_t *ret_h);

/* A JPEG without an end-of-image marker (0xd9) behind its first scan: libav fills the rest with grey and says
 * nothing. */
bool claim_is_cut(const uint8_t *data, size_t n);

#endif
