/* schema_doc.c -- the table of fields as a JSON Schema (OpenAPI, web form) and as --help. */
#include <string.h>

#include "common/err.h"
#include "common/schema.h"
#include "common/str.h"

static int put(json_t *o, const char *key, json_t *v)
{
    return json_object_set_new(o, key, v);
}

static json_t *words_of(const char *list, bool numbers)
{
    json_t *a = json_array();
    double d;
    for (const char *at = list; at && *at;) {
        size_t n = strcspn(at, "|");
        char word[64];
        str_format(word, sizeof(word), "%.*s", (int)n, at);
        json_array_append_new(a, numbers && str_parse_f64(word, -1e9, 1e9, &d) == 0 ? json_real(d)
                                                                                    : json_string(word));
        at += n + (at[n] == '|');
    }
    return a;
}

static json_t *default_of(const struct schema_field *f, const json_t *defaults)
{
    json_t *given = json_object_get(defaults, f->name);
    int64_t i;
    double d;
    if (given)
        return json_incref(given);
    if (!f->initial)
        return NULL;
    if ((f->type == SCHEMA_INTEGER || f->type == SCHEMA_SIZE) &&
        str_parse_i64(f->initial, INT64_MIN, INT64_MAX, &i) == 0)
        return json_integer(i);
    if (f->type == SCHEMA_NUMBER && str_parse_f64(f->initial, -1e300, 1e300, &d) == 0)
        return json_real(d);
    return json_string(f->initial);
}

static int put_range(json_t *o, const struct schema_field *f)
{
    int bad;
    if (f->type == SCHEMA_NUMBER && f->choices)
        return put(o, "enum", words_of(f->choices, true));
    if (f->type == SCHEMA_NUMBER)
        return put(o, "minimum", json_real(f->min)) || put(o, "maximum", json_real(f->max));
    bad = put(o, "minimum", json_integer((json_int_t)f->min));
    return bad || put(o, "maximum", json_integer(f->max >= 9.2e18 ? INT64_MAX : (json_int_t)f->max));
}

static int put_text(json_t *o, const char *key, const char *text)
{
    return put(o, key, json_string(text));
}

static int put_media(json_t *o, const struct schema_field *f, bool multipart)
{
    (void)f;
    if (multipart)
        return put_text(o, "type", "string") || put_text(o, "contentMediaType", "application/octet-stream") ||
               put_text(o, "format", "binary");
    return put_text(o, "type", "string") ||
           put(o, "x-forms", json_pack("[sss]", "base64", "data URL", "blob key sha256:..."));
}

static int put_size(json_t *o, const struct schema_field *f)
{
    return put(o, "oneOf",
               json_pack("[{s:s,s:i,s:i},{s:s,s:s}]", "type", "integer", "minimum", (int)f->min, "maximum",
                         (int)f->max, "type", "string", "pattern", "^[0-9]+(x[0-9]+)?$"));
}

static int put_tags(json_t *o, const struct schema_field *f)
{
    return put_text(o, "type", "array") || put(o, "maxItems", json_integer((json_int_t)f->min)) ||
           put(o, "items",
               json_pack("{s:s,s:i,s:i}", "type", "string", "minLength", 1, "maxLength", (int)f->max));
}

static int put_type(json_t *o, const struct schema_field *f, bool multipart)
{
    static const char *const names[SCHEMA_TYPE_COUNT] = {
        [SCHEMA_TEXT] = "string",     [SCHEMA_CHOICE] = "string", [SCHEMA_FACE] = "string",
        [SCHEMA_INTEGER] = "integer", [SCHEMA_NUMBER] = "number", [SCHEMA_BOOLEAN] = "boolean",
    };
    if (names[f->type] && put_text(o, "type", names[f->type]))
        return ERR_NOMEM;
    switch (f->type) {
    case SCHEMA_MEDIA:
        return put_media(o, f, multipart);
    case SCHEMA_INTEGER:
    case SCHEMA_NUMBER:
        return put_range(o, f);
    case SCHEMA_SIZE:
        return put_size(o, f);
    case SCHEMA_TAGS:
        return put_tags(o, f);
    case SCHEMA_CHOICE:
        return put(o, "enum", words_of(f->choices, false));
    case SCHEMA_TEXT:
        return put(o, "maxLength", json_integer((json_int_t)f->max));
    case SCHEMA_FACE:
        return put_text(o, "pattern", "^(auto|none|required|[0-9]+|[-0-9.]+(,[-0-9.]+){3})$");
    default:
        return 0;
    }
}

static json_t *field_doc(const struct schema_field *f, const json_t *defaults, bool multipart)
{
    json_t *o = json_object(), *initial = default_of(f, defaults);
    if (!o || put(o, "description", json_string(f->help)) | put_type(o, f, multipart)) {
        json_decref(initial);
        json_decref(o);
        return NULL;
    }
    if (initial)
        put(o, "default", initial);
    return o;
}

json_t *schema_openapi(const struct schema *s, const json_t *defaults, bool multipart)
{
    json_t *fields = json_object(), *required = json_array();
    int bad = !fields || !required;
    for (size_t i = 0; !bad && i < s->n_fields; i++) {
        const struct schema_field *f = &s->fields[i];
        json_t *one = field_doc(f, defaults, multipart);
        bad = !one || put(fields, f->name, one);
        if (!bad && (f->flags & SCHEMA_REQUIRED))
            bad = json_array_append_new(required, json_string(f->name));
    }
    if (bad) {
        json_decref(fields);
        json_decref(required);
        return NULL;
    }
    return json_pack("{s:s,s:s,s:o,s:o,s:b}", "type", "object", "description", s->help, "properties", fields,
                     "required", required, "additionalProperties", 0);
}

static const char *value_word(const struct schema_field *f)
{
    static const char *const words[SCHEMA_TYPE_COUNT] = {
        [SCHEMA_MEDIA] = "FILE", [SCHEMA_INTEGER] = "N", [SCHEMA_NUMBER] = "X", [SCHEMA_SIZE] = "N|WxH"};
    if (f->choices)
        return f->choices;
    return words[f->type] ? words[f->type] : "TEXT";
}

static bool has_range(const struct schema_field *f)
{
    return !f->choices && (f->type == SCHEMA_INTEGER || f->type == SCHEMA_NUMBER || f->type == SCHEMA_SIZE);
}

static int help_field(const struct schema_field *f, struct buf *out)
{
    char flag[128];
    str_format(flag, sizeof(flag), "  --%s %s", f->name, value_word(f));
    for (char *c = flag + 4; *c && *c != ' '; c++)
        *c = *c == '_' ? '-' : *c;
    int rc = buf_printf(out, "%-30s %s", flag, f->help);
    if (rc == 0 && has_range(f))
        rc = f->max >= 9.2e18 ? buf_printf(out, "; from %.10g", f->min)
                              : buf_printf(out, "; %.10g to %.10g", f->min, f->max);
    if (rc == 0)
        rc = f->initial ? buf_printf(out, " [%s]\n", f->initial) : buf_puts(out, "\n");
    return rc;
}

int schema_help(const struct schema *s, struct buf *out)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < s->n_fields; i++)
        rc = help_field(&s->fields[i], out);
    return rc;
}
