/* log, clock, nearest names: the small things that people read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/json.h"
#include "common/log.h"
#include "common/str.h"

static int pipe_fd[2];
static char text[8192];

static const char *line(void)
{
    ssize_t n = read(pipe_fd[0], text, sizeof(text) - 1);
    assert_true(n > 0);
    text[n] = 0;
    return text;
}

static void test_kv(void **state)
{
    (void)state;
    assert_int_equal(pipe(pipe_fd), 0);
    log_to(pipe_fd[1]);
    log_init("me", LOG_KV, LOG_INFO);
    LOG(DEBUG, "not shown", log_int("n", 1));
    LOG(INFO, "job ended", log_str("job", "a1"), log_int("attempt", -3), log_num("seconds", 0.5),
        log_str("none", NULL), log_str("why", "two words\nand \"a line\""), log_code(ERR_SHAPE),
        log_str("empty", ""));
    const char *s = strstr(line(), " level=");
    assert_non_null(s);
    assert_string_equal(s, " level=info program=me event=\"job ended\" job=a1 attempt=-3 seconds=0.5 "
                           "why=\"two words\\nand \\\"a line\\\"\" code=SHAPE empty=\"\"\n");
    LOG(WARN, "bytes", log_str("v", "\xff\x01"));
    assert_non_null(strstr(line(), "v=\"?\\u0001\""));
}

static void test_json(void **state)
{
    (void)state;
    static char big[3000];
    json_t *v = NULL;
    memset(big, '"', sizeof(big) - 1);
    log_init("me", LOG_JSON, LOG_DEBUG);
    LOG(ERROR, "x", log_str("a", "h\xc3\xa4\tllo"), log_num("n", 1.0 / 0.0), log_int("i", INT64_MIN));
    const char *s = line();
    assert_int_equal(s[strlen(s) - 1], '\n');
    assert_int_equal(json_parse(s, strlen(s), 4, &v, NULL), 0);
    assert_string_equal(json_string_value(json_object_get(v, "a")), "h\xc3\xa4\tllo");
    assert_true(json_is_null(json_object_get(v, "n")));
    assert_int_equal(json_integer_value(json_object_get(v, "i")), INT64_MIN);
    json_decref(v);
    LOG(INFO, "long", log_str("a", big), log_str("b", big), log_str("c", big), log_int("d", 1));
    s = line();
    assert_true(strlen(s) <= 4096);
    assert_int_equal(json_parse(s, strlen(s), 4, &v, NULL),
                     0); /* what does not fit is left out, the line stays whole */
    json_decref(v);
}

static void test_clock(void **state)
{
    (void)state;
    char t[32];
    assert_string_equal(clock_format(t, sizeof(t), INT64_C(1764093199042)), "2025-11-25T17:53:19.042Z");
    assert_string_equal(clock_format(t, sizeof(t), 0), "1970-01-01T00:00:00.000Z");
    assert_string_equal(clock_duration(t, sizeof(t), 0.84), "0.8 s");
    assert_string_equal(clock_duration(t, sizeof(t), 242), "4 min 2 s");
    assert_string_equal(clock_duration(t, sizeof(t), 7500), "2 h 5 min");
    assert_string_equal(clock_duration(t, sizeof(t), -1), "?");
    int64_t began = clock_us();
    clock_sleep_us(3000);
    clock_sleep_us(-5);
    assert_true(clock_us() - began >= 3000);
}

static void test_distance(void **state)
{
    (void)state;
    assert_int_equal(str_distance("port", "port", 9), 0);
    assert_int_equal(str_distance("web-port", "web_port", 9), 0);
    assert_int_equal(str_distance("prot", "port", 9), 1); /* two neighbours swapped */
    assert_int_equal(str_distance("pot", "port", 9), 1);
    assert_int_equal(str_distance("ports", "port", 9), 1);
    assert_int_equal(str_distance("kitten", "sitting", 9), 3);
    assert_int_equal(str_distance("", "abc", 9), 3);
    assert_int_equal(str_distance("abcdefgh", "ijklmnop", 4), 4);
}

/* A cut leaves no half character: such a text could not be told in JSON. */
static void test_cut(void **state)
{
    (void)state;
    char dst[8];
    static const char *const sources[] = {"abcdefgh", "abcdef\u00e9", "abcde\u20ac", "abcd\U0001F600",
                                          "\u00e9\u00e9\u00e9\u00e9"};
    static const char *const cut[] = {"abcdefg", "abcdef", "abcde", "abcd", "\u00e9\u00e9\u00e9"};
    for (size_t i = 0; i < sizeof(cut) / sizeof(cut[0]); i++) {
        assert_int_equal(str_copy(dst, sizeof(dst), sources[i]), ERR_TOOBIG);
        assert_string_equal(dst, cut[i]);
    }
    struct err err = {0};
    char longer[sizeof(err.text) + 2] = "";
    memset(longer, 'a', sizeof(err.text) - 2);
    str_copy(longer + sizeof(err.text) - 2, 4, "\u00e9");
    err_set(&err, ERR_IO, "%s", longer);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 2);
    assert_true(str_utf8_ok(err.text, strlen(err.text)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kv), cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_clock),
                                       cmocka_unit_test(test_distance), cmocka_unit_test(test_cut)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
