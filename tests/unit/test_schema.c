/* schema: every field below, above, of the wrong type; the exact sentence of each refusal; defaults;
 * documents. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/schema.h"
#include "common/str.h"

#define KEY "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define MEDIA "\"image\":\"" KEY "\",\"audio\":\"" KEY "\""

static struct err err;
static struct job job;

static int begin(void **state)
{
    (void)state;
    err_clear(&err);
    job_init(&job);
    return 0;
}

static int end(void **state)
{
    (void)state;
    job_done(&job);
    return 0;
}

static int apply(const char *json, const json_t *defaults)
{
    json_t *body = NULL;
    err_clear(&err);
    if (json_parse(json, strlen(json), 16, &body, &err) < 0)
        fail_msg("%s", err.text);
    int rc = schema_apply(schema_find("avatar"), body, defaults, &job, &err);
    json_decref(body);
    return rc;
}

static void test_defaults(void **state)
{
    (void)state;
    int size, w, h;
    assert_int_equal(apply("{" MEDIA "}", NULL), 0);
    assert_string_equal(job.generator, "avatar");
    assert_int_equal(job.priority, 5);
    assert_int_equal(schema_int(job.params, "num_inference_steps", 0), 50);
    assert_int_equal(schema_int(job.params, "seed", 0), -1);
    assert_true(schema_num(job.params, "guidance_scale", 0) == 7.5);
    assert_true(schema_num(job.params, "fps", 0) == 25);
    assert_string_equal(schema_str(job.params, "prompt", NULL), "");
    assert_null(schema_str(job.params, "negative_prompt", NULL));
    assert_null(json_object_get(job.params, "priority")); /* the queue's, not the generator's */
    assert_int_equal(schema_size(job.params, &size, &w, &h), 0);
    assert_int_equal(size, 704);
    json_t *own = json_pack("{s:s s:i}", "size", "64", "num_inference_steps", 10);
    assert_int_equal(apply("{" MEDIA ",\"seed\":9223372036854775807,\"prompt\":null}", own), 0);
    json_decref(own);
    assert_int_equal(schema_size(job.params, &size, &w, &h), 0);
    assert_int_equal(size, 64);
    assert_int_equal(schema_int(job.params, "num_inference_steps", 0), 10);
    assert_int_equal(schema_int(job.params, "seed", 0), INT64_MAX);
}

static void test_queue_fields(void **state)
{
    (void)state;
    assert_int_equal(
        apply("{" MEDIA
              ",\"priority\":9,\"tags\":[\"a\",\"b\"],\"deadline_start_s\":1.5,\"deadline_run_s\":2,"
              "\"ttl_s\":60}",
              NULL),
        0);
    assert_int_equal(job.priority, 9);
    assert_int_equal(job.deadline_start_ms, 1500);
    assert_int_equal(job.deadline_run_ms, 2000);
    assert_int_equal(job.ttl_ms, 60000);
    assert_int_equal(json_array_size(job.tags), 2);
}

