/* test_device_cuda.c -- the CUDA device where there is no operation, no GPU or no module: a refusal with its
 * reason, and a process that goes on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/device.h"

static void refused(int index, const char *text)
{
    const struct device_options o = {.index = index};
    struct device *d = NULL;
    struct err err = {0};
    int rc = device_open(&d, "cuda", &o, &err);
    print_message("%s\n", err.text);
    assert_true(rc == ERR_UNSUPPORTED || (index > 0 && rc == ERR_INVALID));
    assert_int_equal(err.code, rc);
    assert_null(d);
    assert_non_null(strstr(err.text, text));
}

/* The module that was built here: loads with a GPU and without. */
static void test_module(void **state)
{
    (void)state;
    if (!getenv("TROUPE_CUDA_MODULE"))
        skip();
    refused(0, "use --device cpu");
    refused(0, "use --device cpu"); /* again: what was loaded stays usable */
    refused(1000, "device cuda");
}

static void test_no_module(void **state)
{
    (void)state;
    const char *given = getenv("TROUPE_CUDA_MODULE");
    char *kept = given ? strdup(given) : NULL;
    setenv("TROUPE_CUDA_MODULE", "/nowhere/troupe-cuda.so", 1);
    refused(0, "/nowhere/troupe-cuda.so");
    setenv("TROUPE_CUDA_MODULE", "libm.so.6", 1); /* a library, but not ours */
    refused(0, "no module of this program");
    unsetenv("TROUPE_CUDA_MODULE");
    if (kept)
        setenv("TROUPE_CUDA_MODULE", kept, 1);
    free(kept);
}

static void test_cpu_after(void **state)
{
    (void)state;
    struct device *d = NULL;
    struct err err = {0};
    refused(0, "device cuda");
    assert_int_equal(device_open(&d, "cpu", NULL, &err), 0);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_module), cmocka_unit_test(test_no_module),
                                       cmocka_unit_test(test_cpu_after)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
