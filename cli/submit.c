#include "cli/submit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/http.h"
#include "cli/watch.h"
#include "common/mem.h"
#include "common/schema.h"
#include "common/str.h"

#define PARTS_MAX 32

/* A field's value as the text of a form part; owned. */
static char *text_of(const json_t *v)
{
    char text[64];
    if (json_is_string(v))
        return mem_strdup(json_string_value(v));
    if (json_is_integer(v))
        str_format(text, sizeof text, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        str_format(text, sizeof text, "%.17g", json_real_value(v));
    else
        str_copy(text, sizeof text, json_is_true(v) ? "true" : "false");
    return mem_strdup(text);
}

static char *tags_of(const json_t *v)
{
    struct buf b;
    size_t i;
    json_t *tag;
    buf_init(&b, 4096);
    json_array_foreach(v, i, tag) buf_printf(&b, "%s%s", i ? "," : "", json_string_value(tag));
    return buf_take(&b, NULL);
}

static int check_file(const char *name, const char *path, struct err *err)
{
    if (access(path, R_OK) != 0)
        return err_set(err, ERR_INVALID, "%s: %s: %s", name, path, strerror(errno));
    return 0;
}

int submit_check(const json_t *fields, struct err *err)
{
    const struct schema *s = schema_find("avatar");
    int rc = 0;
    for (size_t i = 0; i < s->n_fields && rc == 0; i++) {
        const struct schema_field *f = &s->fields[i];
        const char *path = json_string_value(json_object_get(fields, f->name));
        if (!path && (f->flags & SCHEMA_REQUIRED))
            rc = err_set(err, ERR_INVALID, "--%s is needed: a file", f->name);
        else if (path && f->type == SCHEMA_MEDIA)
            rc = check_file(f->name, path, err);
    }
    return rc;
}

int submit_request(const struct cli *c, const json_t *fields, json_t **ret, struct err *err)
{
    struct http_part part[PARTS_MAX] = {0};
    const struct schema *s = schema_find("avatar");
    int n = 0, rc = submit_check(fields, err);
    for (size_t i = 0; i < s->n_fields && n < PARTS_MAX && rc == 0; i++) {
        const struct schema_field *f = &s->fields[i];
        const json_t *v = json_object_get(fields, f->name);
        if (!v)
            continue;
        part[n] = (struct http_part){.name = f->name, .is_file = f->type == SCHEMA_MEDIA};
        part[n++].value = json_is_array(v) ? tags_of(v) : text_of(v);
    }
    if (rc == 0)
        rc = http_form(c, "/v1/jobs", part, n, NULL, NULL, ret, err);
    for (int i = 0; i < n; i++)
        mem_free((void *)(uintptr_t)part[i].value);
    return rc;
}

int submit_fetch(const struct cli *c, const char *id, const char *out, char *ret_path, size_t size,
                 json_t **ret_job, struct err *err)
{
    char path[96];
    json_t *job = NULL;
    int rc = out ? str_copy(ret_path, size, out) : str_format(ret_path, size, "%s.mp4", id);
    if (rc < 0)
        return err_set(err, ERR_TOOBIG, "--out: the path is too long");
    rc = watch_job(c, id, &job, err);
    if (rc == 0)
        rc = watch_verdict(job, err);
    str_format(path, sizeof path, "/v1/jobs/%s/video", id);
    if (rc == 0)
        rc = http_download(c, path, ret_path, err);
    if (rc == 0 && ret_job)
        *ret_job = job;
    else
        json_decref(job);
    return rc;
}

/* Prints the id at once, and the video's path when it was waited for. */
static int submit_all(const struct cli *c, const json_t *fields, bool wait, const char *out, struct err *err)
{
    json_t *answer = NULL, *job = NULL;
    char path[1024];
    int rc = submit_request(c, fields, &answer, err);
    const char *id = json_string_value(json_object_get(answer, "id"));
    if (rc == 0 && !c->json) {
        printf("%s\n", id);
        fflush(stdout);
    }
    if (rc == 0 && wait)
        rc = submit_fetch(c, id, out, path, sizeof path, &job, err);
    if (rc == 0 && job && !c->json)
        printf("%s\n", path);
    if (rc == 0 && c->json)
        cli_print_json(json_incref(job ? job : answer));
    json_decref(answer);
    json_decref(job);
    return rc;
}

int submit_command(struct cli *c, int argc, char **argv)
{
    const char *out = NULL;
    bool wait = false;
    const struct arg own[] = {{"out", &out, NULL, "FILE", "wait for the end and write the MP4 here"},
                              {"wait", NULL, &wait, NULL, "wait for the end (the MP4 goes to ID.mp4)"},
                              {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, true, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "--image FILE --audio FILE [options]", "Puts a job into the queue.", own, true);
    else if (rc == 0)
        rc = submit_all(c, r.fields, wait || out, out, &err);
    args_done(&r);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
