#include "common/sha256.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "common/err.h"

int sha256_init(struct sha256 *h)
{
    *h = (struct sha256){.ctx = EVP_MD_CTX_new()};
    if (!h->ctx)
        return ERR_NOMEM;
    if (EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1) {
        sha256_done(h);
        return ERR_INTERNAL;
    }
    return 0;
}

void sha256_add(struct sha256 *h, const void *bytes, size_t n)
{
    if (n && h->rc == 0 && EVP_DigestUpdate(h->ctx, bytes, n) != 1)
        h->rc = ERR_INTERNAL;
}

int sha256_hex(struct sha256 *h, char hex[SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    if (h->rc == 0 && (EVP_DigestFinal_ex(h->ctx, sum, &len) != 1 || len != 32))
        h->rc = ERR_INTERNAL;
    if (h->rc < 0)
        return h->rc;
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = digits[sum[i] >> 4];
        hex[2 * i + 1] = digits[sum[i] & 15];
    }
    hex[64] = 0;
    return 0;
}

void sha256_done(struct sha256 *h)
{
    EVP_MD_CTX_free(h->ctx);
    *h = (struct sha256){0};
}

int sha256_bytes(const void *bytes, size_t n, char hex[SHA256_HEX])
{
    struct sha256 h;
    int rc = sha256_init(&h);
    if (rc < 0)
        return rc;
    sha256_add(&h, bytes, n);
    rc = sha256_hex(&h, hex);
    sha256_done(&h);
    return rc;
}

int sha256_hmac(const void *key, size_t key_len, const void *bytes, size_t n, unsigned char ret[SHA256_BYTES])
{
    unsigned len = 0;
    if (!HMAC(EVP_sha256(), key, (int)key_len, bytes, n, ret, &len) || len != SHA256_BYTES)
        return ERR_INTERNAL;
    return 0;
}
