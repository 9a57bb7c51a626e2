#include "dispatcher/keys.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "common/json.h"
#include "common/mem.h"
#include "common/str.h"

enum { FILE_DEPTH = 8, DIGITS = 64 };

#define NAME_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"

/* ---- small parts ---- */

static bool name_ok(const char *s)
{
    size_t n = s ? strspn(s, NAME_CHARS) : 0;
    return n > 0 && n < KEYS_NAME && s[n] == 0;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 64 lower-case digits to the hash. */
static bool hash_parse(const char *hex, uint64_t ret[4])
{
    uint64_t h[4] = {0};
    for (int i = 0; i < DIGITS; i++) {
        int v = hex_value(hex[i]);
        if (v < 0)
            return false;
        h[i / 16] = h[i / 16] << 4 | (uint64_t)v;
    }
    memcpy(ret, h, sizeof h);
    return hex[DIGITS] == 0;
}

static int hash_of(const char *text, size_t len, uint64_t ret[4])
{
    char hex[SHA256_HEX];
    int rc = sha256_bytes(text, len, hex);
    return rc < 0 ? rc : hash_parse(hex, ret) ? 0 : ERR_INTERNAL;
}

/* n digits at s as a number; -1 when one is none. */
static int digits(const char *s, int n)
{
    int v = 0;
    for (int i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        v = v * 10 + s[i] - '0';
    }
    return v;
}

/* Are the letters of form there? '#' stands for any digit. */
static bool has_form(const char *s, const char *form)
{
    for (; *form; s++, form++) {
        if (*form == '#' ? *s < '0' || *s > '9' : *s != *form)
            return false;
    }
    return *s == 0;
}

int keys_time(const char *text, int64_t *ret_ms)
{
    struct tm t = {0}, back;
    bool day = has_form(text, "####-##-##");
    if (!day && !has_form(text, "####-##-##T##:##:##Z"))
        return ERR_INVALID;
    t.tm_year = digits(text, 4) - 1900;
    t.tm_mon = digits(text + 5, 2) - 1;
    t.tm_mday = digits(text + 8, 2);
    if (!day) {
        t.tm_hour = digits(text + 11, 2);
        t.tm_min = digits(text + 14, 2);
        t.tm_sec = digits(text + 17, 2);
    }
    back = t;
    time_t at = timegm(&back); /* moves a 31st of February on: then it is not what was written */
    if (back.tm_year != t.tm_year || back.tm_mon != t.tm_mon || back.tm_mday != t.tm_mday || back.tm_hour != t.tm_hour ||
        back.tm_min != t.tm_min || back.tm_sec != t.tm_sec || at <= 0)
        return ERR_INVALID;
    *ret_ms = (int64_t)at * 1000;
    return 0;
}

/* ---- the file ---- */

static const char *const tenant_members[] = {"weight", "max_running", "max_queued", "gpu_s_day", "rate_per_min",
                                             "burst", "webhook_secrets", "keys", "note", NULL};
static const char *const key_members[] = {"id", "sha256", "scope", "expires", "note", NULL};

static int members_check(const json_t *o, const char *const *known, struct err *err)
{
    const char *name;
    json_t *v;
    if (!json_is_object(o))
        return err_set(err, ERR_INVALID, "an object { } is expected");
    json_object_foreach((json_t *)(uintptr_t)o, name, v) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], name) != 0)
            i++;
        const char *meant = known[i] ? NULL : str_nearest(name, known);
        if (!known[i])
            return err_set(err, ERR_INVALID, "%.60s: no such member%s%s", name, meant ? "; is it meant as " : "",
                           meant ? meant : "");
    }
    return 0;
}

/* Absent: *ret stays. */
static int number_of(const json_t *o, const char *name, double min, double max, bool whole, double *ret, struct err *err)
{
    const json_t *v = json_object_get(o, name);
    double x = json_number_value(v);
    if (!v)
        return 0;
    if (!json_is_number(v) || x < min || x > max || (whole && floor(x) != x))
        return err_set(err, ERR_INVALID, "%s: a%s number from %g to %g is expected", name, whole ? " whole" : "", min,
                       max);
    *ret = x;
    return 0;
}

