/* schema.c -- the table of fields, and checking requests against it. Start reading at schema_apply;
 * `check_value` holds the rule of each type. What is made of the table for people is in schema_doc.c. */
#include "common/schema.h"

#include <ctype.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/blob.h"
#include "common/preset.h"
#include "common/str.h"

#define SHOWN_MAX 60
#define FIELDS_MAX 64
#define TWO_63 9223372036854775808.0

static const struct schema_field avatar_fields[] = {
    {"image", SCHEMA_MEDIA, 0, 33554432, NULL, NULL, SCHEMA_REQUIRED,
     "the portrait: PNG, JPEG, WebP, or the first frame of a GIF; turned as its EXIF says"},
    {"audio", SCHEMA_MEDIA, 0, 209715200, NULL, NULL, SCHEMA_REQUIRED,
     "the speech: any common audio format, or a video's sound"},
    {"prompt", SCHEMA_TEXT, 0, 4096, "", NULL, 0, "what the picture shows; a fixed beginning is added to it"},
    {"negative_prompt", SCHEMA_TEXT, 0, 4096, NULL, NULL, 0,
     "what to keep away from; absent: the usual list"},
    {"size", SCHEMA_SIZE, 64, 1024, "704", NULL, 0,
     "area class of the video (side of a square), or width x height"},
    {"fps", SCHEMA_NUMBER, 12.5, 25, "25", "12.5|25", 0, "frames a second"},
    {"num_frames", SCHEMA_INTEGER, 1, 100000, NULL, NULL, 0,
     "length in frames; absent: as long as the audio"},
    {"num_inference_steps", SCHEMA_INTEGER, 1, 100, "50", NULL, 0,
     "denoising steps: more is slower and finer"},
    {"guidance_scale", SCHEMA_NUMBER, 0, 20, "7.5", NULL, 0, "how closely prompt and audio are followed"},
    {"flow_shift", SCHEMA_NUMBER, 0.1, 20, "5", NULL, 0, "where on the noise scale the steps are spent"},
    {"seed", SCHEMA_INTEGER, -1, TWO_63, "-1", NULL, 0,
     "same seed, same video; -1: drawn, and told with the result"},
    {"face", SCHEMA_FACE, 0, 100000, "auto", NULL, 0,
     "whose face speaks: auto, none, required, an index by size (0 is the largest), or x,y,w,h in pixels of "
     "the image"},
    {"preset", SCHEMA_CHOICE, 0, 0, "auto", PRESET_CHOICES, 0,
     "class of device: a ceiling on the memory that the job may take"},
    {"priority", SCHEMA_INTEGER, 0, 9, "5", NULL, SCHEMA_QUEUE, "9 goes first"},
    {"delay_s", SCHEMA_NUMBER, 0, 2592000, NULL, NULL, SCHEMA_QUEUE, "not started before so many seconds are over"},
    {"not_before", SCHEMA_NUMBER, 0, 99999999999.0, NULL, NULL, SCHEMA_QUEUE,
     "not started before this time (seconds since 1970)"},
    {"cache", SCHEMA_CHOICE, 0, 0, "auto", "auto|off", SCHEMA_QUEUE,
     "auto: a kept video of the very same request (with a seed of your own) is the answer; off: made anew"},
    {"devices", SCHEMA_INTEGER, 1, 64, NULL, NULL, SCHEMA_QUEUE, "devices of one host that work on it together"},
    {"labels", SCHEMA_TAGS, 8, 24, NULL, NULL, SCHEMA_QUEUE, "words that the worker must have among its labels"},
    {"webhook", SCHEMA_TEXT, 0, 1000, NULL, NULL, SCHEMA_QUEUE, "URL that is told how the job goes"},
    {"webhook_events", SCHEMA_TAGS, 4, 8, NULL, NULL, SCHEMA_QUEUE, "which of queued, start, progress, end; absent: end"},
    {"idempotency_key", SCHEMA_TEXT, 0, 255, NULL, NULL, SCHEMA_QUEUE,
     "the same key with the same request is the same job, for a day (the header Idempotency-Key is the same)"},
    {"tags", SCHEMA_TAGS, 16, 64, NULL, NULL, SCHEMA_QUEUE, "words of your own, to find the job again"},
    {"deadline_start_s", SCHEMA_NUMBER, 0.1, 2592000, NULL, NULL, SCHEMA_QUEUE,
     "given up when it has not started after so many seconds"},
    {"deadline_run_s", SCHEMA_NUMBER, 0.1, 2592000, NULL, NULL, SCHEMA_QUEUE,
     "stopped when it has run for so many seconds"},
    {"ttl_s", SCHEMA_NUMBER, 1, 315360000, NULL, NULL, SCHEMA_QUEUE,
     "how long the result is kept; absent: the server's setting"},
};

