#include "dispatcher/webhook_sign.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "common/buf.h"
#include "common/sha256.h"
#include "common/str.h"

enum {
    KEY_MIN = 24,
    KEY_MAX = 64,
    TEXT_MAX = 88, /* base64 of KEY_MAX bytes */
    HEAD_MAX = 128, /* id and timestamp in front of the body */
};

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

struct key {
    unsigned char bytes[KEY_MAX + 3];
    size_t len;
};

/* Whole groups of four, padded. */
static bool decode(const char *text, size_t len, struct key *ret)
{
    size_t pad = 0;
    ret->len = 0;
    if (len == 0 || len % 4 || len > TEXT_MAX)
        return false;
    while (pad < 2 && text[len - 1 - pad] == '=')
        pad++;
    uint32_t group = 0;
    for (size_t i = 0; i < len; i++) {
        const char *at = i < len - pad ? strchr(alphabet, text[i]) : alphabet;
        if (!at || !text[i])
            return false;
        group = group << 6 | (uint32_t)(at - alphabet);
        if (i % 4 != 3)
            continue;
        ret->bytes[ret->len++] = (unsigned char)(group >> 16);
        ret->bytes[ret->len++] = (unsigned char)(group >> 8);
        ret->bytes[ret->len++] = (unsigned char)group;
        group = 0;
    }
    ret->len -= pad;
    return true;
}

static void encode(const unsigned char sum[SHA256_BYTES], char ret[45])
{
    for (int i = 0, n = 0; i < SHA256_BYTES; i += 3) {
        uint32_t group = (uint32_t)sum[i] << 16 | (uint32_t)sum[i + 1] << 8;
        group |= i + 2 < SHA256_BYTES ? sum[i + 2] : 0;
        for (int shift = 18; shift >= 0; shift -= 6)
            ret[n++] = alphabet[group >> shift & 63];
    }
    ret[43] = '='; /* 32 bytes: the last group holds two */
    ret[44] = 0;
}

/* The secret at *at, which then stands on the next one, or on the end. */
static int next_key(const char **at, int no, struct key *ret, struct err *err)
{
    const char *s = *at;
    size_t len = strcspn(s, ",");
    *at = s + len + (s[len] == ',');
    while (len && *s == ' ') {
        s++;
        len--;
    }
    while (len && s[len - 1] == ' ')
        len--;
    if (no > WEBHOOK_SIGN_SECRETS)
        return err_set(err, ERR_INVALID, "more than %d secrets", WEBHOOK_SIGN_SECRETS);
    if (len < 6 || memcmp(s, "whsec_", 6) != 0)
        return err_set(err, ERR_INVALID, "secret %d does not begin with whsec_", no);
    if (!decode(s + 6, len - 6, ret) || ret->len < KEY_MIN || ret->len > KEY_MAX)
        return err_set(err, ERR_INVALID, "secret %d: whsec_ and the base64 of %d to %d bytes is expected, as made by: "
                       "echo whsec_$(openssl rand -base64 32)", no, KEY_MIN, KEY_MAX);
    return 0;
}

int webhook_sign_check(const char *secrets, struct err *err)
{
    struct key key;
    int rc = 0;
    for (int no = 1; rc == 0 && *secrets; no++)
        rc = next_key(&secrets, no, &key, err);
    explicit_bzero(&key, sizeof key);
    return rc;
}

int webhook_sign(const char *secrets, const char *id, int64_t timestamp_s, const char *body, size_t len,
                 char ret[WEBHOOK_SIGN_TEXT], struct err *err)
{
    unsigned char sum[SHA256_BYTES];
    char text[45], all[WEBHOOK_SIGN_TEXT] = "";
    struct key key;
    struct buf b;
    size_t n = 0;
    buf_init(&b, len + HEAD_MAX);
    int rc = buf_printf(&b, "%s.%" PRId64 ".", id, timestamp_s);
    if (rc == 0)
        rc = buf_add(&b, body, len);
    for (int no = 1; rc == 0 && *secrets; no++) {
        rc = next_key(&secrets, no, &key, err);
        if (rc == 0)
            rc = sha256_hmac(key.bytes, key.len, b.data, b.len, sum);
        if (rc == 0) {
            encode(sum, text);
            str_format(all + n, sizeof all - n, "%sv1,%s", n ? " " : "", text);
            n = strlen(all);
        }
    }
    explicit_bzero(&key, sizeof key);
    buf_done(&b);
    if (rc == 0 && n == 0)
        rc = err_set(err, ERR_INVALID, "there is no secret to sign with");
    if (rc == 0)
        str_copy(ret, WEBHOOK_SIGN_TEXT, all);
    else
        err_set(err, rc, "%s", err_text(rc));
    return rc;
}