static int limits_of(const json_t *o, struct keys_tenant *t, struct err *err)
{
    double running = 0, queued = 0, burst = 0;
    int rc;
    t->weight = 1;
    if ((rc = number_of(o, "weight", 0.001, 1000, false, &t->weight, err)) < 0 ||
        (rc = number_of(o, "max_running", 0, 1e6, true, &running, err)) < 0 ||
        (rc = number_of(o, "max_queued", 0, 1e9, true, &queued, err)) < 0 ||
        (rc = number_of(o, "gpu_s_day", 0, 1e9, false, &t->gpu_s_day, err)) < 0 ||
        (rc = number_of(o, "rate_per_min", 0, 1e6, false, &t->rate_per_min, err)) < 0 ||
        (rc = number_of(o, "burst", 0, 1e6, true, &burst, err)) < 0)
        return rc;
    if (burst > 0 && t->rate_per_min <= 0)
        return err_set(err, ERR_INVALID, "burst: without rate_per_min it limits nothing; set both or neither");
    if (burst <= 0 && t->rate_per_min > 0) /* a minute's worth */
        burst = t->rate_per_min > 1 ? ceil(t->rate_per_min) : 1;
    t->max_running = (int64_t)running;
    t->max_queued = (int64_t)queued;
    t->burst = (int64_t)burst;
    return 0;
}

static int secrets_of(const json_t *o, struct keys_tenant *t, struct err *err)
{
    static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const json_t *list = json_object_get(o, "webhook_secrets"), *v;
    size_t i;
    if (list && (!json_is_array(list) || json_array_size(list) > KEYS_SECRETS))
        return err_set(err, ERR_INVALID, "webhook_secrets: an array of at most %d texts is expected", KEYS_SECRETS);
    json_array_foreach(list, i, v) {
        const char *s = json_string_value(v);
        size_t n = s ? strlen(s) : 0, body = n > 6 ? strspn(s + 6, base64) : 0;
        bool good = n > 6 && strncmp(s, "whsec_", 6) == 0 && n < KEYS_SECRET && body >= 32;
        for (size_t k = good ? 6 + body : n; k < n; k++)
            good &= s[k] == '=';
        if (!good) /* never quoted: it goes into logs */
            return err_set(err, ERR_INVALID, "webhook_secrets[%zu]: whsec_ and the base64 of 24 to 64 bytes is expected",
                           i);
        str_copy(t->secret[t->n_secrets++], KEYS_SECRET, s);
    }
    return 0;
}

static int key_of(const json_t *o, const struct keys_tenant *t, struct keys_key *key, struct err *err)
{
    const char *id = json_string_value(json_object_get(o, "id"));
    const char *hash = json_string_value(json_object_get(o, "sha256"));
    const json_t *scope = json_object_get(o, "scope"), *expires = json_object_get(o, "expires");
    const char *scope_text = scope ? json_string_value(scope) : "jobs";
    int rc = members_check(o, key_members, err);
    if (rc < 0)
        return rc;
    if (!name_ok(id))
        return err_set(err, ERR_INVALID, "id: 1 to %d of letters, digits, _ . and - are expected", KEYS_NAME - 1);
    if (!hash || !hash_parse(hash, key->hash))
        return err_set(err, ERR_INVALID, "sha256: 64 digits 0-9 a-f are expected (troupe-dispatcher --new-key prints them)");
    if (!scope_text || !str_in_list("jobs|admin", scope_text))
        return err_set(err, ERR_INVALID, "scope: jobs or admin is expected");
    if (expires && (!json_is_string(expires) || keys_time(json_string_value(expires), &key->expires_ms) < 0))
        return err_set(err, ERR_INVALID, "expires: a day as 2027-01-31, or a time as 2027-01-31T12:00:00Z, is expected");
    key->scope = *scope_text == 'a' ? KEYS_ADMIN : KEYS_JOBS;
    str_copy(key->id, sizeof key->id, id);
    return str_copy(key->tenant, sizeof key->tenant, t->name);
}

/* Room for one more of size bytes each; the array grows by doubling. */
static int room(void **list, size_t n, size_t size, struct err *err)
{
    if (n >= KEYS_MAX)
        return err_set(err, ERR_TOOBIG, "at most %d are allowed in one file", KEYS_MAX);
    if (n && (n & (n - 1)))
        return 0;
    void *more = mem_realloc(*list, (n ? n * 2 : 1) * size);
    if (!more)
        return err_set(err, ERR_NOMEM, "out of memory");
    *list = more;
    return 0;
}

