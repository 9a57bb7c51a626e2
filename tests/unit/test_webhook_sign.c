/* webhook_sign: the specification's own example, keys of all lengths, rotation, and secrets that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/str.h"
#include "dispatcher/webhook_sign.h"

#define SPEC "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define LONG "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
#define ODD "whsec_yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f4A=="

static void same(const char *secrets, const char *id, int64_t t, const char *body, const char *want)
{
    char got[WEBHOOK_SIGN_TEXT] = "";
    struct err err = {0};
    assert_int_equal(webhook_sign(secrets, id, t, body, strlen(body), got, &err), 0);
    assert_string_equal(got, want);
}

/* The first from the specification; the others computed with Python's hmac. */
static void test_known(void **state)
{
    (void)state;
    same(SPEC, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, "{\"test\": 2432232314}",
         "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    same(LONG, "j_1", 7, "", "v1,TcdfKFz1eoHF5uL7ifIQw3b4HxipPOqEHFY+aHBQcC0=");
    same(ODD, "j_1", 7, "\xc3\xa9\n", "v1,/eNDcJF0pN4wEPSS679W1+ujC+aMuR6PKBSFm/Jjsvg=");
}

static void test_rotation(void **state)
{
    (void)state;
    same(LONG " , " SPEC, "j_1", 7, "",
         "v1,TcdfKFz1eoHF5uL7ifIQw3b4HxipPOqEHFY+aHBQcC0= v1,YLnaaFgPo/nK8p1UgiNvjd6AsddwN8HNrjJSlkGSD14=");
}

static void test_bad_secrets(void **state)
{
    static const char *const bad[] = {
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", /* no prefix */
        "whsec_",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",             /* not whole groups */
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS=",            /* 23 bytes */
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La\xc3\xa9Sw",      /* no base64 */
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaL=Sw",            /* padding inside */
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_",            /* the URL alphabet */
        LONG "AAAA",
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=", /* 65 bytes */
        SPEC ",," SPEC,
        SPEC "," SPEC "," SPEC "," SPEC "," SPEC "," SPEC "," SPEC "," SPEC "," SPEC,
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        char out[WEBHOOK_SIGN_TEXT] = "before";
        if (webhook_sign_check(bad[i], &err) != ERR_INVALID)
            fail_msg("accepted: %s", bad[i]);
        assert_true(*err.text && !strstr(err.text, "MfKQ9r8"));
        err_clear(&err);
        assert_int_equal(webhook_sign(bad[i], "a", 1, "x", 1, out, &err), ERR_INVALID);
        assert_string_equal(out, "before");
    }
    struct err err = {0};
    char out[WEBHOOK_SIGN_TEXT];
    assert_int_equal(webhook_sign_check("", &err), 0);
    assert_int_equal(webhook_sign("", "a", 1, "x", 1, out, &err), ERR_INVALID);
    assert_int_equal(webhook_sign_check(SPEC "," SPEC "," SPEC "," SPEC "," SPEC "," SPEC "," SPEC "," LONG, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_known), cmocka_unit_test(test_rotation),
                                       cmocka_unit_test(test_bad_secrets)};
    return cmocka_run_group_tests_name("webhook_sign", tests, NULL, NULL);
}