static void test_accepted(void **state)
{
    (void)state;
    static const char *const good[] = {
        "\"fps\":12.5",
        "\"fps\":25",
        "\"size\":\"512x768\"",
        "\"size\":64",
        "\"size\":1024",
        "\"face\":\"none\"",
        "\"face\":\"required\"",
        "\"face\":\"10,20.5,30,40\"",
        "\"face\":3",
        "\"face\":\"0\"",
        "\"num_inference_steps\":20.0",
        "\"guidance_scale\":0",
        "\"flow_shift\":0.1",
        "\"preset\":\"cpu\"",
        "\"preset\":\"ultra_low\"",
        "\"tags\":\"a, b,c\"",
        "\"num_frames\":1",
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        char json[512];
        str_format(json, sizeof(json), "{" MEDIA ",%s}", good[i]);
        if (apply(json, NULL) != 0)
            fail_msg("%s: %s", good[i], err.text);
    }
    assert_int_equal(apply("{" MEDIA ",\"tags\":\"a, b,c\"}", NULL), 0);
    assert_int_equal(json_array_size(job.tags), 3);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *field, *sentence;
    } cases[] = {
        {"\"num_inference_steps\":0",
         "num_inference_steps: 0 is not allowed; a whole number from 1 to 100 is"},
        {"\"num_inference_steps\":101",
         "num_inference_steps: 101 is not allowed; a whole number from 1 to 100 is"},
        {"\"num_inference_steps\":2.5",
         "num_inference_steps: 2.5 is not allowed; a whole number from 1 to 100 is"},
        {"\"num_inference_steps\":1e400", NULL},
        {"\"num_inference_steps\":\"20\"",
         "num_inference_steps: \"20\" is not allowed; a whole number from 1 to 100 is"},
        {"\"num_inference_steps\":[20]",
         "num_inference_steps: a list is not allowed; a whole number from 1 to 100 is"},
        {"\"num_inference_steps\":true",
         "num_inference_steps: true is not allowed; a whole number from 1 to 100 is"},
        {"\"guidance_scale\":-0.1", "guidance_scale: -0.1 is not allowed; a number from 0 to 20 is"},
        {"\"guidance_scale\":20.1", "guidance_scale: 20.1 is not allowed; a number from 0 to 20 is"},
        {"\"guidance_scale\":\"high\"", "guidance_scale: \"high\" is not allowed; a number from 0 to 20 is"},
        {"\"flow_shift\":0", "flow_shift: 0 is not allowed; a number from 0.1 to 20 is"},
        {"\"flow_shift\":21", "flow_shift: 21 is not allowed; a number from 0.1 to 20 is"},
        {"\"seed\":-2", "seed: -2 is not allowed; a whole number from -1 to 9223372036854775807 is"},
        {"\"seed\":1e30", "seed: 1e+30 is not allowed; a whole number from -1 to 9223372036854775807 is"},
        {"\"seed\":{}", "seed: an object is not allowed; a whole number from -1 to 9223372036854775807 is"},
        {"\"fps\":24", "fps: 24 is not allowed; one of 12.5|25 is"},
        {"\"fps\":0", "fps: 0 is not allowed; one of 12.5|25 is"},
        {"\"size\":63",
         "size: 63 is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16 in that "
         "range is"},
        {"\"size\":\"100x64\"",
         "size: \"100x64\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples "
         "of 16 in that range is"},
        {"\"size\":\"64x2048\"",
         "size: \"64x2048\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of "
         "multiples of 16 in that range is"},
        {"\"size\":\"64x\"",
         "size: \"64x\" is not allowed; a whole number from 64 to 1024, or \"WxH\" of multiples of 16 "
         "in that range is"},
        {"\"num_frames\":0", "num_frames: 0 is not allowed; a whole number from 1 to 100000 is"},
        {"\"face\":\"big\"",
         "face: \"big\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in pixels of "
         "the image is"},
        {"\"face\":\"1,2,3\"",
         "face: \"1,2,3\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in pixels "
         "of the image is"},
        {"\"face\":\"1,2,0,4\"",
         "face: \"1,2,0,4\" is not allowed; auto, none, required, an index from 0, or x,y,w,h in "
         "pixels of the image is"},
        {"\"face\":-1",
         "face: -1 is not allowed; auto, none, required, an index from 0, or x,y,w,h in pixels of the image "
         "is"},
        {"\"prompt\":5", "prompt: 5 is not allowed; text of at most 4096 bytes is"},
        {"\"preset\":\"huge\"", "preset: \"huge\" is not allowed; one of "
                                "auto|emergency|ultra_minimal|ultra_low|low|balanced|high|max|cpu is"},
        {"\"priority\":10", "priority: 10 is not allowed; a whole number from 0 to 9 is"},
        {"\"tags\":5", "tags: 5 is not allowed; at most 16 words of at most 64 bytes is"},
        {"\"tags\":[1]", "tags: 1 is not allowed; at most 16 words of at most 64 bytes is"},
        {"\"deadline_run_s\":0", "deadline_run_s: 0 is not allowed; a number from 0.1 to 2592000 is"},
        {"\"ttl_s\":0.5", "ttl_s: 0.5 is not allowed; a number from 1 to 315360000 is"},
        {"\"sead\":1", "sead: there is no such field; did you mean seed?"},
        {"\"num_infrence_steps\":1",
         "num_infrence_steps: there is no such field; did you mean num_inference_steps?"},
        {"\"colour\":1", "colour: there is no such field; /openapi.json lists those of avatar"},
        {"\"a\\nb\":1", "a?b: there is no such field; /openapi.json lists those of avatar"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char json[512];
        json_t *body = NULL;
        str_format(json, sizeof(json), "{" MEDIA ",%s}", cases[i].field);
        err_clear(&err);
        if (!cases[i].sentence) { /* JSON itself has no such number */
            assert_int_equal(json_parse(json, strlen(json), 16, &body, &err), ERR_BADREQ);
            continue;
        }
        assert_int_equal(apply(json, NULL), ERR_INVALID);
        assert_string_equal(err.text, cases[i].sentence);
    }
    assert_int_equal(apply("{\"audio\":\"" KEY "\"}", NULL), ERR_INVALID);
    assert_string_equal(err.text, "image: missing; send a file part, base64 text, a data: URL or a blob key");
    assert_int_equal(apply("{\"image\":\"" KEY "\"}", NULL), ERR_INVALID);
    assert_string_equal(err.text, "audio: missing; send a file part, base64 text, a data: URL or a blob key");
    assert_int_equal(apply("{\"image\":\"AAAA\",\"audio\":\"" KEY "\"}", NULL), ERR_INVALID);
    assert_int_equal(apply("[]", NULL), ERR_BADREQ);
}