static int key_add(struct keys *k, const struct keys_key *key, struct err *err)
{
    for (size_t i = 0; i < k->n_keys; i++) {
        if (strcmp(k->key[i].id, key->id) == 0 && *key->tenant)
            return err_set(err, ERR_INVALID, "id: %s names two keys", key->id);
        if (memcmp(k->key[i].hash, key->hash, sizeof key->hash) == 0)
            return err_set(err, ERR_INVALID, "sha256: the keys %s and %s are the same", k->key[i].id, key->id);
    }
    void *list = k->key;
    int rc = room(&list, k->n_keys, sizeof *key, err);
    k->key = list;
    if (rc < 0)
        return rc;
    k->key[k->n_keys++] = *key;
    return 0;
}

static int keys_of(const json_t *o, struct keys *k, const struct keys_tenant *t, struct err *err)
{
    const json_t *list = json_object_get(o, "keys"), *v;
    size_t i;
    if (list && !json_is_array(list))
        return err_set(err, ERR_INVALID, "keys: an array is expected");
    json_array_foreach(list, i, v) {
        struct keys_key key = {0};
        int rc = key_of(v, t, &key, err);
        if (rc == 0)
            rc = key_add(k, &key, err);
        if (rc < 0)
            return err_wrap(err, "keys[%zu]", i);
    }
    return 0;
}

static int tenant_of(const char *name, const json_t *o, struct keys *k, struct err *err)
{
    struct keys_tenant t = {0};
    if (!name_ok(name))
        return err_set(err, ERR_INVALID, "a tenant's name has 1 to %d of letters, digits, _ . and -", KEYS_NAME - 1);
    str_copy(t.name, sizeof t.name, name);
    int rc = members_check(o, tenant_members, err);
    if (rc < 0 || (rc = limits_of(o, &t, err)) < 0 || (rc = secrets_of(o, &t, err)) < 0 ||
        (rc = keys_of(o, k, &t, err)) < 0)
        return rc;
    void *list = k->tenant;
    rc = room(&list, k->n_tenants, sizeof t, err);
    k->tenant = list;
    if (rc < 0)
        return rc;
    k->tenant[k->n_tenants++] = t;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct keys_tenant *)a)->name, ((const struct keys_tenant *)b)->name);
}

static int file_of(const json_t *root, struct keys *k, struct err *err)
{
    static const char *const members[] = {"tenants", "note", NULL};
    json_t *tenants = json_object_get(root, "tenants"), *v;
    const char *name;
    int rc = members_check(root, members, err);
    if (rc < 0)
        return rc;
    if (!json_is_object(tenants))
        return err_set(err, ERR_INVALID, "tenants: an object { } of tenants by name is expected");
    json_object_foreach(tenants, name, v) {
        if ((rc = tenant_of(name, v, k, err)) < 0)
            return err_wrap(err, "tenants.%.60s", name);
    }
    if (k->n_keys == 0)
        return err_set(err, ERR_INVALID, "tenants: not one key is in the file; troupe-dispatcher --new-key makes one");
    qsort(k->tenant, k->n_tenants, sizeof *k->tenant, by_name);
    return 0;
}

int keys_parse(const char *text, size_t len, struct keys **ret, struct err *err)
{
    json_t *root = NULL;
    struct keys *k = mem_zalloc(sizeof *k);
    int rc = k ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    if (rc == 0 && len > KEYS_FILE_MAX)
        rc = err_set(err, ERR_TOOBIG, "the file is larger than %d bytes", KEYS_FILE_MAX);
    if (rc == 0)
        rc = json_parse(text, len, FILE_DEPTH, &root, err);
    if (rc == 0)
        rc = file_of(root, k, err);
    json_decref(root);
    if (rc < 0)
        keys_free(k);
    else
        *ret = k;
    return rc;
}

