/* webhook_slow: who is remembered, for how long, and who makes room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/str.h"
#include "dispatcher/webhook_slow.h"

static struct webhook_slow s;

static void test_host(void **state)
{
    static const char *const cases[][2] = {{"http://a.example/x?y", "a.example"}, {"https://A:8080", "A:8080"}, {"http://[::1]:7#z", "[::1]:7"},
                                           {"http://a?http://b/", "a"}, {"x", "x"}};
    char host[WEBHOOK_SLOW_HOST], longer[1000];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        webhook_slow_host(cases[i][0], host);
        assert_string_equal(host, cases[i][1]);
    }
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    webhook_slow_host(longer, host);
    assert_int_equal(strlen(host), WEBHOOK_SLOW_HOST - 1);
}

static void test_remembers(void **state)
{
    (void)state;
    memset(&s, 0, sizeof s);
    webhook_slow_note(&s, "good", false, 5);
    assert_false(webhook_slow_is(&s, "good", 5));
    webhook_slow_note(&s, "bad", true, 5);
    assert_true(webhook_slow_is(&s, "BAD", 6) && !webhook_slow_is(&s, "ba", 6));
    assert_true(webhook_slow_is(&s, "bad", 60 * CLOCK_S));
    assert_false(webhook_slow_is(&s, "bad", 60 * CLOCK_S + 5));
    webhook_slow_note(&s, "bad", true, 30 * CLOCK_S); /* again: one entry, a new minute */
    assert_true(webhook_slow_is(&s, "bad", 89 * CLOCK_S));
    webhook_slow_note(&s, "bad", false, 31 * CLOCK_S);
    assert_false(webhook_slow_is(&s, "bad", 32 * CLOCK_S));
}

static void test_makes_room(void **state)
{
    char host[16];
    (void)state;
    memset(&s, 0, sizeof s);
    for (int i = 0; i < WEBHOOK_SLOW_MAX; i++) {
        str_format(host, sizeof host, "h%d", i);
        webhook_slow_note(&s, host, true, 1000 - (i == 17 ? 500 : i));
    }
    webhook_slow_note(&s, "new", true, 1001);
    assert_true(webhook_slow_is(&s, "new", 1002) && webhook_slow_is(&s, "h0", 1002) && webhook_slow_is(&s, "h63", 1002));
    assert_false(webhook_slow_is(&s, "h17", 1002));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_host), cmocka_unit_test(test_remembers), cmocka_unit_test(test_makes_room)};
    return cmocka_run_group_tests_name("webhook_slow", tests, NULL, NULL);
}
