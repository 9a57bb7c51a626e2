#include "common/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/str.h"

static const struct {
    const char *name, *text;
    int http;
    enum err_then then;
} table[ERR_COUNT] = {
    {"OK", "no error", 200, ERR_THEN_FAIL},
#define X(name, text, http, then) {#name, text, http, then},
    ERR_MAP(X)
#undef X
};

static int index_of(int code)
{
    return code <= 0 && code > -ERR_COUNT ? -code : ERR_INDEX_INTERNAL;
}

const char *err_name(int code)
{
    return code <= 0 && code > -ERR_COUNT ? table[-code].name : "UNKNOWN";
}

const char *err_text(int code)
{
    return table[index_of(code)].text;
}

int err_http(int code)
{
    return table[index_of(code)].http;
}

enum err_then err_then(int code)
{
    return table[index_of(code)].then;
}

int err_parse(const char *name)
{
    for (int i = 0; i < ERR_COUNT; i++) {
        if (strcmp(table[i].name, name) == 0)
            return -i;
    }
    return ERR_INTERNAL;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (e && e->code == 0) {
        va_list ap;
        va_start(ap, fmt);
        if (vsnprintf(e->text, sizeof e->text, fmt, ap) >= (int)sizeof e->text)
            str_end_whole(e->text);
        va_end(ap);
        e->code = code;
    }
    return code;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    if (!e)
        return ERR_INTERNAL;
    char head[sizeof e->text], all[2 * sizeof e->text + 4];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    snprintf(all, sizeof all, "%s: %s", head, e->text);
    all[sizeof e->text - 1] = 0;
    memcpy(e->text, all, sizeof e->text);
    str_end_whole(e->text);
    return e->code;
}

void err_clear(struct err *e)
{
    e->code = 0;
    e->text[0] = 0;
}
