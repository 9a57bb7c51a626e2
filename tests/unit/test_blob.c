/* blob: files by content, limits, base64, results, what dead writers leave, a full and a read-only volume. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/blob.h"
#include "common/str.h"

static char volume[64];
static struct err err;

static int make(void **state)
{
    (void)state;
    err_clear(&err);
    str_copy(volume, sizeof(volume), "/tmp/troupe-blob-XXXXXX");
    return mkdtemp(volume) && blob_init(volume, &err) == 0 ? 0 : -1;
}

static int drop(void **state)
{
    char cmd[128];
    (void)state;
    str_format(cmd, sizeof(cmd), "rm -rf '%s'", volume);
    return system(cmd);
}

/* How many files lie in {volume}/tmp. */
static int leftovers(void)
{
    return blob_sweep(volume, -1);
}

static void test_put(void **state)
{
    (void)state;
    struct blob_put p;
    char key[BLOB_KEY], again[BLOB_KEY], text[8];
    uint64_t n = 0;
    int fd = -1;
    assert_int_equal(blob_put_begin(&p, volume, 3, &err), 0);
    assert_int_equal(blob_put_add(&p, "a", 1, &err), 0);
    assert_int_equal(blob_put_add(&p, "bc", 2, &err), 0);
    assert_int_equal(blob_put_end(&p, key, &err), 0);
    blob_put_abort(&p);
    /* FIPS 180-4's example */
    assert_string_equal(key, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(blob_stat(volume, key, &n, &err), 0);
    assert_int_equal(n, 3);
    assert_int_equal(blob_open(volume, key, &fd, &err), 0);
    assert_int_equal(read(fd, text, sizeof(text)), 3);
    assert_memory_equal(text, "abc", 3);
    close(fd);
    assert_int_equal(blob_put_bytes(volume, "abc", 3, again, &err), 0);
    assert_string_equal(again, key);
    assert_int_equal(blob_delete(volume, key, &err), 0);
    assert_int_equal(blob_delete(volume, key, &err), 0);
    assert_int_equal(blob_stat(volume, key, &n, &err), ERR_NOTFOUND);
    assert_int_equal(leftovers(), 0);
}

static void test_limit(void **state)
{
    (void)state;
    struct blob_put p;
    char key[BLOB_KEY] = "untouched";
    assert_int_equal(blob_put_begin(&p, volume, 1024, &err), 0);
    assert_int_equal(blob_put_add(&p, volume, 10, &err), 0);
    static const char big[1015] = {0};
    assert_int_equal(blob_put_add(&p, big, sizeof(big), &err), ERR_TOOBIG);
    assert_string_equal(err.text, "larger than the limit of 1.0 KiB");
    assert_int_equal(blob_put_add(&p, "x", 1, NULL), ERR_INTERNAL);
    assert_int_equal(blob_put_end(&p, key, NULL), ERR_INTERNAL);
    assert_string_equal(key, "untouched");
    assert_int_equal(blob_put_begin(&p, volume, 5, NULL), 0);
    blob_put_abort(&p);
    blob_put_abort(&p);
    assert_int_equal(leftovers(), 0);
}

static void test_base64(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
    } cases[] = {
        {"YWJj", 0},
        {"YW Jj\r\n", 0},
        {"YWJjZA==", 0},
        {"YWJjZA", 0},
        {"", 0},
        {"Y", ERR_MEDIA},
        {"YWJj*", ERR_MEDIA},
        {"YW=Jj", ERR_MEDIA},
        {"YWJjZA=", ERR_MEDIA},
        {"YWJjZA===", ERR_MEDIA},
        {"YQ==YQ==", ERR_MEDIA},
        {"aGVsbG8-_w", 0},
    };
    char key[BLOB_KEY];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (blob_put_base64(volume, cases[i].text, strlen(cases[i].text), 100, key, NULL) != cases[i].rc)
            fail_msg("'%s'", cases[i].text);
    assert_int_equal(blob_put_base64(volume, "YWJj", 4, 100, key, &err), 0);
    assert_string_equal(key, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(blob_put_base64(volume, "YWJj", 4, 2, key, &err), ERR_TOOBIG);
    assert_int_equal(leftovers(), 0);
}

static void test_keys(void **state)
{
    (void)state;
    char path[BLOB_PATH];
    static const char *const bad[] = {
        "",
        "sha256:",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "sha256:BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "sha256:../../../../../../etc/passwd",
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(blob_path(volume, bad[i], path, sizeof(path), NULL), ERR_INVALID);
    assert_int_equal(blob_result_path(volume, "../x", 1, "video.mp4", true, path, sizeof(path), NULL),
                     ERR_INVALID);
    assert_int_equal(blob_delete_results(volume, "..", NULL), ERR_INVALID);
}

static void test_results(void **state)
{
    (void)state;
    char path[BLOB_PATH], tmp[BLOB_PATH];
    struct stat st;
    assert_int_equal(blob_result_path(volume, "job", 2, "video.mp4", true, path, sizeof(path), &err), 0);
    assert_true(str_ends(path, "/results/job/2-video.mp4"));
    assert_int_equal(blob_publish_bytes(path, "one", 3, &err), 0);
    assert_int_equal(blob_publish_bytes(path, "three", 5, &err), 0); /* again: whole, never mixed */
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 5);
    str_format(tmp, sizeof(tmp), "%s.part", path);
    assert_int_equal(access(tmp, F_OK), -1);
    assert_int_equal(blob_publish("/nowhere/at/all", path, NULL), ERR_IO); /* may pass: somebody swept */
    for (int i = 0; i < 2; i++)
        assert_int_equal(blob_delete_results(volume, "job", &err), 0);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_file(void **state)
{
    (void)state;
    char path[128], key[BLOB_KEY];
    str_path(path, sizeof(path), volume, "in");
    assert_int_equal(blob_publish_bytes(path, "abc", 3, &err), 0);
    assert_int_equal(blob_put_file(volume, path, 3, key, &err), 0);
    assert_string_equal(key, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(blob_put_file(volume, path, 2, key, &err), ERR_TOOBIG);
    assert_int_equal(blob_put_file(volume, "/nowhere", 2, key, NULL), ERR_NOTFOUND);
    assert_int_equal(blob_put_file(volume, volume, 2, key, NULL), ERR_IO); /* a folder */
    assert_int_equal(leftovers(), 0);
}

static void test_sweep(void **state)
{
    (void)state;
    struct blob_put p;
    assert_int_equal(blob_put_begin(&p, volume, 10, &err), 0);
    assert_int_equal(blob_sweep(volume, 3600), 0); /* young: somebody writes it */
    assert_int_equal(blob_sweep(volume, -1), 1);
    blob_put_abort(&p);
}

static void test_sentences(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(blob_errno(&e, ENOSPC, "write", "/v/x"), ERR_NOSPACE);
    assert_string_equal(e.text, "write /v/x: no space left on the volume; free some, or use a larger one");
    err_clear(&e);
    assert_int_equal(blob_errno(&e, EROFS, "write", "/v/x"), ERR_IO);
    assert_string_equal(e.text, "write /v/x: the volume is read-only; mount it writable");
    err_clear(&e);
    assert_int_equal(blob_init("/proc/nothing-can-be-made-here", &e), ERR_NOTFOUND);
    err_clear(&e);
    assert_int_equal(blob_init("/dev/full", &e), ERR_IO); /* a file, not a folder */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, make, drop)
    const struct CMUnitTest tests[] = {T(test_put),     T(test_limit), T(test_base64), T(test_keys),
                                       T(test_results), T(test_file),  T(test_sweep),  T(test_sentences)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
