#include "dispatcher/api_docs.h"

#include <string.h>

#include "common/mem.h"
#include "common/schema.h"
#include "common/str.h"
#include "common/version.h"
#include "dispatcher/app.h"
#include "dispatcher/reply.h"
#include "dispatcher/route.h"
#include "dispatcher/tenants.h"

/* ---- /v1/generators ---- */

static json_t *initial_json(const struct schema_field *f, const json_t *defaults)
{
    json_t *set = json_object_get(defaults, f->name);
    int64_t i;
    double d;
    bool b;
    if (set)
        return json_incref(set);
    if (!f->initial)
        return json_null();
    if (f->type == SCHEMA_INTEGER && str_parse_i64(f->initial, INT64_MIN, INT64_MAX, &i) == 0)
        return json_integer(i);
    if (f->type == SCHEMA_NUMBER && str_parse_f64(f->initial, -1e300, 1e300, &d) == 0)
        return json_real(d);
    if (f->type == SCHEMA_BOOLEAN && str_parse_bool(f->initial, &b) == 0)
        return json_boolean(b);
    return json_string(f->initial);
}

static json_t *choices_json(const char *choices)
{
    json_t *list = json_array();
    for (const char *p = choices; *p;) {
        size_t n = strcspn(p, "|");
        json_array_append_new(list, json_stringn(p, n));
        p += n + (p[n] == '|');
    }
    return list;
}

static json_t *field_json(const struct schema_field *f, const struct app *app)
{
    json_t *o = json_pack("{s:s, s:s, s:b, s:b, s:o, s:s}", "name", f->name, "type", schema_type_text(f->type),
                          "required", (f->flags & SCHEMA_REQUIRED) != 0, "queue", (f->flags & SCHEMA_QUEUE) != 0,
                          "default", initial_json(f, app->defaults), "help", f->help);
    if (!o)
        return NULL;
    if (f->type == SCHEMA_INTEGER || f->type == SCHEMA_NUMBER || f->type == SCHEMA_SIZE) {
        json_object_set_new(o, "min", json_real(f->min));
        json_object_set_new(o, "max", json_real(f->max));
    } else if (f->type == SCHEMA_TEXT) {
        json_object_set_new(o, "max_bytes", json_integer((json_int_t)f->max));
    } else if (f->type == SCHEMA_MEDIA) {
        int64_t max = strcmp(f->name, "image") == 0 ? app->conf.max_image_bytes : app->conf.max_audio_bytes;
        json_object_set_new(o, "max_bytes", json_integer(max));
    }
    if (f->choices)
        json_object_set_new(o, "choices", choices_json(f->choices));
    return o;
}

void api_docs_generators(struct request *r)
{
    json_t *list = json_array();
    const struct schema *s;
    for (size_t i = 0; (s = schema_at(i)) != NULL; i++) {
        json_t *fields = json_array();
        for (size_t k = 0; k < s->n_fields; k++)
            json_array_append_new(fields, field_json(&s->fields[k], r->app));
        json_t *one = json_pack("{s:s, s:s, s:o}", "name", s->generator, "help", s->help, "fields", fields);
        json_array_append_new(list, one);
    }
    reply_json(r, 200, json_pack("{s:s, s:o}", "object", "list", "generators", list));
}

/* ---- /openapi.json ---- */

static json_t *parameters_of(const char *path)
{
    json_t *list = json_array();
    for (const char *p = strchr(path, '{'); p; p = strchr(p + 1, '{')) {
        json_t *name = json_stringn(p + 1, strcspn(p + 1, "}"));
        json_array_append_new(list, json_pack("{s:o, s:s, s:b, s:{s:s}}", "name", name, "in", "path", "required", 1,
                                              "schema", "type", "string"));
    }
    return list;
}

static void add_query(json_t *list, const char *name, const char *type, const char *help)
{
    json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:{s:s}}", "name", name, "in", "query", "description", help,
                                          "schema", "type", type));
}

