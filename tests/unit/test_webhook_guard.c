/* webhook_guard: every range that is not public at both of its ends and just outside, IPv4 inside IPv6, URLs in the forms that
 * get past naive checks, and what webhook_allow opens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>

#include "common/str.h"
#include "dispatcher/webhook_guard.h"

static bool may(const struct webhook_guard *g, const char *text)
{
    struct sockaddr_in six4 = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &six4.sin_addr) == 1)
        return webhook_guard_address(g, (const struct sockaddr *)&six4);
    if (inet_pton(AF_INET6, text, &six.sin6_addr) != 1)
        fail_msg("%s is no address", text);
    return webhook_guard_address(g, (const struct sockaddr *)&six);
}

static void expect(const struct webhook_guard *g, bool open, const char *const *list)
{
    for (; *list; list++)
        if (may(g, *list) != open)
            fail_msg("%s: %s expected", *list, open ? "open" : "closed");
}

static void test_ipv4(void **state)
{
    static const char *const closed[] = {
        "0.0.0.0",      "0.255.255.255",   "10.0.0.0",     "10.255.255.255", "100.64.0.0",    "100.127.255.255",
        "127.0.0.0",    "127.0.0.1",       "127.255.255.255", "169.254.0.0", "169.254.169.254", "169.254.255.255",
        "172.16.0.0",   "172.31.255.255",  "192.0.0.0",    "192.0.0.255",    "192.0.2.0",     "192.0.2.255",
        "192.88.99.1",  "192.168.0.0",     "192.168.255.255", "198.18.0.0",  "198.19.255.255", "198.51.100.0",
        "198.51.100.255", "203.0.113.0",   "203.0.113.255", "224.0.0.0",     "239.255.255.255", "240.0.0.0",
        "255.255.255.255", NULL};
    static const char *const open[] = {
        "1.0.0.0",     "9.255.255.255",  "11.0.0.0",      "100.63.255.255", "100.128.0.0",  "126.255.255.255",
        "128.0.0.0",   "169.253.255.255", "169.255.0.0",  "172.15.255.255", "172.32.0.0",   "191.255.255.255",
        "192.0.1.0",   "192.0.3.0",      "192.88.98.255", "192.88.100.0",   "192.167.255.255", "192.169.0.0",
        "198.17.255.255", "198.20.0.0",  "198.51.99.255", "198.51.101.0",   "203.0.112.255", "203.0.114.0",
        "223.255.255.255", "8.8.8.8",    NULL};
    char mapped[64], nat64[64], to4[64];
    struct webhook_guard g;
    (void)state;
    assert_int_equal(webhook_guard_init(&g, "", NULL), 0);
    expect(&g, false, closed);
    expect(&g, true, open);
    for (int k = 0; k < 2; k++) {
        for (const char *const *p = k ? open : closed; *p; p++) {
            unsigned char b[4];
            inet_pton(AF_INET, *p, b);
            str_format(mapped, sizeof mapped, "::ffff:%s", *p);
            str_format(nat64, sizeof nat64, "64:ff9b::%s", *p);
            str_format(to4, sizeof to4, "2002:%x:%x::1", b[0] << 8 | b[1], b[2] << 8 | b[3]);
            expect(&g, k, (const char *const[]){mapped, nat64, to4, NULL});
        }
    }
    webhook_guard_done(&g);
}

static void test_ipv6(void **state)
{
    static const char *const closed[] = {
        "::", "::1", "::8.8.8.8", "64:ff9b:1::8.8.8.8", "100::1", "2001::1", "2001:1ff:ffff::", "2001:db8::", "2001:db8:ffff::1",
        "3fff::1", "3fff:fff:ffff::", "4000::1", "fc00::", "fd12::1", "fdff:ffff::", "fe80::1", "febf::1", "fec0::1", "ff02::1", "5f00::1", NULL};
    static const char *const open[] = {"2001:200::1", "2001:db7:ffff::", "2001:db9::", "2606:4700::1111", "3ffe::1",
                                       "3fff:1000::", "2a00::1", NULL};
    struct webhook_guard g;
    (void)state;
    assert_int_equal(webhook_guard_init(&g, "", NULL), 0);
    expect(&g, false, closed);
    expect(&g, true, open);
    struct sockaddr_storage other = {.ss_family = AF_UNIX};
    assert_false(webhook_guard_address(&g, (const struct sockaddr *)&other));
    webhook_guard_done(&g);
}

static void test_allow(void **state)
{
    static const char *const open[] = {"10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3", "127.0.0.1", "fd00::1", "fdff::1", "::1", NULL};
    static const char *const closed[] = {"10.0.255.255", "10.2.0.0", "127.0.0.2", "fc00::1", "::2", "192.168.0.1", NULL};
    static const char *const bad[] = {"10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/x", "10.0.0", "1.2.3.4.5", "a..b",
                                      "name/8", "host:80", "http://host", "[::1]", "a,*,b", "-/", "fd00::/8/8", "10.0.0.0/-1"};
    struct webhook_guard g;
    (void)state;
    assert_int_equal(webhook_guard_init(&g, " 10.1.2.3/16, 127.0.0.1 ,fd00::/8,::1,,", NULL), 0);
    expect(&g, true, open);
    expect(&g, false, closed);
    webhook_guard_done(&g);
    webhook_guard_done(&g);
    assert_int_equal(webhook_guard_init(&g, "0.0.0.0/0", NULL), 0);
    assert_true(may(&g, "127.0.0.1") && may(&g, "::ffff:10.0.0.1") && !may(&g, "::1"));
    webhook_guard_done(&g);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        if (webhook_guard_init(&g, bad[i], &err) != ERR_INVALID || !*err.text)
            fail_msg("%s: accepted", bad[i]);
        webhook_guard_done(&g);
    }
}

static void test_urls(void **state)
{
    static const char *const good[] = {
        "http://example.com", "HTTPS://Example.COM:8443/a/b?c=d#e", "http://8.8.8.8/", "http://[2606:4700::1111]:80/x",
        "http://xn--bcher-kva.example/", "http://localhost.example/", "http://10.example/", "http://example.com./"};
    static const char *const bad[] = {
        "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "example.com/hook", "//example.com", "http://", "http:///",
        "", "javascript:1", "http://user@example.com/", "http://user:secret@example.com/", "http://:x@example.com/",
        "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/",
        "http://%31%32%37.0.0.1/", "http://localhost/", "http://LOCALHOST./", "http://a.localhost:80/", "http://[::1]/",
        "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[fe80::1%25eth0]/", "http://169.254.169.254/latest/",
        "http://0/", "http://0.0.0.0:6379/", "http://10.0.0.1:99999/", "http://exa mple.com/", "http://127.0.0.1.:80/",
        "http://example.com@127.0.0.1/", "http://example.com:80@127.0.0.1/", "http://[64:ff9b::7f00:1]/"};
    struct webhook_guard g;
    (void)state;
    assert_int_equal(webhook_guard_init(&g, "", NULL), 0);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct err err = {0};
        bool named = true;
        if (webhook_guard_url(&g, good[i], &named, &err) != 0 || named)
            fail_msg("%s: %s", good[i], err.text);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        bool named = true;
        if (webhook_guard_url(&g, bad[i], &named, &err) != ERR_INVALID || !*err.text || !named)
            fail_msg("%s: not refused", bad[i]);
        if (strstr(err.text, "secret"))
            fail_msg("the password is told: %s", err.text);
    }
    webhook_guard_done(&g);
}

static void test_names(void **state)
{
    static const struct {
        const char *url;
        bool ok, named;
    } cases[] = {{"http://hooks.intern/", true, true},    {"https://HOOKS.Intern.:8080/x", true, true}, {"http://a.corp/", true, true},
                 {"http://b.a.corp/", true, true},        {"http://corp/", true, false},                {"http://acorp/", true, false},
                 {"http://x.hooks.intern/", true, false}, {"http://hooks.intern.evil.com/", true, false}, {"http://localhost/", true, true},
                 {"http://127.0.0.1/", false, false},     {"http://10.9.9.9/", true, false}};
    struct webhook_guard g;
    (void)state;
    assert_int_equal(webhook_guard_init(&g, "hooks.intern,.corp,localhost,10.9.0.0/16", NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = {0};
        bool named = false;
        if ((webhook_guard_url(&g, cases[i].url, &named, &err) == 0) != cases[i].ok || named != cases[i].named)
            fail_msg("%s: %s", cases[i].url, err.text);
    }
    webhook_guard_done(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ipv4), cmocka_unit_test(test_ipv6), cmocka_unit_test(test_allow),
                                       cmocka_unit_test(test_urls), cmocka_unit_test(test_names)};
    return cmocka_run_group_tests_name("webhook_guard", tests, NULL, NULL);
}
