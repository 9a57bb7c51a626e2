/* webhook_sign.h -- the signature of a webhook, after Standard Webhooks 1.0 (symmetric, "v1").
 *
 * Signed is "id.timestamp.body" with HMAC-SHA256; the key is what stands base64-coded behind "whsec_". With several
 * secrets there are several signatures, separated by blanks: a receiver that knows one of them is content, so secrets
 * are changed without a gap: put the new one in front, tell the receiver, take the old one away.
 *
 *     char text[WEBHOOK_SIGN_TEXT];
 *     rc = webhook_sign("whsec_NEW...,whsec_OLD...", id, seconds, body, len, text, &err);
 *     "webhook-signature: v1,K5oZ... v1,9fQe..."
 */
#ifndef DISPATCHER_WEBHOOK_SIGN_H
#define DISPATCHER_WEBHOOK_SIGN_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum {
    WEBHOOK_SIGN_SECRETS = 8,                        /* at once */
    WEBHOOK_SIGN_TEXT = WEBHOOK_SIGN_SECRETS * 48 + 1, /* "v1," + 44 of base64 + a blank, each */
};

/* Secrets separated by commas, each whsec_ and the base64 of 24 to 64 bytes. ERR_INVALID says which one is not good, never
 * what it is. "" is good. */
int webhook_sign_check(const char *secrets, struct err *err);

/* The header's value. secrets as above, not "". */
int webhook_sign(const char *secrets, const char *id, int64_t timestamp_s, const char *body, size_t len,
                 char ret[WEBHOOK_SIGN_TEXT], struct err *err);

#endif
