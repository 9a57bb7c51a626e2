#include "dispatcher/trace.h"

#include <stddef.h>
#include <string.h>

enum { LENGTH = 55, LENGTH_MAX = 60 };

static bool hex(const char *s, size_t n, bool zero_too)
{
    return strspn(s, "0123456789abcdef") >= n && (zero_too || strspn(s, "0") < n);
}

bool trace_ok(const char *t)
{
    size_t n = strlen(t);
    if (n < LENGTH || n > LENGTH_MAX || t[2] != '-' || t[35] != '-' || t[52] != '-')
        return false;
    if (!hex(t, 2, true) || !hex(t + 3, 32, false) || !hex(t + 36, 16, false) || !hex(t + 53, 2, true))
        return false;
    if (strncmp(t, "ff", 2) == 0)
        return false;
    return n == LENGTH || (strncmp(t, "00", 2) != 0 && t[LENGTH] == '-');
}