/* Without a branch that depends on a hash: the time says nothing about how much was right. */
static struct keys_key *find_hash(const struct keys *k, const char *text, size_t len)
{
    uint64_t hash[4];
    size_t found = SIZE_MAX;
    if (len == 0 || len > KEYS_SHOWN_MAX || hash_of(text, len, hash) < 0)
        return NULL;
    for (size_t i = 0; i < k->n_keys; i++) {
        const uint64_t *h = k->key[i].hash;
        uint64_t diff = (h[0] ^ hash[0]) | (h[1] ^ hash[1]) | (h[2] ^ hash[2]) | (h[3] ^ hash[3]);
        uint64_t same = ((diff | (0 - diff)) >> 63) - 1; /* all ones when diff is 0 */
        found = (found & ~(size_t)same) | (i & (size_t)same);
    }
    return found == SIZE_MAX ? NULL : &k->key[found];
}

int keys_add_plain(struct keys **k, const char *list, struct err *err)
{
    if (!*k && !(*k = mem_zalloc(sizeof **k)))
        return err_set(err, ERR_NOMEM, "out of memory");
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        struct keys_key key = {.id = "api_key", .scope = KEYS_ADMIN}, *twice = find_hash(*k, p, n);
        bool skip = n == 0 || (twice && !*twice->tenant);
        int rc = skip ? 0 : hash_of(p, n, key.hash);
        if (rc < 0)
            return err_set(err, rc, "api_key: %s", err_text(rc));
        if (!skip && (rc = key_add(*k, &key, err)) < 0)
            return err_wrap(err, "api_key");
        p += n + (p[n] == ',');
    }
    return 0;
}

void keys_free(struct keys *k)
{
    if (!k)
        return;
    mem_free(k->tenant);
    mem_free(k->key);
    mem_free(k);
}

/* ---- looking up ---- */

struct keys_key *keys_find(const struct keys *k, const char *shown)
{
    struct keys_key *key = k ? find_hash(k, shown, strlen(shown)) : NULL;
    const char *colon = key || !k ? NULL : strchr(shown, ':');
    if (!colon)
        return key;
    size_t n = (size_t)(colon - shown);
    key = find_hash(k, colon + 1, strlen(colon + 1));
    return key && strlen(key->id) == n && strncmp(key->id, shown, n) == 0 ? key : NULL;
}

bool keys_expired(const struct keys_key *key, int64_t now_ms)
{
    return key->expires_ms && now_ms >= key->expires_ms;
}

const struct keys_tenant *keys_tenant(const struct keys *k, const char *name)
{
    struct keys_tenant wanted = {0};
    if (!k || !k->n_tenants || str_copy(wanted.name, sizeof wanted.name, name) < 0)
        return NULL;
    return bsearch(&wanted, k->tenant, k->n_tenants, sizeof *k->tenant, by_name);
}

/* ---- buckets ---- */

int64_t keys_take(struct keys_key *key, double rate, double burst, int64_t now_us)
{
    double gone_s = (double)(now_us - key->filled_us) / 1e6;
    if (key->filled_us == 0)
        key->tokens = burst; /* the first time */
    else if (gone_s > 0)
        key->tokens += gone_s * rate;
    if (key->tokens > burst)
        key->tokens = burst;
    key->filled_us = now_us;
    if (key->tokens >= 1) {
        key->tokens -= 1;
        return 0;
    }
    return (int64_t)ceil((1 - key->tokens) / rate * 1e6);
}

void keys_carry(struct keys *to, const struct keys *from)
{
    for (size_t i = 0; from && i < to->n_keys; i++) {
        for (size_t k = 0; k < from->n_keys; k++) {
            if (memcmp(to->key[i].hash, from->key[k].hash, sizeof to->key->hash) == 0) {
                to->key[i].tokens = from->key[k].tokens;
                to->key[i].filled_us = from->key[k].filled_us;
            }
        }
    }
}

/* ---- making ---- */

int keys_make(char ret_key[KEYS_TEXT], char ret_hash[SHA256_HEX])
{
    static const char base64url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned char b[33] = {0};
    char text[KEYS_TEXT] = "tk_";
    if (getrandom(b, 32, 0) != 32)
        return ERR_IO;
    for (int i = 0; i < 43; i++) { /* 256 bits in sixes; the last has two bits of padding */
        int at = i * 6 / 8, shift = 10 - i * 6 % 8;
        text[3 + i] = base64url[(b[at] << 8 | b[at + 1]) >> shift & 63];
    }
    text[46] = 0;
    int rc = sha256_bytes(text, strlen(text), ret_hash);
    if (rc == 0)
        memcpy(ret_key, text, sizeof text);
    return rc;
}