static const struct schema schemas[] = {
    {"avatar", "a portrait and a speech recording in, a talking video out", avatar_fields,
     sizeof(avatar_fields) / sizeof(avatar_fields[0])},
};

static const char *const type_texts[SCHEMA_TYPE_COUNT] = {
#define X(name, text) text,
    SCHEMA_TYPES(X)
#undef X
};

const char *schema_type_text(enum schema_type t)
{
    return (unsigned)t < SCHEMA_TYPE_COUNT ? type_texts[t] : "?";
}

const struct schema *schema_at(size_t i)
{
    return i < sizeof(schemas) / sizeof(schemas[0]) ? &schemas[i] : NULL;
}

const struct schema *schema_find(const char *generator)
{
    for (size_t i = 0; schema_at(i); i++)
        if (strcmp(schemas[i].generator, generator) == 0)
            return &schemas[i];
    return NULL;
}

const struct schema_field *schema_field(const struct schema *s, const char *name)
{
    for (size_t i = 0; i < s->n_fields; i++)
        if (strcmp(s->fields[i].name, name) == 0)
            return &s->fields[i];
    return NULL;
}

/* ---- sentences ---- */

struct shown {
    char text[SHOWN_MAX + 8];
};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A value as people see it in a sentence: one line, not long. */
static const char *show_text(struct shown *d, const char *s, size_t len)
{
    size_t n = len < SHOWN_MAX ? len : SHOWN_MAX;
    while (n > 0 && n < len && ((unsigned char)s[n] & 0xc0) == 0x80)
        n--;
    for (size_t i = 0; i < n; i++)
        d->text[i] = (unsigned char)s[i] < 0x20 || s[i] == 0x7f ? '?' : s[i];
    str_copy(d->text + n, sizeof(d->text) - n, n < len ? "..." : "");
    return d->text;
}

static const char *show(struct shown *d, const json_t *v)
{
    if (json_is_string(v)) {
        show_text(d, json_string_value(v), json_string_length(v));
    } else if (json_is_integer(v)) {
        str_format(d->text, sizeof(d->text), "%lld", (long long)json_integer_value(v));
    } else if (json_is_real(v)) {
        str_format(d->text, sizeof(d->text), "%.10g", json_real_value(v));
    } else {
        str_copy(d->text, sizeof(d->text),
                 json_is_object(v)  ? "an object"
                 : json_is_array(v) ? "a list"
                 : json_is_true(v)  ? "true"
                                    : "false");
    }
    return d->text;
}

/* What the field takes: "a number from 0 to 20". */
static const char *wanted(const struct schema_field *f, char *dst, size_t size)
{
    static const char *const fixed[SCHEMA_TYPE_COUNT] = {
        [SCHEMA_MEDIA] = "base64 text, a data: URL or a blob key (sha256:...)",
        [SCHEMA_BOOLEAN] = "true or false",
        [SCHEMA_FACE] = "auto, none, required, an index from 0, or x,y,w,h in pixels of the image",
    };
    switch (f->type) {
    case SCHEMA_INTEGER:
        str_format(dst, size,
                   f->max >= TWO_63 ? "a whole number from %.0f to 9223372036854775807"
                                    : "a whole number from %.0f to %.0f",
                   f->min, f->max);
        break;
    case SCHEMA_NUMBER:
        if (f->choices)
            str_format(dst, size, "one of %s", f->choices);
        else
            str_format(dst, size, "a number from %.10g to %.10g", f->min, f->max);
        break;
    case SCHEMA_CHOICE:
        str_format(dst, size, "one of %s", f->choices);
        break;
    case SCHEMA_SIZE:
        str_format(dst, size, "a whole number from %.0f to %.0f, or \"WxH\" of multiples of 16 in that range",
                   f->min, f->max);
        break;
    case SCHEMA_TEXT:
        str_format(dst, size, "text of at most %.0f bytes", f->max);
        break;
    case SCHEMA_TAGS:
        str_format(dst, size, "at most %.0f words of at most %.0f bytes", f->min, f->max);
        break;
    default:
        str_copy(dst, size, fixed[f->type]);
    }
    return dst;
}

