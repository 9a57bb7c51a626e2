/* err.h -- every way to fail, once: name, text, HTTP status and what becomes of a job that ends with it.
 *
 * A function that can fail returns int: 0, or one ERR_* (negative). `struct err` carries the sentence for a person
 * and is set once, at the source:
 *
 *     return err_set(err, ERR_SHAPE, "%s: [%d] wanted, [%d] in file", name, want, got);
 *
 * The first sentence is kept: callers on the way up may call err_set again without harm.
 */
#ifndef COMMON_ERR_H
#define COMMON_ERR_H

enum err_then { ERR_THEN_FAIL, ERR_THEN_RETRY, ERR_THEN_CANCEL };

/* name, text, HTTP status, verdict for a job */
#define ERR_MAP(X)                                                                                                   \
    X(BADREQ, "request is not valid", 400, ERR_THEN_FAIL)                                                            \
    X(INVALID, "a field's value is not allowed", 422, ERR_THEN_FAIL)                                                 \
    X(MEDIA, "media cannot be read", 422, ERR_THEN_FAIL)                                                             \
    X(TOOBIG, "larger than the limit", 413, ERR_THEN_FAIL)                                                           \
    X(NOFIT, "does not fit the device", 422, ERR_THEN_FAIL)                                                          \
    X(FORMAT, "file is not in the expected format", 500, ERR_THEN_FAIL)                                              \
    X(WEIGHTS, "weights are missing or do not match", 500, ERR_THEN_FAIL)                                            \
    X(SHAPE, "tensor shape is not the expected", 500, ERR_THEN_FAIL)                                                 \
    X(UNSUPPORTED, "not supported", 501, ERR_THEN_FAIL)                                                              \
    X(INTERNAL, "internal error", 500, ERR_THEN_FAIL)                                                                \
    X(NOTFOUND, "not found", 404, ERR_THEN_FAIL)                                                                     \
    X(AUTH, "not authorised", 401, ERR_THEN_FAIL)                                                                    \
    X(CONFLICT, "conflicts with the current state", 409, ERR_THEN_FAIL)                                              \
    X(LIMIT, "too many requests", 429, ERR_THEN_RETRY)                                                               \
    X(NOMEM, "out of memory", 503, ERR_THEN_RETRY)                                                                   \
    X(IO, "input or output failed", 503, ERR_THEN_RETRY)                                                             \
    X(NOSPACE, "no space left on the volume", 507, ERR_THEN_RETRY)                                                   \
    X(REDIS, "Redis is not reachable", 503, ERR_THEN_RETRY)                                                          \
    X(TIMEOUT, "deadline passed", 504, ERR_THEN_RETRY)                                                               \
    X(DEVICE, "device call failed", 503, ERR_THEN_RETRY)                                                             \
    X(LOST, "another attempt owns the job", 409, ERR_THEN_CANCEL)                                                    \
    X(CANCEL, "job was cancelled", 409, ERR_THEN_CANCEL)                                                             \
    X(DRAIN, "worker is stopping", 503, ERR_THEN_RETRY)

enum err_code {
    ERR_OK_ = 0,
#define X(name, text, http, then) ERR_INDEX_##name,
    ERR_MAP(X)
#undef X
        ERR_COUNT
};

enum {
#define X(name, text, http, then) ERR_##name = -(int)ERR_INDEX_##name,
    ERR_MAP(X)
#undef X
        ERR_END_ = 0
};

struct err {
    int code;       /* 0: nothing went wrong */
    char text[480]; /* for a person, UTF-8, always NUL-terminated */
};

const char *err_name(int code);       /* "SHAPE"; "OK" for 0, "UNKNOWN" otherwise */
const char *err_text(int code);       /* the general sentence of the table */
int err_http(int code);               /* HTTP status */
enum err_then err_then(int code);     /* fail, retry, cancel */
int err_parse(const char *name);      /* the code of a name, ERR_INTERNAL for an unknown one */

/* Sets the sentence if e holds none yet, and returns code. e may be NULL. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "what: " in front of the sentence that is already there; returns e's code. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void err_clear(struct err *e);

#endif