/* method, paths (by spaces), name, type, help */
#define LISTS "/v1/jobs /v1/queue/dead"
#define SWITCHES "/v1/queue/pause /v1/queue/resume"
static const struct {
    const char *method, *paths, *name, *type, *help;
} queries[] = {
    {"GET", "/v1/jobs", "state", "string", "only jobs in this state"},
    {"GET", LISTS, "generator", "string", "only this generator's"},
    {"GET", LISTS, "code", "string", "only jobs that failed with this code"},
    {"GET", LISTS, "worker", "string", "only jobs that this worker had last"},
    {"GET", LISTS, "tenant", "string", "only this tenant's (a key of scope jobs sees its own tenant's anyway)"},
    {"GET", LISTS, "limit", "integer", "1 to 100; 20 unless given"},
    {"GET", LISTS, "cursor", "string", "from the page before"},
    {"GET", "/v1/jobs/{id}", "wait", "integer", "seconds to wait for the job's end, at most 55"},
    {"GET", "/v1/jobs/{id}", "history", "integer", "1: with the job's event log"},
    {"POST", "/v1/queue/redrive", "generator", "string", "only this generator's; or any of these as a JSON body"},
    {"POST", "/v1/queue/redrive", "code", "string", "only jobs that failed with this code"},
    {"POST", "/v1/queue/redrive", "worker", "string", "only jobs that this worker had last"},
    {"POST", "/v1/queue/redrive", "tenant", "string", "only this tenant's"},
    {"POST", SWITCHES, "generator", "string", "only this generator's jobs"},
    {"POST", SWITCHES, "tenant", "string", "only this tenant's jobs"},
    {"POST", "/v1/workers/{name}/quiet", "off", "integer", "1: take jobs again"},
};

/* Is path one of the words of list? */
static bool among(const char *list, const char *path)
{
    size_t n = strlen(path);
    for (const char *p = list; p; p = strchr(p, ' ')) {
        p += *p == ' ';
        if (strncmp(p, path, n) == 0 && (p[n] == 0 || p[n] == ' '))
            return true;
    }
    return false;
}

static void extra_parameters(const struct route *t, json_t *list)
{
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        if (strcmp(t->method, queries[i].method) == 0 && among(queries[i].paths, t->path))
            add_query(list, queries[i].name, queries[i].type, queries[i].help);
    }
    if (t->body != ROUTE_BODY_SUBMIT)
        return;
    json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:{s:s, s:i}}", "name", "Idempotency-Key", "in", "header",
                                          "description", "the same key and body: the same job, for 24 hours", "schema", "type",
                                          "string", "maxLength", 255));
    json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:{s:s}}", "name", "traceparent", "in", "header", "description",
                                          "W3C trace context: kept with the job, and in the logs", "schema", "type",
                                          "string"));
}

static json_t *request_body(const struct route *t, const struct app *app)
{
    json_t *binary = json_pack("{s:{s:{s:s, s:s}}}", "application/octet-stream", "schema", "type", "string", "format",
                               "binary");
    if (t->body == ROUTE_BODY_BLOB)
        return json_pack("{s:b, s:o}", "required", 1, "content", binary);
    json_decref(binary);
    if (t->body != ROUTE_BODY_SUBMIT)
        return NULL;
    return json_pack("{s:b, s:{s:{s:o}, s:{s:o}}}", "required", 1, "content", "multipart/form-data", "schema",
                     schema_openapi(schema_at(0), app->defaults, true), "application/json", "schema",
                     schema_openapi(schema_at(0), app->defaults, false));
}

