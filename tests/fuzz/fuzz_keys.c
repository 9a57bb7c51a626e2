/* fuzz_keys.c -- any bytes as a keys file. One that is accepted has at least one key and only limits in range; one that is
 * refused has a sentence, which never quotes a webhook's secret. The bytes as a shown key open nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "dispatcher/keys.h"
#include "tests/fuzz/fuzz.h"

static void must(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "fuzz_keys: %s\n", what);
        abort();
    }
}

static void check_accepted(const struct keys *k)
{
    must(k->n_keys >= 1 && k->n_keys <= KEYS_MAX && k->n_tenants <= KEYS_MAX, "counts");
    for (size_t i = 0; i < k->n_tenants; i++) {
        const struct keys_tenant *t = &k->tenant[i];
        must(keys_tenant(k, t->name) == t, "a tenant is not found by its name");
        must(t->weight >= 0.001 && t->weight <= 1000, "weight");
        must(t->max_running >= 0 && t->max_queued >= 0 && t->gpu_s_day >= 0 && t->burst >= 0, "limits");
        must(t->rate_per_min <= 0 || t->burst >= 1, "a rate whose bucket holds nothing");
        must(t->n_secrets >= 0 && t->n_secrets <= KEYS_SECRETS, "secrets");
    }
    for (size_t i = 0; i < k->n_keys; i++) {
        must(k->key[i].scope == KEYS_JOBS || k->key[i].scope == KEYS_ADMIN, "scope");
        must(keys_tenant(k, k->key[i].tenant) != NULL, "a key of no tenant");
        must(k->key[i].expires_ms >= 0, "expires");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = {0};
    struct keys *k = NULL;
    int64_t ms;
    char *text = mem_alloc(size + 1);
    must(text != NULL, "memory");
    memcpy(text, data, size);
    text[size] = 0;
    if (keys_parse(text, size, &k, &err) == 0) {
        check_accepted(k);
        must(keys_find(k, text) == NULL, "the file opens itself");
    } else {
        must(k == NULL && *err.text, "refused without a sentence");
    }
    keys_time(text, &ms);
    keys_free(k);
    mem_free(text);
    return 0;
}
