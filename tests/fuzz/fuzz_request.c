/* fuzz_request.c -- any bytes as a client's request: JSON through the schema, and each field's text form. A
 * request that is accepted has only values that are in range; one that is refused has a sentence. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/schema.h"
#include "common/str.h"
#include "tests/fuzz/fuzz.h"

static void must(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "fuzz_request: %s\n", what);
        abort();
    }
}

static void check_accepted(const struct job *job)
{
    struct schema_face face;
    int size, w, h;
    const json_t *p = job->params;
    int64_t steps = schema_int(p, "num_inference_steps", 0);
    must(steps >= 1 && steps <= 100, "steps out of range");
    must(schema_num(p, "guidance_scale", -1) >= 0 && schema_num(p, "guidance_scale", 99) <= 20,
         "guidance out of range");
    must(schema_size(p, &size, &w, &h) == 0 && size <= 1024 && w <= 1024 && h <= 1024, "size out of range");
    must(schema_face_parse(schema_str(p, "face", ""), &face, NULL) == 0, "face not readable");
    must(strlen(schema_str(p, "prompt", "")) <= 4096, "prompt too long");
    must(job->priority >= 0 && job->priority <= 9, "priority out of range");
}

static void whole(const struct schema *s, const char *text, size_t size)
{
    struct err err = {0};
    json_t *body = NULL;
    struct job job;
    if (json_parse(text, size, 16, &body, &err) < 0) {
        must(err.text[0], "refused without a sentence");
        return;
    }
    job_init(&job);
    int rc = schema_apply(s, body, NULL, &job, &err);
    must(rc == 0 || (err.text[0] && str_utf8_ok(err.text, strlen(err.text))),
         "refused without a readable sentence");
    if (rc == 0)
        check_accepted(&job);
    job_done(&job);
    json_decref(body);
}

static void fields(const struct schema *s, const char *text, size_t size)
{
    struct schema_media media;
    for (size_t i = 0; i < s->n_fields; i++) {
        json_t *body = json_object();
        struct err err = {0};
        int rc = schema_text(s, s->fields[i].name, text, size, body, &err);
        must(rc == 0 || err.text[0], "refused without a sentence");
        json_decref(body);
    }
    if (schema_media(s, "image", text, size, &media, NULL) == 0)
        must(media.data >= text && media.data + media.len <= text + size, "media outside of the text");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct schema *s = schema_find("avatar");
    char *text = malloc(size + 1); /* terminated, as every caller's text is */
    must(text != NULL, "memory");
    memcpy(text, data, size);
    text[size] = 0;
    whole(s, text, size);
    fields(s, text, size);
    free(text);
    return 0;
}
