/* The keys file: what is accepted, the sentence of each refusal, looking keys up, token buckets; traceparent; how long a
 * WAV is; what a submit can tell about its job. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/json.h"
#include "common/mem.h"
#include "common/str.h"
#include "dispatcher/keys.h"
#include "dispatcher/magic.h"
#include "dispatcher/predict.h"
#include "dispatcher/trace.h"

#define A "tk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#define B "tk_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"
#define C "tk_CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC"
#define HASH "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* of "abc" */
#define KEY "{\"id\":\"k\",\"sha256\":\"" HASH "\"}"

static struct err err;

static struct keys *example(void)
{
    struct keys *k = NULL;
    json_t *root = NULL;
    char path[512];
    str_path(path, sizeof path, getenv("TEST_QUEUE_DATA"), "keys.json");
    assert_int_equal(json_read_file(path, 65536, &root, &err), 0);
    char *text = json_dumps(root, 0);
    assert_int_equal(keys_parse(text, strlen(text), &k, &err), 0);
    mem_free(text);
    json_decref(root);
    return k;
}

static void test_file(void **state)
{
    (void)state;
    struct keys *k = example();
    assert_int_equal(k->n_tenants, 2);
    assert_int_equal(k->n_keys, 3);
    const struct keys_tenant *t = keys_tenant(k, "acme");
    assert_non_null(t);
    assert_true(t->weight == 2 && t->gpu_s_day == 7200.5 && t->rate_per_min == 30);
    assert_int_equal(t->max_running, 4);
    assert_int_equal(t->max_queued, 100);
    assert_int_equal(t->burst, 10);
    assert_int_equal(t->n_secrets, 1);
    assert_string_equal(t->secret[0], "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    t = keys_tenant(k, "ops");
    assert_true(t->weight == 1 && t->max_running == 0 && t->burst == 0);
    assert_null(keys_tenant(k, "acm"));
    assert_null(keys_tenant(k, ""));
    assert_null(keys_tenant(NULL, "acme"));
    keys_free(k);
}

static void test_find(void **state)
{
    (void)state;
    struct keys *k = example();
    struct keys_key *key = keys_find(k, A);
    assert_non_null(key);
    assert_string_equal(key->id, "acme-new");
    assert_string_equal(key->tenant, "acme");
    assert_int_equal(key->scope, KEYS_JOBS);
    assert_false(keys_expired(key, INT64_MAX));
    key = keys_find(k, B);
    assert_string_equal(key->id, "acme-old");
    assert_int_equal(key->scope, KEYS_JOBS);
    assert_int_equal(key->expires_ms, INT64_C(1801353600000)); /* 2027-01-31 */
    assert_false(keys_expired(key, key->expires_ms - 1));
    assert_true(keys_expired(key, key->expires_ms));
    key = keys_find(k, C);
    assert_int_equal(key->scope, KEYS_ADMIN);
    assert_int_equal(key->expires_ms, INT64_C(1906547415000));
    assert_ptr_equal(keys_find(k, "ops-1:" C), key);
    static const char *const strangers[] = {"", "x", "acme-new:" C, ":" C, "ops-1:", "ops-1", "ops-1:" C "x", A "A", "tk_"};
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
        assert_null(keys_find(k, strangers[i]));
    assert_null(keys_find(NULL, A));
    keys_free(k);
}

static void test_plain(void **state)
{
    (void)state;
    struct keys *k = NULL;
    assert_int_equal(keys_add_plain(&k, "one,,two words,a:b,one", &err), 0);
    assert_int_equal(k->n_keys, 3);
    assert_non_null(keys_find(k, "two words"));
    assert_non_null(keys_find(k, "a:b"));
    assert_null(keys_find(k, "two"));
    assert_null(keys_find(k, "one,"));
    assert_int_equal(keys_find(k, "one")->scope, KEYS_ADMIN);
    assert_string_equal(keys_find(k, "one")->tenant, "");
    keys_free(k);
    k = example(); /* a key cannot be an admin's and a tenant's */
    assert_true(keys_add_plain(&k, A, &err) < 0);
    keys_free(k);
}

static void refused(const char *text, const char *sentence)
{
    struct keys *k = NULL;
    err_clear(&err);
    assert_true(keys_parse(text, strlen(text), &k, &err) < 0);
    assert_null(k);
    assert_string_equal(err.text, sentence);
}

static void test_refusals(void **state)
{
    (void)state;
    struct keys *k = NULL;
    refused("{\"tenants\": {\n\"a\": 1,\n}}", "JSON: line 3, column 1: string or '}' expected near '}'");
    refused("[]", "an object { } is expected");
    refused("{\"tenant\":{}}", "tenant: no such member; is it meant as tenants");
    refused("{}", "tenants: an object { } of tenants by name is expected");
    refused("{\"tenants\":{\"a\":{}}}", "tenants: not one key is in the file; troupe-dispatcher --new-key makes one");
    refused("{\"tenants\":{\"a b\":{}}}", "tenants.a b: a tenant's name has 1 to 48 of letters, digits, _ . and -");
    refused("{\"tenants\":{\"\":{}}}", "tenants.: a tenant's name has 1 to 48 of letters, digits, _ . and -");
    refused("{\"tenants\":{\"a\":{\"max_runing\":1}}}", "tenants.a: max_runing: no such member; is it meant as max_running");
    refused("{\"tenants\":{\"a\":{\"weight\":0}}}", "tenants.a: weight: a number from 0.001 to 1000 is expected");
    refused("{\"tenants\":{\"a\":{\"weight\":\"2\"}}}", "tenants.a: weight: a number from 0.001 to 1000 is expected");
    refused("{\"tenants\":{\"a\":{\"max_running\":1.5}}}",
            "tenants.a: max_running: a whole number from 0 to 1e+06 is expected");
    refused("{\"tenants\":{\"a\":{\"burst\":5}}}",
            "tenants.a: burst: without rate_per_min it limits nothing; set both or neither");
    refused("{\"tenants\":{\"a\":{\"webhook_secrets\":[\"hunter2\"]}}}",
            "tenants.a: webhook_secrets[0]: whsec_ and the base64 of 24 to 64 bytes is expected");
    refused("{\"tenants\":{\"a\":{\"keys\":{}}}}", "tenants.a: keys: an array is expected");
    refused("{\"tenants\":{\"a\":{\"keys\":[7]}}}", "tenants.a: keys[0]: an object { } is expected");
    refused("{\"tenants\":{\"a\":{\"keys\":[{\"id\":\"k\",\"sha256\":\"" HASH "0\"}]}}}",
            "tenants.a: keys[0]: sha256: 64 digits 0-9 a-f are expected (troupe-dispatcher --new-key prints them)");
    refused("{\"tenants\":{\"a\":{\"keys\":[{\"id\":\"k\",\"sha256\":\"BA\"}]}}}",
            "tenants.a: keys[0]: sha256: 64 digits 0-9 a-f are expected (troupe-dispatcher --new-key prints them)");
    refused("{\"tenants\":{\"a\":{\"keys\":[{\"id\":\"k\",\"secret\":\"x\"}]}}}", "tenants.a: keys[0]: secret: no such member");
    refused("{\"tenants\":{\"a\":{\"keys\":[{\"sha256\":\"" HASH "\"}]}}}",
            "tenants.a: keys[0]: id: 1 to 48 of letters, digits, _ . and - are expected");
    refused("{\"tenants\":{\"a\":{\"keys\":[{\"id\":\"k\",\"sha256\":\"" HASH "\",\"scope\":\"root\"}]}}}",
            "tenants.a: keys[0]: scope: jobs or admin is expected");
    refused("{\"tenants\":{\"a\":{\"keys\":[{\"id\":\"k\",\"sha256\":\"" HASH "\",\"scope\":null}]}}}",
            "tenants.a: keys[0]: scope: jobs or admin is expected");
    refused("{\"tenants\":{\"a\":{\"keys\":[{\"id\":\"k\",\"sha256\":\"" HASH "\",\"expires\":\"tomorrow\"}]}}}",
            "tenants.a: keys[0]: expires: a day as 2027-01-31, or a time as 2027-01-31T12:00:00Z, is expected");
    refused("{\"tenants\":{\"a\":{\"keys\":[" KEY "]},\"b\":{\"keys\":[{\"id\":\"l\",\"sha256\":\"" HASH "\"}]}}}",
            "tenants.b: keys[0]: sha256: the keys k and l are the same");
    refused("{\"tenants\":{\"a\":{\"keys\":[" KEY "," KEY "]}}}", "tenants.a: keys[1]: id: k names two keys");
    assert_int_equal(keys_parse("", 0, &k, &err), ERR_BADREQ);
}

static void test_default_burst(void **state)
{
    (void)state;
    static const struct {
        const char *rate;
        int burst;
    } cases[] = {{"0.5", 1}, {"1", 1}, {"2.5", 3}, {"60", 60}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct keys *k = NULL;
        char text[512];
        str_format(text, sizeof text, "{\"tenants\":{\"a\":{\"rate_per_min\":%s,\"keys\":[" KEY "]}}}", cases[i].rate);
        assert_int_equal(keys_parse(text, strlen(text), &k, &err), 0);
        assert_int_equal(k->tenant[0].burst, cases[i].burst);
        assert_string_equal(keys_find(k, "abc")->id, "k");
        keys_free(k);
    }
}

static void test_many(void **state)
{
    (void)state;
    struct keys *k = NULL;
    struct buf b;
    char hash[SHA256_HEX], key[32];
    buf_init(&b, KEYS_FILE_MAX);
    for (int n = KEYS_MAX; n <= KEYS_MAX + 1; n++) {
        buf_clear(&b);
        buf_puts(&b, "{\"tenants\":{\"a\":{\"keys\":[");
        for (int i = 0; i < n; i++) {
            str_format(key, sizeof key, "key %d", i);
            sha256_bytes(key, strlen(key), hash);
            buf_printf(&b, "%s{\"id\":\"k%d\",\"sha256\":\"%s\"}", i ? "," : "", i, hash);
        }
        buf_puts(&b, "]}}}");
        err_clear(&err);
        int rc = keys_parse(b.data, b.len, &k, &err);
        assert_int_equal(rc, n > KEYS_MAX ? ERR_TOOBIG : 0);
    }
    assert_string_equal(keys_find(k, "key 0")->id, "k0");
    assert_string_equal(keys_find(k, "key 4095")->id, "k4095");
    assert_null(keys_find(k, "key 4096"));
    keys_free(k);
    buf_done(&b);
}

static void test_times(void **state)
{
    (void)state;
    int64_t ms = 7;
    static const char *const wrong[] = {"", "2027", "2027-1-1", "2027-02-30", "2027-13-01", "2027-00-01", "2027-01-01T00:00:00",
                                        "2027-01-01T24:00:00Z", "2027-01-01T00:60:00Z", "2027-01-01 00:00:00Z", "1969-12-31",
                                        "2027-01-01Z", "2027-01-01T00:00:00Zx"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(keys_time(wrong[i], &ms), ERR_INVALID);
    assert_int_equal(ms, 7);
    assert_int_equal(keys_time("2028-02-29", &ms), 0);
    assert_int_equal(ms, INT64_C(1835395200000));
    assert_int_equal(keys_time("2027-01-01T12:30:15Z", &ms), 0);
    assert_int_equal(ms, INT64_C(1798806615000));
}

static void test_bucket(void **state)
{
    (void)state;
    struct keys_key key = {0};
    int64_t now = 5000000;
    for (int i = 0; i < 3; i++)
        assert_int_equal(keys_take(&key, 2, 3, now), 0);
    int64_t wait = keys_take(&key, 2, 3, now);
    assert_int_equal(wait, 500000);
    assert_true(keys_take(&key, 2, 3, now + wait - 1000) > 0); /* asking early does not put it off */
    assert_int_equal(keys_take(&key, 2, 3, now + wait), 0);
    assert_int_equal(keys_take(&key, 2, 3, now + wait), 500000);
    now += 3600 * INT64_C(1000000);
    for (int i = 0; i < 3; i++) /* an hour later: full, and not fuller */
        assert_int_equal(keys_take(&key, 2, 3, now), 0);
    assert_true(keys_take(&key, 2, 3, now) > 0);
}

static void test_carry(void **state)
{
    (void)state;
    struct keys *old = example(), *new = example();
    while (keys_take(keys_find(old, B), 1, 5, 1000) == 0)
        ;
    keys_carry(new, old);
    assert_true(keys_take(keys_find(new, B), 1, 5, 1000) > 0);
    assert_int_equal(keys_take(keys_find(new, A), 1, 5, 1000), 0);
    keys_carry(new, NULL);
    keys_free(old);
    keys_free(new);
}

static void test_make(void **state)
{
    (void)state;
    char key[KEYS_TEXT], hash[SHA256_HEX], other[KEYS_TEXT], again[SHA256_HEX], text[512];
    unsigned seen[64] = {0};
    struct keys *k = NULL;
    assert_int_equal(keys_make(key, hash), 0);
    assert_int_equal(strlen(key), 46);
    assert_int_equal(strspn(key + 3, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), 43);
    str_format(text, sizeof text, "{\"tenants\":{\"a\":{\"keys\":[{\"id\":\"k\",\"sha256\":\"%s\"}]}}}", hash);
    assert_int_equal(keys_parse(text, strlen(text), &k, &err), 0);
    assert_non_null(keys_find(k, key));
    keys_free(k);
    for (int i = 0; i < 200; i++) { /* every place takes many letters: nothing is stuck */
        keys_make(other, again);
        assert_string_not_equal(key, other);
        for (int at = 0; at < 43; at++)
            seen[at] += other[3 + at] != key[3 + at];
    }
    for (int at = 0; at < 43; at++)
        assert_true(seen[at] > 100);
}

static void test_trace(void **state)
{
    (void)state;
    assert_true(trace_ok("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    assert_true(trace_ok("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-up"));
    static const char *const wrong[] = {
        "", "00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-up",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\n",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what-the-future-sends",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(trace_ok(wrong[i]));
}

static double seconds_of(const void *bytes, size_t n)
{
    char path[] = "/tmp/troupe-keys-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    double s = magic_audio_seconds(fd);
    close(fd);
    return s;
}

/* A WAV of so many bytes of sound at 32,000 a second, whose header claims `claimed`, with an odd chunk before it. */
static size_t wav(unsigned char *b, uint32_t bytes, uint32_t claimed)
{
    static const unsigned char head[] = "RIFF\0\0\0\0WAVELIST\3\0\0\0abc\0fmt \20\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\20\0data";
    size_t n = sizeof head - 1;
    memcpy(b, head, n);
    for (int i = 0; i < 4; i++)
        b[n++] = (unsigned char)(claimed >> 8 * i);
    memset(b + n, 0, bytes);
    return n + bytes;
}

static void test_audio_seconds(void **state)
{
    (void)state;
    static unsigned char b[100000];
    assert_true(seconds_of(b, wav(b, 48000, 48000)) == 1.5);
    assert_true(seconds_of(b, wav(b, 48000, 32000)) == 1); /* something else follows */
    assert_true(seconds_of(b, wav(b, 48000, 0xffffffff)) == 1.5); /* written to a pipe */
    assert_true(seconds_of(b, wav(b, 48000, 0)) == 1.5);
    size_t n = wav(b, 48000, 48000);
    memcpy(b, "RF64", 4);
    assert_true(seconds_of(b, n) == 1.5);
    memset(b + 24 + 8 + 8, 0, 4); /* no bytes a second: as any other file */
    assert_true(seconds_of(b, n) == (double)n / 16000);
    assert_true(seconds_of("OggS", 4) == 4.0 / 16000);
    assert_true(seconds_of(b, 0) == 0);
    for (size_t cut = 0; cut < 70; cut++)
        assert_true(seconds_of(b, cut) >= 0);
}

/* ---- predictions; the model is this file's own ---- */

static struct cost_guess guess;
static int64_t memory;
static bool known;

bool models_guess(const struct models *m, const char *generator, const json_t *params, double audio_s, struct cost_guess *ret,
                  int64_t *ret_memory)
{
    (void)m, (void)generator, (void)params, (void)audio_s;
    *ret = guess;
    *ret_memory = memory;
    return known;
}

static int fit(int64_t need, int64_t has, struct job *job)
{
    err_clear(&err);
    guess = (struct cost_guess){.gflop = 12.5, .bytes = need};
    memory = has;
    job->gflop = 0;
    job->plan_bytes = 0;
    return predict_fit(NULL, job, 5, &err);
}

static void test_fit(void **state)
{
    (void)state;
    struct job job;
    job_init(&job);
    known = false;
    assert_int_equal(fit(1000, 10, &job), 0);
    assert_true(job.gflop == 0 && job.plan_bytes == 0);
    known = true;
    assert_int_equal(fit(1000, 0, &job), 0); /* no limit */
    assert_true(job.gflop == 12.5 && job.plan_bytes == 1000);
    assert_int_equal(fit(1000, 1000, &job), 0);
    assert_int_equal(job.plan_bytes, 1000);
    int64_t gib = INT64_C(1) << 30;
    assert_int_equal(fit(gib + gib / 20, gib, &job), 0); /* within a tenth: the largest may try */
    assert_int_equal(job.plan_bytes, gib);
    assert_int_equal(fit(24 * gib, 23 * gib - 1, &job), 0); /* rounded up it would be 24 GiB: nobody's */
    assert_int_equal(job.plan_bytes, 22 * gib);
    assert_int_equal(fit(14 * gib, 12 * gib, &job), ERR_NOFIT);
    assert_string_equal(err.text, "size: this video needs about 14.0 GiB of device memory and the largest worker has 12.0 GiB; "
                                  "choose a smaller size, a shorter recording or fewer num_frames");
    assert_int_equal(job.plan_bytes, 0);
    job.group_min = job.group_max = 2; /* two devices: theirs to divide */
    assert_int_equal(fit(14 * gib, 12 * gib, &job), 0);
    assert_int_equal(job.plan_bytes, 12 * gib);
    job_done(&job);
}

static void cache_key(const char *tenant, const char *params, bool off, char ret[65])
{
    struct job job;
    job_init(&job);
    str_copy(job.tenant, sizeof job.tenant, tenant);
    str_copy(job.generator, sizeof job.generator, "avatar");
    job.no_cache = off;
    job.params = NULL;
    assert_int_equal(json_parse(params, strlen(params), 4, &job.params, &err), 0);
    assert_int_equal(predict_cache_key(&job, &err), 0);
    memcpy(ret, job.cache_key, 65);
    job_done(&job);
}

static void test_cache_key(void **state)
{
    (void)state;
    char a[65], b[65];
    cache_key("t", "{\"seed\":7,\"image\":\"x\",\"size\":704}", false, a);
    assert_int_equal(strlen(a), 64);
    cache_key("t", "{\"size\":704,\"image\":\"x\",\"seed\":7}", false, b);
    assert_string_equal(a, b);
    static const char *const others[] = {"{\"seed\":8,\"image\":\"x\",\"size\":704}", "{\"seed\":7,\"image\":\"y\",\"size\":704}",
                                         "{\"seed\":7,\"image\":\"x\",\"size\":705}", "{\"seed\":7,\"image\":\"x\"}"};
    for (size_t i = 0; i < 4; i++) {
        cache_key("t", others[i], false, b);
        assert_string_not_equal(a, b);
    }
    cache_key("u", "{\"seed\":7,\"image\":\"x\",\"size\":704}", false, b);
    assert_string_not_equal(a, b); /* another tenant never gets it */
    cache_key("t", "{\"seed\":7,\"image\":\"x\",\"size\":704}", true, b);
    assert_string_equal(b, "");
    cache_key("t", "{\"seed\":-1,\"image\":\"x\"}", false, b);
    assert_string_equal(b, "");
    cache_key("t", "{\"image\":\"x\"}", false, b);
    assert_string_equal(b, "");
    cache_key("t", "{\"seed\":0}", false, b);
    assert_int_equal(strlen(b), 64);
}

/* Every allocation fails once: no crash, no leak, no table. */
static void test_no_memory(void **state)
{
    (void)state;
    static const char text[] = "{\"tenants\":{\"a\":{\"keys\":[" KEY "]}}}";
    int rc = ERR_NOMEM;
    for (long n = 1; rc < 0 && n < 100; n++) {
        struct keys *k = NULL;
        mem_fail_at(n);
        rc = keys_parse(text, strlen(text), &k, &err);
        mem_fail_at(0);
        assert_true((rc == 0) == (k != NULL));
        keys_free(k);
    }
    assert_int_equal(rc, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),   cmocka_unit_test(test_find),          cmocka_unit_test(test_plain),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_default_burst), cmocka_unit_test(test_many),
        cmocka_unit_test(test_times),  cmocka_unit_test(test_bucket),        cmocka_unit_test(test_carry),
        cmocka_unit_test(test_make),   cmocka_unit_test(test_trace),         cmocka_unit_test(test_audio_seconds),
        cmocka_unit_test(test_fit),    cmocka_unit_test(test_cache_key),     cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
