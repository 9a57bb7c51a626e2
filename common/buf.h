/* buf.h -- bytes that grow, up to a ceiling.
 *
 * Wherever a peer can make us allocate there is a buf, and whoever makes it must say how far it may grow.
 *
 *     struct buf b;
 *     buf_init(&b, 64 * 1024);
 *     if ((rc = buf_add(&b, bytes, n)) < 0)
 *         goto out;
 *     ...
 * out:
 *     buf_done(&b);
 */
#ifndef COMMON_BUF_H
#define COMMON_BUF_H

#include <stddef.h>

struct buf {
    char *data; /* owned; always NUL-terminated; NULL while empty */
    size_t len; /* without the NUL */
    size_t cap;
    size_t max; /* the ceiling, for ever */
};

void buf_init(struct buf *b, size_t max); /* cannot fail */
void buf_done(struct buf *b);             /* zeroed or done already: fine */
void buf_clear(struct buf *b);            /* empty, memory kept */

/* Append a copy. ERR_TOOBIG past the ceiling, ERR_NOMEM; b then holds what it held before. */
int buf_add(struct buf *b, const void *bytes, size_t n);
int buf_puts(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int buf_reserve(struct buf *b, size_t n); /* room for n more bytes at data + len */

/* Gives: the caller owns the bytes (mem_free), b is empty again. NULL if empty. */
char *buf_take(struct buf *b, size_t *ret_len);

#endif