static const char *media_type_of(const struct route *t)
{
    static const struct {
        const char *end, *type;
    } kinds[] = {{"/events", "text/event-stream"}, {"/video", "video/mp4"}, {"/thumbnail", "image/jpeg"},
                 {"/metrics", "text/plain"},       {"/blobs/{key}", "application/octet-stream"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (str_ends(t->path, kinds[i].end))
            return kinds[i].type;
    }
    return "application/json";
}

static json_t *operation(const struct route *t, const struct app *app)
{
    json_t *parameters = parameters_of(t->path), *body = request_body(t, app);
    extra_parameters(t, parameters);
    const char *ok = t->body ? "201" : strcmp(t->method, "DELETE") == 0 ? "204" : "200";
    json_t *o = json_pack("{s:s, s:o, s:{s:{s:s}, s:{s:s}}}", "summary", t->summary, "parameters", parameters,
                          "responses", ok, "description", "as asked", "default", "$ref",
                          "#/components/responses/Problem");
    json_t *answer = json_object_get(json_object_get(o, "responses"), ok);
    if (strcmp(ok, "204") != 0)
        json_object_set_new(answer, "content", json_pack("{s:{}}", media_type_of(t)));
    if (t->body == ROUTE_BODY_SUBMIT)
        json_object_set_new(json_object_get(o, "responses"), "200",
                            json_pack("{s:s, s:{s:{}}}", "description", "an earlier video of the very same request",
                                      "content", "application/json"));
    if (body)
        json_object_set_new(o, "requestBody", body);
    if (t->flags & ROUTE_OPEN)
        json_object_set_new(o, "security", json_array());
    return o;
}

static json_t *components(void)
{
    return json_pack("{s:{s:{s:s, s:{s:{s:{s:s, s:{s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}}}}}}},"
                     " s:{s:{s:s, s:s}}}",
                     "responses", "Problem", "description", "what is wrong, and the way out (RFC 9457)", "content",
                     "application/problem+json", "schema", "type", "object", "properties", "type", "type", "string",
                     "title", "type", "string", "status", "type", "integer", "detail", "type", "string", "code", "type",
                     "string", "field", "type", "string",
                     "securitySchemes", "key", "type", "http", "scheme", "bearer");
}

void api_docs_openapi(struct request *r)
{
    size_t n;
    const struct route *t = route_table(&n);
    char method[16];
    json_t *paths = json_object();
    for (size_t i = 0; i < n; i++) {
        if (t[i].flags & ROUTE_HIDDEN)
            continue;
        json_t *item = json_object_get(paths, t[i].path);
        if (!item) {
            item = json_object();
            json_object_set_new(paths, t[i].path, item);
        }
        size_t k = 0;
        for (; t[i].method[k] && k + 1 < sizeof method; k++)
            method[k] = (char)(t[i].method[k] | 0x20);
        method[k] = 0;
        json_object_set_new(item, method, operation(&t[i], r->app));
    }
    json_t *o = json_pack("{s:s, s:{s:s, s:s, s:s}, s:o, s:o, s:[{s:[]}]}", "openapi", "3.1.0", "info", "title",
                          "troupe", "version", version_text(), "description", schema_at(0)->help, "paths", paths,
                          "components", components(), "security", "key");
    if (o && !tenants_need_key(r->app->tenants))
        json_object_set_new(o, "security", json_array());
    reply_json(r, 200, o);
}

/* ---- /docs ---- */

static void escaped(struct buf *b, const char *text)
{
    for (; text && *text; text++) {
        if (*text == '<')
            buf_puts(b, "&lt;");
        else if (*text == '>')
            buf_puts(b, "&gt;");
        else if (*text == '&')
            buf_puts(b, "&amp;");
        else
            buf_add(b, text, 1);
    }
}

static void row(struct buf *b, const char *const *cell, int n)
{
    buf_puts(b, "<tr>");
    for (int i = 0; i < n; i++) {
        buf_puts(b, i == 0 ? "<td><code>" : "<td>");
        escaped(b, cell[i]);
        buf_puts(b, i == 0 ? "</code></td>" : "</td>");
    }
    buf_puts(b, "</tr>\n");
}

static const char intro[] =
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>troupe: the API</title><link rel=icon href='data:,'><link rel=stylesheet href=/style.css><main class=docs>"
    "<p><a href=/>the page</a> &middot; <a href=/openapi.json>OpenAPI 3.1</a></p><h1>The API</h1>"
    "<p>A portrait and a recording in, a talking video out. Submit, watch, fetch:</p><pre>"
    "curl -F image=@face.png -F audio=@speech.wav -F prompt='a person talking' $TROUPE/v1/jobs\n"
    "curl -N $TROUPE/v1/jobs/ID/events\n"
    "curl -o talk.mp4 $TROUPE/v1/jobs/ID/video</pre>"
    "<p>Instead of a form, <code>POST /v1/jobs</code> takes JSON whose <code>image</code> and <code>audio</code> are "
    "base64, a <code>data:</code> URL, or the key that <code>POST /v1/blobs</code> answers. With an "
    "<code>Idempotency-Key</code> header a request may be sent again without a second job. "
    "<code>GET /v1/jobs/ID?wait=55</code> answers when the job has ended. With keys set, send "
    "<code>Authorization: Bearer KEY</code>.</p>";

static void docs_fields(struct buf *b, const struct app *app)
{
    const struct schema *s = schema_at(0);
    buf_puts(b, "<h2>Fields of a job</h2><div class=wide><table>"
                "<tr><th>field<th>type<th>allowed<th>default<th></tr>\n");
    for (size_t i = 0; i < s->n_fields; i++) {
        const struct schema_field *f = &s->fields[i];
        char range[64] = "", *shown = NULL;
        json_t *initial = initial_json(f, app->defaults);
        if (f->type == SCHEMA_INTEGER && f->max > 1e15)
            str_format(range, sizeof range, "%.15g and up", f->min);
        else if (f->type == SCHEMA_INTEGER || f->type == SCHEMA_NUMBER || f->type == SCHEMA_SIZE)
            str_format(range, sizeof range, "%.15g to %.15g", f->min, f->max);
        else if (f->type == SCHEMA_TEXT)
            str_format(range, sizeof range, "%.15g bytes", f->max);
        if (!json_is_null(initial))
            shown = json_dumps(initial, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        const char *initial_text = f->flags & SCHEMA_REQUIRED ? "required" : shown ? shown : "";
        const char *allowed = f->choices ? f->choices : range;
        row(b, (const char *[]){f->name, schema_type_text(f->type), allowed, initial_text, f->help}, 5);
        mem_free(shown);
        json_decref(initial);
    }
    buf_puts(b, "</table></div>");
}

static void docs_routes(struct buf *b)
{
    size_t n;
    const struct route *t = route_table(&n);
    char head[160];
    buf_puts(b, "<h2>Routes</h2><div class=wide><table><tr><th>route<th></tr>\n");
    for (size_t i = 0; i < n; i++) {
        str_format(head, sizeof head, "%s %s", t[i].method, t[i].path);
        if (!(t[i].flags & ROUTE_HIDDEN))
            row(b, (const char *[]){head, t[i].summary}, 2);
    }
    buf_puts(b, "</table></div>");
}

void api_docs_page(struct request *r)
{
    struct buf b;
    buf_init(&b, 256 * 1024);
    buf_puts(&b, intro);
    docs_fields(&b, r->app);
    docs_routes(&b);
    buf_puts(&b, "<h2>Errors</h2><p>RFC 9457 (<code>application/problem+json</code>): <code>detail</code> says what is "
                 "wrong and what to do, <code>field</code> where, <code>code</code> is one of these.</p>"
                 "<div class=wide><table><tr><th>code<th>status<th></tr>\n");
    for (int code = 1; code < ERR_COUNT; code++)
        buf_printf(&b, "<tr id=%s><td><code>%s</code></td><td>%d</td><td>%s</td></tr>\n", err_name(-code),
                   err_name(-code), err_http(-code), err_text(-code));
    buf_printf(&b, "</table></div><p class=quiet>troupe %s, build %s</p></main></html>\n", version_text(),
               version_build());
    reply_text(r, 200, "text/html; charset=utf-8", b.data ? b.data : "", b.len);
    buf_done(&b);
}
