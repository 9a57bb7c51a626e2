/* The setting `redis`: every form, every refusal, and no password in any sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/redis_url.h"
#include "common/str.h"

static struct redis_url u;
static struct err err;
static char shown[1200];

static void good(const char *text)
{
    err_clear(&err);
    if (redis_url_parse(text, &u, &err) != 0)
        fail_msg("'%s': %s", text, err.text);
    redis_url_show(&u, shown, sizeof shown);
    assert_null(strstr(shown, "secret"));
}

static void test_servers(void **state)
{
    (void)state;
    good("redis://h");
    assert_string_equal(shown, "h:6379/0");
    assert_false(u.tls);
    good("redis://me:p%40ss%2Fw@[::1]:7/3");
    assert_string_equal(u.hosts[0].name, "::1");
    assert_string_equal(u.user, "me");
    assert_string_equal(u.password, "p@ss/w");
    assert_int_equal(u.hosts[0].port, 7);
    assert_int_equal(u.db, 3);
    assert_string_equal(shown, "[::1]:7/3");
    good("redis://:secret@h/");
    assert_string_equal(u.password, "secret");
    assert_string_equal(u.user, "");
    good("redis://a:s,e:c@et@h1:1,[fe80::1],h3:3/2");
    assert_string_equal(u.password, "s,e:c@et");
    assert_int_equal(u.n_hosts, 3);
    assert_string_equal(u.hosts[1].name, "fe80::1");
    assert_int_equal(u.hosts[1].port, 6379);
    assert_string_equal(shown, "h1:1,[fe80::1]:6379,h3:3/2");
    good("redis://h1,h2,h3,h4,h5,h6,h7,h8");
    assert_int_equal(u.n_hosts, REDIS_URL_HOSTS);
}

static void test_sockets(void **state)
{
    (void)state;
    good("unix:///a/b.sock?db=2&password=secret&user=me");
    assert_string_equal(u.path, "/a/b.sock");
    assert_string_equal(shown, "/a/b.sock");
    assert_string_equal(u.password, "secret");
    assert_string_equal(u.user, "me");
    assert_int_equal(u.db, 2);
    assert_int_equal(u.n_hosts, 0);
    good("/a/b.sock");
    good("redis+unix:///a/b.sock?");
}

static void test_tls(void **state)
{
    (void)state;
    good("rediss://h1,h2:7/1?ca=/etc/ca.pem&cert=/c.pem&key=/k%26.pem");
    assert_true(u.tls);
    assert_false(u.insecure);
    assert_string_equal(u.ca, "/etc/ca.pem");
    assert_string_equal(u.key, "/k&.pem");
    assert_int_equal(u.db, 1);
    assert_null(redis_url_warning(&u));
    assert_string_equal(shown, "rediss://h1:6379,h2:7/1");
    good("rediss://h?insecure=1");
    assert_true(u.insecure);
    assert_non_null(redis_url_warning(&u));
    good("rediss://h/?insecure=0");
    assert_null(redis_url_warning(&u));
}

static void test_sentinels(void **state)
{
    (void)state;
    good("redis+sentinel://me:secret@h1,h2:5/my.master-1");
    assert_string_equal(u.master, "my.master-1");
    assert_int_equal(u.hosts[0].port, 26379);
    assert_int_equal(u.hosts[1].port, 5);
    assert_string_equal(u.user, "me");
    assert_string_equal(u.sentinel_password, "");
    assert_string_equal(shown, "redis+sentinel://h1:26379,h2:5/my.master-1/0");
    good("rediss+sentinel://h/m/4?sentinel_user=s&sentinel_password=secret&ca=/x");
    assert_true(u.tls);
    assert_int_equal(u.db, 4);
    assert_string_equal(u.sentinel_user, "s");
    assert_string_equal(u.sentinel_password, "secret");
}

/* Each with a word that its sentence must have. */
static void test_refusals(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "begin with"},
        {"h:6379", "begin with"},
        {"REDIS://h", "begin with"},
        {"redis://", "host is missing"},
        {"redis://:secret@", "host is missing"},
        {"redis://h,", "host is missing"},
        {"redis://,h", "host is missing"},
        {"redis://[]", "host is missing"},
        {"redis://h1,h2,h3,h4,h5,h6,h7,h8,h9", "at most 8"},
        {"redis://h:0", "port"},
        {"redis://h:", "port"},
        {"redis://h:x", "port"},
        {"redis://h:65536", "port"},
        {"redis://h:1,k:99999999999999999999", "port"},
        {"redis://[::1]x", "port"},
        {"redis://h/two", "database"},
        {"redis://h/65536", "database"},
        {"redis://h/0/1", "database"},
        {"redis://[::1", "not closed"},
        {"redis://a%0g@h", "escaped"},
        {"redis://:secret%4@h", "escaped"},
        {"redis://:secret%00@h", "escaped"},
        {"redis://me@h", "without a password"},
        {"redis://h?ca=/x", "'ca' is for TLS"},
        {"redis://h?insecure=1", "'insecure' is for TLS"},
        {"redis://h?password=secret", "'password' is for unix"},
        {"redis://h?passwrd=secret", "'passwrd' is not known"},
        {"rediss://h?sentinel_password=secret", "sentinel://"},
        {"rediss://h?insecure=2", "'insecure' has no value"},
        {"rediss://h?insecure", "'insecure' has no value"},
        {"rediss://h?ca=/x&&key=/y", "'' is not known"},
        {"rediss://h?cert=/x", "'cert' and 'key'"},
        {"redis://user:12?secret=@h:1/0", "%3F"},
        {"redis://user:12/secret@h:1/0", "database"},
        {"redis+sentinel://h", "master's name"},
        {"redis+sentinel://h/", "master's name"},
        {"redis+sentinel://h//0", "master's name"},
        {"redis+sentinel://user:12/secret@h/m", "master's name"},
        {"redis+sentinel://h/m/x", "database"},
        {"unix://", "socket's path"},
        {"unix:///a?port=1", "'port' is not known"},
        {"unix:///a?db=x", "'db' has no value"},
        {"unix:///a?ca=/x", "'ca' is for TLS"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct redis_url before = {.db = 77};
        err_clear(&err);
        int rc = redis_url_parse(bad[i][0], &before, &err);
        if (rc != ERR_INVALID || !str_starts(err.text, "redis: ") || !strstr(err.text, bad[i][1]))
            fail_msg("'%s': %d %s", bad[i][0], rc, err.text);
        assert_null(strstr(err.text, "secret"));
        assert_int_equal(before.db, 77);
    }
}