static int refuse_text(const struct schema_field *f, const char *shown, bool is_text, struct err *err)
{
    char want[160];
    const char *quote = is_text ? "\"" : "";
    return err_set(err, ERR_INVALID, "%s: %s%s%s is not allowed; %s is", f->name, quote, shown, quote,
                   wanted(f, want, sizeof(want)));
}

static int refuse(const struct schema_field *f, const json_t *v, struct err *err)
{
    struct shown d;
    return refuse_text(f, show(&d, v), json_is_string(v), err);
}

static int unknown(const struct schema *s, const char *name, struct err *err)
{
    const char *names[FIELDS_MAX + 1] = {NULL};
    struct shown d;
    for (size_t i = 0; i < s->n_fields && i < FIELDS_MAX; i++)
        names[i] = s->fields[i].name;
    const char *best = str_nearest(name, names);
    show_text(&d, name, strlen(name));
    if (best)
        return err_set(err, ERR_INVALID, "%s: there is no such field; did you mean %s?", d.text, best);
    return err_set(err, ERR_INVALID, "%s: there is no such field; /openapi.json lists those of %s", d.text,
                   s->generator);
}

/* ---- one value ---- */

static int check_integer(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err)
{
    json_int_t i = json_integer_value(v);
    if (json_is_real(v)) { /* 20.0 is a whole number too */
        double d = json_real_value(v);
        if (!(fabs(d) < 9e15) || d != floor(d))
            return refuse(f, v, err);
        i = (json_int_t)d;
    } else if (!json_is_integer(v)) {
        return refuse(f, v, err);
    }
    if ((double)i < f->min || (f->max < TWO_63 && (double)i > f->max))
        return refuse(f, v, err);
    *ret = json_integer(i);
    return 0;
}

static int check_number(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err)
{
    char text[40];
    double d = json_number_value(v);
    if (!json_is_number(v) || !isfinite(d) || d < f->min || d > f->max)
        return refuse(f, v, err);
    str_format(text, sizeof(text), "%.10g", d);
    if (f->choices && !str_in_list(f->choices, text))
        return refuse(f, v, err);
    *ret = json_real(d);
    return 0;
}

static int check_text(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err)
{
    if (!json_is_string(v))
        return refuse(f, v, err);
    if ((double)json_string_length(v) > f->max)
        return err_set(err, ERR_INVALID, "%s: %zu bytes are not allowed; at most %.0f are", f->name,
                       json_string_length(v), f->max);
    *ret = json_string(json_string_value(v));
    return 0;
}

/* "WxH", both multiples of 16 within [min, max]; or a whole number. */
static int parse_size(const char *text, int64_t min, int64_t max, int64_t *ret_size, int64_t *ret_w,
                      int64_t *ret_h)
{
    char w[12];
    const char *x = strchr(text, 'x');
    if (!x) {
        *ret_w = *ret_h = 0;
        return str_parse_i64(text, min, max, ret_size);
    }
    *ret_size = 0;
    if (str_format(w, sizeof(w), "%.*s", (int)(x - text), text) < 0 ||
        str_parse_i64(w, min, max, ret_w) < 0 || str_parse_i64(x + 1, min, max, ret_h) < 0 || *ret_w % 16 ||
        *ret_h % 16)
        return ERR_INVALID;
    return 0;
}

