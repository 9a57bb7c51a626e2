/* check.h -- what the tests of this folder count: check(fine, what, text) each, and at the end "N passed, N failed, N skipped". */
#ifndef TESTS_CUDAEMU_CHECK_H
#define TESTS_CUDAEMU_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int passed, failed;

static void check(bool fine, const char *what, const char *text)
{
    fine ? passed++ : failed++;
    if (!fine)
        printf("FAIL %s: %s\n", what, text);
}

static inline bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

#endif
