/* keys.h -- who may call: the keys file read into a table, a shown key looked up in it, and a token bucket for each key.
 *
 * Nothing here waits or watches; tenants.h loads the file and loads it again when it changes.
 *
 *     struct keys *k = NULL;
 *     if ((rc = keys_parse(text, len, &k, &err)) < 0) ...        "tenants.acme.keys[0]: sha256: ..."
 *     struct keys_key *who = keys_find(k, "tk_Zm9v...");         NULL: unknown
 *     if (who && !keys_expired(who, clock_wall_ms())) ...        who->tenant, who->scope
 *     keys_free(k);
 *
 * The file (JSON; every member but `tenants` may be left out; 0 means no limit):
 *
 *     {"tenants": {"acme": {
 *         "weight": 2, "max_running": 4, "max_queued": 100, "gpu_s_day": 7200, "rate_per_min": 30, "burst": 10,
 *         "webhook_secrets": ["whsec_..."],
 *         "keys": [{"id": "acme-2026", "sha256": "9f86...", "scope": "jobs", "expires": "2027-01-01"}]}}}
 *
 * Hashes: one plain SHA-256 of the key's text. A salt and a slow hash protect secrets that can be guessed; keys_make draws
 * 256 random bits, which nobody can try out, so they would add nothing but time to every request. A key that a person
 * thought up does not belong here. Comparison looks at every key of the table and at all of each hash, always.
 */
#ifndef DISPATCHER_KEYS_H
#define DISPATCHER_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/sha256.h"

enum {
    KEYS_NAME = 49,               /* of tenants and keys: 1..48 of [A-Za-z0-9_.-] and the NUL */
    KEYS_MAX = 4096,              /* keys and tenants of one file */
    KEYS_FILE_MAX = 4 << 20,      /* bytes */
    KEYS_SECRETS = 4,             /* webhook secrets of one tenant: more than a rotation needs */
    KEYS_SECRET = 128,            /* characters of one of them and the NUL */
    KEYS_TEXT = 48,               /* what keys_make writes: "tk_" and 43 characters of base64url */
    KEYS_SHOWN_MAX = 512,         /* a longer key is none of ours */
};

/* What a key opens: the jobs of its tenant; or everything. */
enum keys_scope { KEYS_NOBODY, KEYS_JOBS, KEYS_ADMIN };

struct keys_tenant {
    char name[KEYS_NAME];
    double weight;
    int64_t max_running, max_queued;
    double gpu_s_day, rate_per_min;
    int64_t burst;
    char secret[KEYS_SECRETS][KEYS_SECRET]; /* "whsec_" and base64: Standard Webhooks; the newest first */
    int n_secrets;
};

struct keys_key {
    char id[KEYS_NAME];
    char tenant[KEYS_NAME];
    uint64_t hash[4];
    enum keys_scope scope;
    int64_t expires_ms; /* since 1970; 0: never */
    double tokens;      /* keys_take's bucket */
    int64_t filled_us;
};

struct keys {
    struct keys_tenant *tenant; /* owned, by name */
    struct keys_key *key;       /* owned */
    size_t n_tenants, n_keys;
};

/* ERR_BADREQ for what is no JSON, with line and column; ERR_INVALID names the member. *ret is owned by the caller. */
int keys_parse(const char *text, size_t len, struct keys **ret, struct err *err);
/* Adds the setting api_key: plain keys, separated by commas, each of scope admin and of the tenant without a name. k may
 * be NULL at first: *k is made. */
int keys_add_plain(struct keys **k, const char *list, struct err *err);
void keys_free(struct keys *k); /* NULL is fine */

/* shown: "KEY", or "id:KEY" with the key's own id. NULL: nobody's. Expired keys are found too. */
struct keys_key *keys_find(const struct keys *k, const char *shown);
bool keys_expired(const struct keys_key *key, int64_t now_ms);
const struct keys_tenant *keys_tenant(const struct keys *k, const char *name); /* NULL: not in the file */

/* One request out of the key's bucket, which fills by rate a second and holds burst (>= 1). 0: granted; otherwise nothing
 * was taken, and so many microseconds later there is one. */
int64_t keys_take(struct keys_key *key, double rate, double burst, int64_t now_us);
/* The same keys keep their buckets: a reload is no way to get more. */
void keys_carry(struct keys *to, const struct keys *from);

/* Draws a new key. ERR_IO when there is no randomness. */
int keys_make(char ret_key[KEYS_TEXT], char ret_hash[SHA256_HEX]);
/* "2027-01-01" (its first moment, UTC) or "2027-01-01T12:30:00Z". ERR_INVALID. */
int keys_time(const char *text, int64_t *ret_ms);

#endif