static int check_size(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err)
{
    int64_t size, w, h;
    if (!json_is_string(v))
        return check_integer(f, v, ret, err);
    if (parse_size(json_string_value(v), (int64_t)f->min, (int64_t)f->max, &size, &w, &h) < 0)
        return refuse(f, v, err);
    *ret = w ? json_sprintf("%dx%d", (int)w, (int)h) : json_integer(size);
    return 0;
}

int schema_size_parse(const char *text, int min, int max, int *ret_size, int *ret_w, int *ret_h,
                      struct err *err)
{
    int64_t size, w, h;
    if (parse_size(text, min, max, &size, &w, &h) < 0)
        return err_set(
            err, ERR_INVALID,
            "size: \"%.40s\" is not allowed; a whole number from %d to %d, or \"WxH\" of multiples "
            "of 16 in that range is",
            text, min, max);
    *ret_size = (int)size;
    *ret_w = (int)w;
    *ret_h = (int)h;
    return 0;
}

int schema_size(const json_t *params, int *ret_size, int *ret_w, int *ret_h)
{
    const json_t *v = json_object_get(params, "size");
    int64_t size = json_integer_value(v), w = 0, h = 0;
    if (json_is_string(v) && parse_size(json_string_value(v), 1, 65536, &size, &w, &h) < 0)
        return ERR_INVALID;
    if (size < 0 || size > 65536 || (size == 0 && w == 0))
        return ERR_INVALID;
    *ret_size = (int)size;
    *ret_w = (int)w;
    *ret_h = (int)h;
    return 0;
}

/* Four numbers with commas between them. */
static int parse_box(const char *text, double box[4])
{
    for (int i = 0; i < 4; i++) {
        char number[32];
        size_t n = strcspn(text, ",");
        if (str_format(number, sizeof(number), "%.*s", (int)n, text) < 0 ||
            str_parse_f64(number, i < 2 ? -100000 : 0, 100000, &box[i]) < 0 || (i >= 2 && box[i] <= 0) ||
            (text[n] == ',') != (i < 3))
            return ERR_INVALID;
        text += n + (i < 3);
    }
    return 0;
}

int schema_face_parse(const char *text, struct schema_face *ret, struct err *err)
{
    static const char *const words[] = {"auto", "none", "required"};
    struct schema_face face = {0};
    int64_t index;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(text, words[i]) == 0)
            face.kind = words[i][0];
    if (!face.kind && strchr(text, ',')) {
        face.kind = 'b';
        if (parse_box(text, face.box) < 0)
            return err_set(err, ERR_INVALID,
                           "face: a box is x,y,w,h in pixels of the image, w and h above 0");
    } else if (!face.kind) {
        face.kind = 'i';
        if (str_parse_i64(text, 0, 1000, &index) < 0)
            return err_set(err, ERR_INVALID,
                           "face: an index is a whole number from 0 (the largest face) to 1000");
        face.index = (int)index;
    }
    *ret = face;
    return 0;
}

static int check_face(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err)
{
    struct schema_face face;
    char text[24];
    const char *s = json_string_value(v);
    if (json_is_integer(v)) {
        str_format(text, sizeof(text), "%lld", (long long)json_integer_value(v));
        s = text;
    }
    if (!s || schema_face_parse(s, &face, NULL) < 0)
        return refuse(f, v, err);
    *ret = json_string(s);
    return 0;
}

static int check_tags(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err)
{
    json_t *list = json_is_array(v) ? json_deep_copy(v) : json_array();
    const char *at = json_string_value(v);
    int rc = json_is_array(v) || at ? 0 : refuse(f, v, err);
    while (at && *at) { /* "a, b" */
        at += strspn(at, " ,");
        size_t n = strcspn(at, ",");
        if (n)
            json_array_append_new(list, json_stringn(at, n));
        at += n;
    }
    if (rc == 0 && (double)json_array_size(list) > f->min)
        rc = err_set(err, ERR_INVALID, "%s: %zu are not allowed; at most %.0f are", f->name,
                     json_array_size(list), f->min);
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        const json_t *word = json_array_get(list, i);
        if (!json_is_string(word) || json_string_length(word) == 0 ||
            (double)json_string_length(word) > f->max)
            rc = refuse(f, word, err);
    }
    if (rc == 0)
        *ret = list;
    else
        json_decref(list);
    return rc;
}

