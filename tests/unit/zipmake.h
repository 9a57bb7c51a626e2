/* zipmake.h -- a zip of stored entries into a buffer, for tests of its reader. Checksums are zero: nobody
 * looks. */
#ifndef TESTS_UNIT_ZIPMAKE_H
#define TESTS_UNIT_ZIPMAKE_H

#include <string.h>

#include "common/buf.h"

struct zipmake_item {
    const char *name;
    const void *data;
    size_t n;
};

static inline void zipmake_put(struct buf *b, size_t v, int n)
{
    for (int i = 0; i < n; i++)
        buf_add(b, &(char){(char)(i < 8 ? v >> 8 * i : 0)}, 1);
}

/* The fields from the needed version to the extra field's length; local headers and the directory share them.
 */
static inline void zipmake_fields(struct buf *b, const struct zipmake_item *it)
{
    zipmake_put(b, 20, 2);
    zipmake_put(b, 0, 2 + 2 + 2 + 2 + 4);
    zipmake_put(b, it->n, 4);
    zipmake_put(b, it->n, 4);
    zipmake_put(b, strlen(it->name), 2);
    zipmake_put(b, 0, 2);
}

static inline void zipmake(struct buf *b, const struct zipmake_item *list, size_t n)
{
    size_t at[16], central;
    for (size_t i = 0; i < n; i++) {
        at[i] = b->len;
        zipmake_put(b, 0x04034b50, 4);
        zipmake_fields(b, &list[i]);
        buf_puts(b, list[i].name);
        buf_add(b, list[i].data, list[i].n);
    }
    central = b->len;
    for (size_t i = 0; i < n; i++) {
        zipmake_put(b, 0x02014b50, 4);
        zipmake_put(b, 20, 2);
        zipmake_fields(b, &list[i]);
        zipmake_put(b, 0, 2 + 2 + 2 + 4);
        zipmake_put(b, at[i], 4);
        buf_puts(b, list[i].name);
    }
    zipmake_put(b, 0x06054b50, 4);
    zipmake_put(b, 0, 4);
    zipmake_put(b, n, 2);
    zipmake_put(b, n, 2);
    size_t size = b->len - 10 - 2 - central; /* 12 bytes of the end record are already there */
    zipmake_put(b, size, 4);
    zipmake_put(b, central, 4);
    zipmake_put(b, 0, 2);
}

#endif
