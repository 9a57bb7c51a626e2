/* pack: values there and back, what is refused, cut and twisted bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/pack.h"

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "null",
        "true",
        "false",
        "0",
        "-1",
        "127",
        "128",
        "65536",
        "9223372036854775807",
        "-9223372036854775808",
        "0.1",
        "-1e300",
        "\"\"",
        "\"h\\u00e4llo\\nworld\"",
        "[]",
        "{}",
        "[1,[2,[3,{}]]]",
        "{\"a\":1,\"b\":[true,null,\"x\"],\"c\":{\"d\":1.5}}",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct buf b;
        struct err err = {0};
        json_t *v = NULL, *back = NULL;
        buf_init(&b, 4096);
        assert_int_equal(json_parse(texts[i], strlen(texts[i]), 16, &v, &err), 0);
        assert_int_equal(pack_write(&b, v, &err), 0);
        if (pack_read(b.data, b.len, NULL, &back, &err) != 0)
            fail_msg("%s: %s", texts[i], err.text);
        assert_true(json_equal(v, back));
        for (size_t cut = 0; cut < b.len; cut++) { /* every beginning is refused */
            json_t *none = NULL;
            assert_int_equal(pack_read(b.data, cut, NULL, &none, NULL), ERR_FORMAT);
            assert_null(none);
        }
        json_decref(v);
        json_decref(back);
        buf_done(&b);
    }
}

static void test_two_values(void **state)
{
    (void)state;
    struct buf b;
    json_t *a = json_pack("{s:i}", "r", 1), *v = NULL;
    size_t used = 0;
    buf_init(&b, 100);
    assert_int_equal(pack_write(&b, a, NULL), 0);
    size_t first = b.len;
    assert_int_equal(pack_write(&b, a, NULL), 0);
    assert_int_equal(pack_read(b.data, b.len, NULL, &v, NULL), ERR_FORMAT); /* something follows */
    assert_int_equal(pack_read(b.data, b.len, &used, &v, NULL), 0);
    assert_int_equal(used, first);
    json_decref(v);
    json_decref(a);
    buf_done(&b);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        {"", 0},
        {"\xc1", 1},                                 /* never used */
        {"\xc4\x01x", 3},                            /* binary */
        {"\xc7\x01\x05x", 4},                        /* extension */
        {"\xd4\x05x", 3},                            /* fixed extension */
        {"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9}, /* 2^64 - 1 */
        {"\xa1\xff", 2},                             /* not UTF-8 */
        {"\x81\x01\x02", 3},                         /* key is a number */
        {"\x81\xa1\xff\x02", 4},                     /* key is not UTF-8 */
        {"\xdd\xff\xff\xff\xff\x01", 6},             /* 4 billion values, one byte */
        {"\xdf\x7f\xff\xff\xff\xa1", 6},
        {"\xdb\xff\xff\xff\xffx", 6},
        {"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x01", 18}, /* 17 deep */
        {"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", 9},                                      /* NaN */
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        json_t *v = NULL;
        struct err err = {0};
        if (pack_read(bad[i].bytes, bad[i].len, NULL, &v, &err) != ERR_FORMAT)
            fail_msg("case %zu was let through", i);
        assert_true(err.text[0] != 0);
    }
    json_t *v = NULL;
    assert_int_equal(
        pack_read("\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x01", 17, NULL, &v, NULL),
        0);
    json_decref(v);
}

static void test_ceiling(void **state)
{
    (void)state;
    struct buf b;
    struct err err = {0};
    json_t *v = json_string("a text of more than sixteen bytes");
    buf_init(&b, 16);
    assert_int_equal(buf_puts(&b, "keep"), 0);
    assert_int_equal(pack_write(&b, v, &err), ERR_TOOBIG);
    assert_string_equal(b.data, "keep");
    assert_int_equal(b.len, 4);
    json_decref(v);
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_two_values),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_ceiling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