static int check_media(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err)
{
    if (!json_is_string(v) || !blob_key_ok(json_string_value(v)))
        return refuse(f, v, err);
    *ret = json_incref((json_t *)(uintptr_t)v);
    return 0;
}

static int check_choice(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err)
{
    if (!json_is_string(v) || !str_in_list(f->choices, json_string_value(v)))
        return refuse(f, v, err);
    *ret = json_string(json_string_value(v));
    return 0;
}

static int check_boolean(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err)
{
    if (!json_is_boolean(v))
        return refuse(f, v, err);
    *ret = json_boolean(json_is_true(v));
    return 0;
}

typedef int check_fn(const struct schema_field *f, const json_t *v, json_t **ret, struct err *err);

static check_fn *const checks[SCHEMA_TYPE_COUNT] = {
    [SCHEMA_MEDIA] = check_media,   [SCHEMA_TEXT] = check_text,       [SCHEMA_INTEGER] = check_integer,
    [SCHEMA_NUMBER] = check_number, [SCHEMA_BOOLEAN] = check_boolean, [SCHEMA_CHOICE] = check_choice,
    [SCHEMA_SIZE] = check_size,     [SCHEMA_FACE] = check_face,       [SCHEMA_TAGS] = check_tags,
};

/* ---- text to values ---- */

/* Numbers and yes/no words become what they are in JSON; all else stays text. NULL: not of the type. */
static json_t *value_of_text(const struct schema_field *f, const char *text)
{
    int64_t i;
    double d;
    bool yes;
    if (f->type == SCHEMA_INTEGER)
        return str_parse_i64(text, INT64_MIN, INT64_MAX, &i) == 0 ? json_integer(i) : NULL;
    if (f->type == SCHEMA_NUMBER)
        return str_parse_f64(text, -1e300, 1e300, &d) == 0 ? json_real(d) : NULL;
    if (f->type == SCHEMA_BOOLEAN)
        return str_parse_bool(text, &yes) == 0 ? json_boolean(yes) : NULL;
    return json_string(text);
}

int schema_text(const struct schema *s, const char *name, const char *value, size_t len, json_t *into,
                struct err *err)
{
    const struct schema_field *f = schema_field(s, name);
    char number[64];
    struct shown d;
    if (!f)
        return unknown(s, name, err);
    if (json_object_get(into, name))
        return err_set(err, ERR_INVALID, "%s: given twice; give it once", name);
    if (memchr(value, 0, len) || !str_utf8_ok(value, len))
        return err_set(err, ERR_INVALID, "%s: the text is not valid UTF-8", name);
    json_t *v = NULL;
    if (f->type == SCHEMA_INTEGER || f->type == SCHEMA_NUMBER || f->type == SCHEMA_BOOLEAN) {
        if (str_format(number, sizeof(number), "%.*s", (int)(len < 64 ? len : 64), value) == 0)
            v = value_of_text(f, number);
    } else {
        v = json_stringn(value, len);
    }
    if (!v)
        return refuse_text(f, show_text(&d, value, len), true, err);
    return json_object_set_new(into, name, v) < 0 ? err_set(err, ERR_NOMEM, "no memory for field %s", name)
                                                  : 0;
}

/* "data:image/png;base64,AAAA": where the base64 begins, 0 if it is another kind of data URL. */
static size_t data_url_head(const char *value, size_t len)
{
    size_t most = len < 256 ? len : 256;
    const char *comma = memchr(value, ',', most);
    size_t n = comma ? (size_t)(comma - value) : 0;
    return n >= 12 && strncasecmp(comma - 7, ";base64", 7) == 0 ? n + 1 : 0;
}

