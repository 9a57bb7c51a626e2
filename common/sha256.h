/* sha256.h -- SHA-256 (FIPS 180-4), over libcrypto.
 *
 *     struct sha256 h;
 *     if ((rc = sha256_init(&h)) < 0)
 *         goto out;
 *     sha256_add(&h, bytes, n);
 *     rc = sha256_hex(&h, hex);
 * out:
 *     sha256_done(&h);
 */
#ifndef COMMON_SHA256_H
#define COMMON_SHA256_H

#include <stddef.h>

#define SHA256_BYTES 32
#define SHA256_HEX 65 /* 64 lower-case digits and the NUL */

struct sha256 {
    void *ctx; /* owned */
    int rc;    /* the first failure, told by sha256_hex */
};

int sha256_init(struct sha256 *h); /* ERR_NOMEM, ERR_INTERNAL */
void sha256_add(struct sha256 *h, const void *bytes, size_t n);
int sha256_hex(struct sha256 *h, char hex[SHA256_HEX]); /* ends the sum: no add afterwards */
void sha256_done(struct sha256 *h);                     /* zeroed or done already: fine */

/* One piece of memory. */
int sha256_bytes(const void *bytes, size_t n, char hex[SHA256_HEX]);

/* HMAC-SHA256 (RFC 2104) of one piece of memory. ERR_INTERNAL. */
int sha256_hmac(const void *key, size_t key_len, const void *bytes, size_t n, unsigned char ret[SHA256_BYTES]);

#endif