static void test_long_texts(void **state)
{
    (void)state;
    static char text[4200], json[5000];
    memset(text, 'a', 4096);
    str_format(json, sizeof(json), "{" MEDIA ",\"prompt\":\"%s\"}", text);
    assert_int_equal(apply(json, NULL), 0);
    text[4096] = 'a';
    str_format(json, sizeof(json), "{" MEDIA ",\"prompt\":\"%s\"}", text);
    assert_int_equal(apply(json, NULL), ERR_INVALID);
    assert_string_equal(err.text, "prompt: 4097 bytes are not allowed; at most 4096 are");
    str_format(json, sizeof(json), "{" MEDIA ",\"preset\":\"%s\"}", text);
    assert_int_equal(apply(json, NULL), ERR_INVALID);
    assert_true(strlen(err.text) < 60 + 150); /* the value is cut: beside it are the choices */
}

static int text(json_t *into, const char *name, const char *value)
{
    err_clear(&err);
    return schema_text(schema_find("avatar"), name, value, strlen(value), into, &err);
}

static void test_text(void **state)
{
    (void)state;
    json_t *o = json_object();
    assert_int_equal(text(o, "seed", "42"), 0);
    assert_int_equal(text(o, "guidance_scale", "7.5"), 0);
    assert_int_equal(text(o, "size", "512x768"), 0);
    assert_int_equal(text(o, "prompt", "42"), 0);
    assert_true(json_is_integer(json_object_get(o, "seed")));
    assert_true(json_is_string(json_object_get(o, "prompt")));
    assert_int_equal(text(o, "seed", "43"), ERR_INVALID);
    assert_string_equal(err.text, "seed: given twice; give it once");
    assert_int_equal(text(o, "num_inference_steps", "many"), ERR_INVALID);
    assert_string_equal(err.text,
                        "num_inference_steps: \"many\" is not allowed; a whole number from 1 to 100 is");
    assert_int_equal(text(o, "flow_shift", "nan"), ERR_INVALID);
    assert_string_equal(err.text, "flow_shift: \"nan\" is not allowed; a number from 0.1 to 20 is");
    assert_int_equal(text(o, "flow_shift", ""), ERR_INVALID);
    assert_int_equal(text(o, "negative_prompt", "\xff"), ERR_INVALID);
    assert_string_equal(err.text, "negative_prompt: the text is not valid UTF-8");
    assert_int_equal(schema_text(schema_find("avatar"), "negative_prompt", "a\0b", 3, o, NULL), ERR_INVALID);
    assert_int_equal(text(o, "imag", "x"), ERR_INVALID);
    assert_string_equal(err.text, "imag: there is no such field; did you mean image?");
    json_decref(o);
}