static bool looks_like_base64(const char *s, size_t len)
{
    size_t n = len < 64 ? len : 64;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && !strchr("+/=-_ \r\n\t", s[i]))
            return false;
    return n >= 16;
}

int schema_media(const struct schema *s, const char *name, const char *value, size_t len,
                 struct schema_media *ret, struct err *err)
{
    const struct schema_field *f = schema_field(s, name);
    struct shown d;
    struct schema_media m = {SCHEMA_MEDIA_BASE64, value, len};
    if (!f)
        return unknown(s, name, err);
    if (strncasecmp(value, "http://", 7) == 0 || strncasecmp(value, "https://", 8) == 0)
        return err_set(err, ERR_UNSUPPORTED,
                       "%s: this server fetches no URLs; upload the file (a multipart part, base64, or "
                       "POST /v1/blobs and its key)",
                       name);
    if (str_starts(value, "sha256:")) {
        m.kind = SCHEMA_MEDIA_KEY;
        if (!blob_key_ok(value))
            return err_set(err, ERR_INVALID, "%s: a blob key is sha256: and 64 digits of 0-9 a-f", name);
    } else if (strncasecmp(value, "data:", 5) == 0) {
        size_t head = data_url_head(value, len);
        if (head == 0)
            return err_set(err, ERR_INVALID, "%s: the data: URL is not of the form data:TYPE;base64,DATA",
                           name);
        m.data += head;
        m.len -= head;
    } else if (!looks_like_base64(value, len)) {
        return refuse_text(f, show_text(&d, value, len), true, err);
    }
    *ret = m;
    return 0;
}

/* ---- a whole request ---- */

/* Words of [A-Za-z0-9_.-] (or of `among`), sorted, each once, separated by commas. */
static int keep_words(const struct schema_field *f, const json_t *list, const char *among, char *dst, size_t size,
                      struct err *err)
{
    const char *words[16], *last = "";
    size_t n = json_array_size(list);
    struct shown d;
    dst[0] = 0;
    for (size_t i = 0; i < n && i < 16; i++) {
        words[i] = json_string_value(json_array_get(list, i));
        bool ok = among ? str_in_list(among, words[i])
                        : strspn(words[i], "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") ==
                              strlen(words[i]);
        if (!ok)
            return err_set(err, ERR_INVALID, "%s: '%s' is not allowed; %s", f->name,
                           show_text(&d, words[i], strlen(words[i])),
                           among ? "queued, start, progress and end are" : "letters, digits, _ . and - are");
    }
    qsort(words, n, sizeof(words[0]), by_text);
    for (size_t i = 0; i < n; last = words[i++]) {
        size_t len = strlen(dst);
        if (strcmp(words[i], last) != 0 && str_format(dst + len, size - len, "%s%s", len ? "," : "", words[i]) < 0)
            return err_set(err, ERR_INVALID, "%s: too long; %zu characters in all are allowed", f->name, size - 1);
    }
    return 0;
}

static int keep_webhook(struct job *job, const struct schema_field *f, const char *url, struct err *err)
{
    if (*url && strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0)
        return err_set(err, ERR_INVALID, "%s: an http:// or https:// URL is expected", f->name);
    for (const char *s = url; *s; s++)
        if ((unsigned char)*s <= 0x20 || *s == 0x7f)
            return err_set(err, ERR_INVALID, "%s: a URL has no blanks or control characters", f->name);
    return str_copy(job->webhook, sizeof(job->webhook), url);
}

