/* blob.h -- files on the shared volume: inputs by content, results by job and attempt.
 *
 *     {volume}/blobs/ab/ab12...          an input, named by its SHA-256; key "sha256:ab12..."
 *     {volume}/tmp/put-...               an input being written
 *     {volume}/results/<job>/<attempt>-<mark>-video.mp4, -thumbnail.png, -report.json
 *
 * A file appears under its name whole or not at all: temporary name, fsync, rename, fsync of the folder.
 * Writing the same bytes twice is harmless. Any number of processes may share a volume.
 *
 *     struct blob_put p;
 *     if ((rc = blob_put_begin(&p, volume, 32 << 20, &err)) < 0) ...
 *     rc = blob_put_add(&p, bytes, n, &err);            any number of times
 *     rc = blob_put_end(&p, key, &err);                 or blob_put_abort(&p)
 *     ...
 *     rc = blob_path(volume, key, path, sizeof(path), &err);
 */
#ifndef COMMON_BLOB_H
#define COMMON_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/sha256.h"

#define BLOB_KEY 72 /* "sha256:" + 64 digits + NUL */
#define BLOB_PATH 4096

/* Makes the folders and proves by a written file that the volume takes writes. ERR_IO ("... is read-only"),
 * ERR_NOSPACE. Called once at a program's start. */
int blob_init(const char *volume, struct err *err);

struct blob_put {
    int fd;
    uint64_t bytes, max_bytes;
    struct sha256 hash;
    char volume[BLOB_PATH];
    char tmp[BLOB_PATH + 64];
};

/* max_bytes: ERR_TOOBIG past it, with the limit in the sentence. ERR_NOSPACE, ERR_IO. After a failure of add
 * or end the put is over and its file gone; abort is then allowed and does nothing. */
int blob_put_begin(struct blob_put *p, const char *volume, uint64_t max_bytes, struct err *err);
int blob_put_add(struct blob_put *p, const void *bytes, size_t n, struct err *err);
int blob_put_end(struct blob_put *p, char key[BLOB_KEY], struct err *err);
void blob_put_abort(struct blob_put *p); /* zeroed, ended or aborted already: fine */

/* The whole of memory, or of a file, in one call. */
int blob_put_bytes(const char *volume, const void *bytes, size_t n, char key[BLOB_KEY], struct err *err);
int blob_put_file(const char *volume, const char *path, uint64_t max_bytes, char key[BLOB_KEY],
                  struct err *err);
/* Base64 (RFC 4648, padding optional, line breaks allowed) decoded straight into a blob. ERR_MEDIA says at
 * which character it stops being base64. */
int blob_put_base64(const char *volume, const char *text, size_t len, uint64_t max_bytes, char key[BLOB_KEY],
                    struct err *err);

bool blob_key_ok(const char *key); /* "sha256:" and 64 lower-case hex digits */
/* Where a blob lies, whether or not it is there. ERR_INVALID for a bad key. */
int blob_path(const char *volume, const char *key, char *ret, size_t size, struct err *err);
/* 0 with its bytes (ret_bytes may be NULL), ERR_NOTFOUND, ERR_INVALID. */
int blob_stat(const char *volume, const char *key, uint64_t *ret_bytes, struct err *err);
int blob_open(const char *volume, const char *key, int *ret_fd,
              struct err *err);                                        /* read only; the caller closes */
int blob_delete(const char *volume, const char *key, struct err *err); /* not there: 0 */

/* {volume}/results/<job>/<attempt>-<name>; with make, the folder is made. job is checked (no path in it). */
int blob_result_path(const char *volume, const char *job, int64_t attempt, const char *name, bool make,
                     char *ret, size_t size, struct err *err);
/* fsync of tmp, rename to path, fsync of the folder. tmp is gone afterwards in every case. ERR_IO when it was gone before. */
int blob_publish(const char *tmp, const char *path, struct err *err);
/* Writes bytes to path that way. */
int blob_publish_bytes(const char *path, const void *bytes, size_t n, struct err *err);
/* Removes every result of a job. Not there: 0. */
int blob_delete_results(const char *volume, const char *job, struct err *err);
/* Removes what dead writers left in {volume}/tmp: files older than max_age_s by the volume's
 * own clock. Returns how many. */
int blob_sweep(const char *volume, int64_t max_age_s);

/* errno to a code and a sentence: ENOSPC, EDQUOT -> NOSPACE; EROFS -> IO "the volume is read-only"; ENOENT ->
 * NOTFOUND; else IO. what: "write" ; path: the file. Keeps errno's text. */
int blob_errno(struct err *err, int errnum, const char *what, const char *path);

#endif
