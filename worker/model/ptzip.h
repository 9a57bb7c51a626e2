/* ptzip.h -- the directory of a zip file in memory: stored (uncompressed) entries only, as torch.save writes
 * them.
 *
 * Reads the end record, zip64's too, and the central directory; every local header is checked against its
 * entry. Entries whose data is compressed, encrypted or outside the file are refused when asked for,
 * overlapping ones at once. Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.5.3.
 *
 *     struct ptzip *z;
 *     if ((rc = ptzip_open(&z, bytes, len, &err)) < 0) ...
 *     rc = ptzip_find(z, "archive/data.pkl", &data, &n, &err);
 */
#ifndef WORKER_MODEL_PTZIP_H
#define WORKER_MODEL_PTZIP_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct ptzip;

/* bytes are borrowed until ptzip_close. ERR_FORMAT, ERR_NOMEM, ERR_TOOBIG. */
int ptzip_open(struct ptzip **ret, const uint8_t *bytes, size_t len, struct err *err);
void ptzip_close(struct ptzip *z);

size_t ptzip_count(const struct ptzip *z);
/* The name of entry i in order of names; not NUL-terminated in the file, so a copy owned by z. */
const char *ptzip_name(const struct ptzip *z, size_t i);
/* Data of the entry of that name, borrowed from the file. ERR_NOTFOUND, ERR_FORMAT. */
int ptzip_find(const struct ptzip *z, const char *name, const uint8_t **ret, size_t *ret_len,
               struct err *err);

#endif
