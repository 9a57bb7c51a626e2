#include "common/sha256.h"

#include <openssl/evp.h>
#include <string.h>

#include "common/err.h"

int sha256_init(struct sha256 *s)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    *s = (struct sha256){.ctx = ctx};
    if (!ctx)
        return ERR_NOMEM;
    s->failed = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1;
    return 0;
}

void sha256_add(struct sha256 *s, const void *bytes, size_t n)
{
    if (n && !s->failed)
        s->failed = EVP_DigestUpdate(s->ctx, bytes, n) != 1;
}

int sha256_done(struct sha256 *s, uint8_t sum[32])
{
    uint8_t out[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    int ok = s->ctx && !s->failed && EVP_DigestFinal_ex(s->ctx, out, &len) == 1 && len == 32;
    EVP_MD_CTX_free(s->ctx);
    *s = (struct sha256){0};
    if (!ok)
        return ERR_INTERNAL;
    memcpy(sum, out, 32);
    return 0;
}

void sha256_hex(const uint8_t sum[32], char text[65])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        text[2 * i] = digits[sum[i] >> 4];
        text[2 * i + 1] = digits[sum[i] & 15];
    }
    text[64] = 0;
}