static int media(const char *value, struct schema_media *m)
{
    err_clear(&err);
    return schema_media(schema_find("avatar"), "image", value, strlen(value), m, &err);
}

static void test_media(void **state)
{
    (void)state;
    struct schema_media m;
    assert_int_equal(media(KEY, &m), 0);
    assert_int_equal(m.kind, SCHEMA_MEDIA_KEY);
    assert_int_equal(media("data:image/png;base64,AAAA", &m), 0);
    assert_int_equal(m.kind, SCHEMA_MEDIA_BASE64);
    assert_int_equal(m.len, 4);
    assert_memory_equal(m.data, "AAAA", 4);
    assert_int_equal(media("iVBORw0KGgoAAAANSUhEUg==", &m), 0);
    assert_int_equal(m.kind, SCHEMA_MEDIA_BASE64);
    assert_int_equal(media("https://example.com/a.png", &m), ERR_UNSUPPORTED);
    assert_string_equal(
        err.text, "image: this server fetches no URLs; upload the file (a multipart part, base64, or POST "
                  "/v1/blobs and its key)");
    assert_int_equal(media("data:image/png,AAAA", &m), ERR_INVALID);
    assert_string_equal(err.text, "image: the data: URL is not of the form data:TYPE;base64,DATA");
    assert_int_equal(media("sha256:12", &m), ERR_INVALID);
    assert_string_equal(err.text, "image: a blob key is sha256: and 64 digits of 0-9 a-f");
    assert_int_equal(media("portrait.png", &m), ERR_INVALID);
    assert_string_equal(
        err.text,
        "image: \"portrait.png\" is not allowed; base64 text, a data: URL or a blob key (sha256:...) is");
    assert_int_equal(media("", &m), ERR_INVALID);
}

static void test_documents(void **state)
{
    (void)state;
    const struct schema *s = schema_find("avatar");
    struct buf help;
    json_t *own = json_pack("{s:s}", "size", "64");
    json_t *doc = schema_openapi(s, own, false), *parts = schema_openapi(s, own, true);
    json_t *fields = json_object_get(doc, "properties");
    buf_init(&help, 1 << 16);
    assert_int_equal(schema_help(s, &help), 0);
    assert_int_equal(json_object_size(fields), s->n_fields);
    assert_int_equal(json_array_size(json_object_get(doc, "required")), 2);
    for (size_t i = 0; i < s->n_fields; i++) {
        const json_t *f = json_object_get(fields, s->fields[i].name);
        assert_non_null(json_object_get(f, "description"));
        assert_true(json_object_get(f, "type") || json_object_get(f, "oneOf"));
        assert_non_null(strstr(help.data, s->fields[i].help));
    }
    assert_string_equal(json_string_value(json_object_get(json_object_get(fields, "size"), "default")), "64");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(fields, "seed"), "maximum")),
                     INT64_MAX);
    json_t *image = json_object_get(json_object_get(parts, "properties"), "image");
    assert_string_equal(json_string_value(json_object_get(image, "format")), "binary");
    assert_null(schema_find("nothing"));
    json_decref(doc);
    json_decref(parts);
    json_decref(own);
    buf_done(&help);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {T(test_defaults), T(test_queue_fields), T(test_accepted),
                                       T(test_refused),  T(test_long_texts),   T(test_text),
                                       T(test_media),    T(test_documents)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
