/* pack.h -- msgpack (the one door to msgpack-c), to and from the values of json.h.
 *
 * Everything that we keep in Redis is msgpack: whole numbers stay whole for all 64 bits, and Redis' scripts
 * can read it (cmsgpack). msgpack values delimit themselves, so two of them may stand one after another;
 * `used` says where the next begins.
 *
 *     struct buf b;
 *     buf_init(&b, 64 * 1024);
 *     rc = pack_write(&b, object, &err);
 *     rc = pack_read(b.data, b.len, &used, &value, &err);
 */
#ifndef COMMON_PACK_H
#define COMMON_PACK_H

#include <stddef.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"

#define PACK_DEPTH_MAX 16

/* Appends value. ERR_TOOBIG past the buffer's ceiling, ERR_NOMEM; b then holds what it held before. */
int pack_write(struct buf *b, const json_t *value, struct err *err);
/* Reads the first value of bytes. ret_used NULL: nothing may follow it. ERR_FORMAT for: cut off, text that is
 * not UTF-8, keys that are not text, deeper than PACK_DEPTH_MAX, binary and extension types, numbers above
 * 2^63 - 1. The caller owns *ret. */
int pack_read(const void *bytes, size_t len, size_t *ret_used, json_t **ret, struct err *err);

#endif