/* A value that belongs to the job, not to the generator. */
static int keep_queue(struct job *job, const struct schema_field *f, const json_t *v, struct err *err)
{
    static const struct {
        const char *name;
        size_t at;
    } times[] = {{"deadline_start_s", offsetof(struct job, deadline_start_ms)},
                 {"deadline_run_s", offsetof(struct job, deadline_run_ms)},
                 {"ttl_s", offsetof(struct job, ttl_ms)},
                 {"delay_s", offsetof(struct job, delay_ms)},
                 {"not_before", offsetof(struct job, not_before_ms)}};
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
        if (strcmp(f->name, times[i].name) == 0)
            *(int64_t *)(void *)((char *)job + times[i].at) = (int64_t)(json_number_value(v) * 1000);
    if (strcmp(f->name, "priority") == 0)
        job->priority = (int)json_integer_value(v);
    else if (strcmp(f->name, "devices") == 0)
        job->group_min = job->group_max = (int)json_integer_value(v);
    else if (strcmp(f->name, "cache") == 0)
        job->no_cache = strcmp(json_string_value(v), "off") == 0;
    else if (strcmp(f->name, "labels") == 0)
        return keep_words(f, v, NULL, job->labels, sizeof(job->labels), err);
    else if (strcmp(f->name, "webhook_events") == 0)
        return keep_words(f, v, "queued|start|progress|end", job->webhook_events, sizeof(job->webhook_events), err);
    else if (strcmp(f->name, "webhook") == 0)
        return keep_webhook(job, f, json_string_value(v), err);
    else if (strcmp(f->name, "idempotency_key") == 0)
        return str_copy(job->idem_key, sizeof(job->idem_key), json_string_value(v));
    else if (strcmp(f->name, "tags") == 0) {
        json_decref(job->tags);
        job->tags = json_incref((json_t *)(uintptr_t)v);
    }
    return 0;
}

/* Where a checked value goes. Takes over v. */
static int keep(struct job *job, const struct schema_field *f, json_t *v, struct err *err)
{
    if (!(f->flags & SCHEMA_QUEUE))
        return json_object_set_new(job->params, f->name, v) < 0 ? ERR_NOMEM : 0;
    int rc = keep_queue(job, f, v, err);
    json_decref(v);
    return rc;
}

static int apply_field(const struct schema_field *f, const json_t *body, const json_t *defaults,
                       struct job *job, struct err *err)
{
    const json_t *given = json_object_get(body, f->name);
    json_t *initial = NULL, *v = NULL;
    if (!given || json_is_null(given))
        given = json_object_get(defaults, f->name);
    if ((!given || json_is_null(given)) && f->initial)
        given = initial = value_of_text(f, f->initial);
    if (!given || json_is_null(given)) {
        if (f->flags & SCHEMA_REQUIRED)
            return err_set(err, ERR_INVALID,
                           "%s: missing; send a file part, base64 text, a data: URL or a blob key", f->name);
        return 0;
    }
    int rc = checks[f->type](f, given, &v, err);
    json_decref(initial);
    if (rc == 0)
        rc = v ? keep(job, f, v, err) : ERR_NOMEM;
    return rc < 0 ? err_set(err, rc, "%s: no memory", f->name) : 0;
}

int schema_apply(const struct schema *s, const json_t *body, const json_t *defaults, struct job *job,
                 struct err *err)
{
    if (!json_is_object(body))
        return err_set(err, ERR_BADREQ, "the request must be a JSON object of fields");
    for (void *it = json_object_iter((json_t *)(uintptr_t)body); it;
         it = json_object_iter_next((json_t *)(uintptr_t)body, it))
        if (!schema_field(s, json_object_iter_key(it)))
            return unknown(s, json_object_iter_key(it), err);
    json_decref(job->params);
    job->params = json_object();
    int rc = job->params ? str_copy(job->generator, sizeof(job->generator), s->generator) : ERR_NOMEM;
    for (size_t i = 0; rc == 0 && i < s->n_fields; i++)
        rc = apply_field(&s->fields[i], body, defaults, job, err);
    return rc < 0 ? err_set(err, rc, "no memory for the request") : 0;
}

int64_t schema_int(const json_t *params, const char *name, int64_t fallback)
{
    const json_t *v = json_object_get(params, name);
    return json_is_integer(v) ? json_integer_value(v) : fallback;
}

double schema_num(const json_t *params, const char *name, double fallback)
{
    const json_t *v = json_object_get(params, name);
    return json_is_number(v) ? json_number_value(v) : fallback;
}

const char *schema_str(const json_t *params, const char *name, const char *fallback)
{
    const char *s = json_string_value(json_object_get(params, name));
    return s ? s : fallback;
}
