/* schema.h -- what a generator can be asked for: one table of fields (name, type, range, default, help).
 * Validation with its sentences, multipart text fields, the OpenAPI document, the CLI's --help and the web
 * form all come from it.
 *
 *     const struct schema *s = schema_find("avatar");
 *     json_t *body = json_object();                                    from JSON, or field by field from
 * multipart: rc = schema_text(s, "seed", "42", 2, body, &err); rc = schema_media(s, "image", text, len,
 * &media, &err);          base64, data: URL, blob key or URL?
 *     ... store base64 by blob_put_base64, then set body.image to the key ...
 *     rc = schema_apply(s, body, defaults, &job, &err);                ranges, defaults; fills job.params and
 * the rest
 *
 * Every refusal is one sentence: "guidance_scale: 25 is not allowed; a number from 0 to 20 is". ERR_INVALID
 * for values, ERR_BADREQ for a body that is not an object, ERR_TOOBIG for media above the limit.
 */
#ifndef COMMON_SCHEMA_H
#define COMMON_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/job.h"
#include "common/json.h"

/* type, its name for people */
#define SCHEMA_TYPES(X)                                                                                      \
    X(MEDIA, "media") /* blob key in params: "sha256:..." */                                                 \
    X(TEXT, "text")   /* UTF-8, at most max bytes */                                                         \
    X(INTEGER, "integer")                                                                                    \
    X(NUMBER, "number")                                                                                      \
    X(BOOLEAN, "boolean")                                                                                    \
    X(CHOICE, "choice") /* one of choices, separated by '|' */                                               \
    X(SIZE, "size")     /* integer min..max, or "WxH" of multiples of 16 within the same range */            \
    X(FACE, "face")     /* auto, none, required, "x,y,w,h", or an index */                                   \
    X(TAGS, "tags")     /* array of text, or text separated by commas */

enum schema_type {
#define X(name, text) SCHEMA_##name,
    SCHEMA_TYPES(X)
#undef X
        SCHEMA_TYPE_COUNT
};
const char *schema_type_text(enum schema_type t);

enum { SCHEMA_REQUIRED = 1, SCHEMA_QUEUE = 2 }; /* must be given; belongs to the job, not to params */

struct schema_field {
    const char *name;
    enum schema_type type;
    double min, max;     /* numbers; TEXT: bytes; MEDIA: max bytes; TAGS: how many, max bytes each */
    const char *initial; /* default as text; NULL: absent unless given */
    const char *choices; /* CHOICE, and NUMBER where only these are allowed; NULL otherwise */
    unsigned flags;
    const char *help; /* one sentence */
};

struct schema {
    const char *generator;
    const char *help;
    const struct schema_field *fields;
    size_t n_fields;
};

const struct schema *schema_find(const char *generator); /* NULL for an unknown one */
const struct schema *schema_at(size_t i);                /* NULL past the last */
const struct schema_field *schema_field(const struct schema *s, const char *name); /* NULL */

/* A text form (multipart part, --flag, query parameter) to the field's own type, set in `into`. ERR_INVALID
 * for text that is not of the type, a field given twice, an unknown field (the nearest known one is named).
 */
int schema_text(const struct schema *s, const char *name, const char *value, size_t len, json_t *into,
                struct err *err);

enum schema_media_kind { SCHEMA_MEDIA_KEY, SCHEMA_MEDIA_BASE64, SCHEMA_MEDIA_URL };
struct schema_media {
    enum schema_media_kind kind;
    const char *data; /* borrowed from value: the key, the base64 text behind "data:...;base64,", the URL */
    size_t len;
};
/* What a media field's text is. ERR_INVALID for none of them; URLs are ERR_UNSUPPORTED with the way out
 * (upload it). */
int schema_media(const struct schema *s, const char *name, const char *value, size_t len,
                 struct schema_media *ret, struct err *err);

/* Checks every field of body, fills what is absent from `defaults` (an object, or NULL) and then from the
 * table. job (initialised) gets generator, params and the queue's fields; body is not changed. Media must be
 * blob keys by now. */
int schema_apply(const struct schema *s, const json_t *body, const json_t *defaults, struct job *job,
                 struct err *err);

/* Readers for params that schema_apply made: the value, or the fallback when it is absent. */
int64_t schema_int(const json_t *params, const char *name, int64_t fallback);
double schema_num(const json_t *params, const char *name, double fallback);
const char *schema_str(const json_t *params, const char *name, const char *fallback);

/* The face field's text, as schema_apply let it through, to its parts. kind: 'a'uto, 'n'one, 'r'equired,
 * 'b'ox, 'i'ndex. */
struct schema_face {
    char kind;
    double box[4];
    int index;
};
int schema_face_parse(const char *text, struct schema_face *ret, struct err *err);
/* "704" -> size; "512x768" -> width, height (the others 0). ERR_INVALID. */
int schema_size_parse(const char *text, int min, int max, int *ret_size, int *ret_w, int *ret_h,
                      struct err *err);
/* params.size: an area class (*ret_w = *ret_h = 0), or "WxH" (*ret_size = 0). ERR_INVALID when it is neither.
 */
int schema_size(const json_t *params, int *ret_size, int *ret_w, int *ret_h);

/* The JSON Schema (2020-12, as OpenAPI 3.1 uses it) of the request; owned by the caller, NULL without memory.
 * multipart: media are binary strings instead of text. */
json_t *schema_openapi(const struct schema *s, const json_t *defaults, bool multipart);
/* "  --seed N    ..." lines for --help, 100 columns wide. */
int schema_help(const struct schema *s, struct buf *out);

#endif