/* What is longer than its place is refused, one byte less is taken. */
static void test_lengths(void **state)
{
    (void)state;
    static const struct {
        const char *before, *after;
        size_t size;
    } parts[] = {{"redis://", "", 256},
                 {"redis://", ":p@h", 64},
                 {"redis://:", "@h", 256},
                 {"unix:///", "", 107},
                 {"rediss://h?ca=", "", 256},
                 {"redis+sentinel://h/", "", 64},
                 {"redis+sentinel://h/m?sentinel_password=", "", 256}};
    char many[400], text[500];
    memset(many, 'x', sizeof many);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        for (int more = 0; more < 2; more++) {
            int n = (int)parts[i].size - 1 + more;
            snprintf(text, sizeof text, "%s%.*s%s", parts[i].before, n, many, parts[i].after);
            err_clear(&err);
            assert_int_equal(redis_url_parse(text, &u, &err), more ? ERR_INVALID : 0);
        }
    }
    good("redis://h1.example.org,h2.example.org,h3.example.org/15");
    redis_url_show(&u, shown, 20); /* cut, still terminated */
    assert_int_equal(strlen(shown), 19);
}

/* A password, then pieces of good addresses, joined at random in a block of their exact size: whatever they do to it, the
 * password is in no sentence. */
static void test_random(void **state)
{
    (void)state;
    static const char *const pieces[] = {"@", "/", "?", "&", "=", "%", "%41", ":", "[", "]", "::1", "0", "h", "h:1", ",",
                                         "master", "ca", "db", "insecure", "1", "key", "sentinel_user", "\xff", "\n"};
    static const char *const heads[] = {"redis://u:hush", "rediss://:hush", "redis+sentinel://u:hush",
                                        "rediss+sentinel://u:hush"};
    uint64_t seed = 88172645463325252u;
    size_t n_good = 0;
    for (int round = 0; round < 200000; round++) {
        char text[256] = "";
        for (int k = 0; k < 9; k++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            size_t n = strlen(text);
            str_copy(text + n, sizeof text - n,
                     k == 0 ? heads[seed % 4] : pieces[seed % (sizeof(pieces) / sizeof(pieces[0]))]);
        }
        char *exact = mem_dup(text, strlen(text) + 1);
        err_clear(&err);
        int rc = redis_url_parse(exact, &u, &err);
        mem_free(exact);
        n_good += rc == 0;
        if (rc < 0 ? rc != ERR_INVALID || !err.text[0] : u.n_hosts == 0 || !strstr(u.password, "hush"))
            fail_msg("'%s': %d %s", text, rc, err.text);
        if (strstr(err.text, "hush") || (rc == 0 && strstr(redis_url_show(&u, shown, sizeof shown), "hush")))
            fail_msg("'%s' is told: %s %s", text, err.text, shown);
    }
    assert_true(n_good > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_servers),  cmocka_unit_test(test_sockets), cmocka_unit_test(test_tls),
        cmocka_unit_test(test_sentinels), cmocka_unit_test(test_refusals), cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
