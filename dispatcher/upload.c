#include "dispatcher/upload.h"

#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/crash.h"
#include "common/mem.h"
#include "common/str.h"

enum {
    FORM_BUFFER = 32 * 1024, /* the form parser's own; also the longest part header */
    TEXT_MAX = 1024 * 1024,  /* one text part; the schema's own limits are far below */
    PARTS_MAX = 64,
};

static uint64_t limit_of(const struct upload *u, const char *field)
{
    const struct conf *c = &u->app->conf;
    uint64_t image = (uint64_t)c->max_image_bytes, audio = (uint64_t)c->max_audio_bytes;
    if (strcmp(field, "image") == 0)
        return image;
    return strcmp(field, "audio") == 0 || audio > image ? audio : image;
}

static bool is_media(const struct upload *u, const char *name)
{
    const struct schema_field *f = u->schema ? schema_field(u->schema, name) : NULL;
    return f && f->type == SCHEMA_MEDIA;
}

static int file_begin(struct upload *u, const char *name)
{
    for (int i = 0; u->schema && i < u->n_files; i++) {
        if (strcmp(u->file[i]->name, name) == 0)
            return err_set(&u->err, ERR_INVALID, "%s: given twice; send one file", name);
    }
    if (u->n_files == (u->schema ? UPLOAD_FILES : 1))
        return err_set(&u->err, ERR_INVALID, "%s: too many files in one request", name);
    struct upload_file *f = mem_zalloc(sizeof *f);
    if (!f)
        return err_set(&u->err, ERR_NOMEM, "out of memory");
    str_copy(f->name, sizeof f->name, name);
    f->max_bytes = limit_of(u, name);
    int rc = blob_put_begin(&f->put, u->app->conf.volume, f->max_bytes, &u->err);
    if (rc < 0) {
        mem_free(f);
        return rc;
    }
    f->open = true;
    u->file[u->n_files++] = f;
    return 0;
}

static int head_check(const struct upload *u, struct upload_file *f)
{
    struct err *err = (struct err *)(uintptr_t)&u->err;
    if (strcmp(f->name, "image") == 0)
        return magic_image_head(f->name, f->head, f->n_head, err);
    return strcmp(f->name, "audio") == 0 ? magic_audio_head(f->name, f->head, f->n_head, err) : 0;
}

static int file_add(struct upload *u, const char *data, size_t n)
{
    struct upload_file *f = u->file[u->n_files - 1];
    char limit[32];
    if (f->n_head < MAGIC_HEAD) {
        size_t k = n < MAGIC_HEAD - f->n_head ? n : MAGIC_HEAD - f->n_head;
        memcpy(f->head + f->n_head, data, k);
        f->n_head += k;
        if (u->schema && f->n_head == MAGIC_HEAD && head_check(u, f) < 0)
            return u->err.code;
    }
    f->bytes += n;
    if (f->bytes > f->max_bytes)
        return err_set(&u->err, ERR_TOOBIG, "%s: larger than the limit of %s", f->name,
                       str_bytes(limit, sizeof limit, f->max_bytes));
    int rc = n ? blob_put_add(&f->put, data, n, &u->err) : 0;
    CRASH_POINT(dispatcher_upload);
    if (rc < 0)
        f->open = false;
    return rc;
}

/* A text part is complete: to its field. */
static int text_end(struct upload *u)
{
    if (!u->part_open)
        return 0;
    u->part_open = false;
    const char *text = u->text.data ? u->text.data : "";
    int rc;
    if (!u->schema)
        rc = err_set(&u->err, ERR_INVALID, "%s: only one file part is expected here", u->part);
    else if (is_media(u, u->part) && json_object_get(u->fields, u->part))
        rc = err_set(&u->err, ERR_INVALID, "%s: given twice", u->part);
    else if (is_media(u, u->part))
        rc = json_object_set_new(u->fields, u->part, json_stringn(text, u->text.len)) == 0
                 ? 0
                 : err_set(&u->err, ERR_INVALID, "%s: neither a file nor text", u->part);
    else
        rc = schema_text(u->schema, u->part, text, u->text.len, u->fields, &u->err);
    buf_clear(&u->text);
    return rc;
}

static int text_add(struct upload *u, const char *data, size_t n)
{
    if (buf_add(&u->text, data, n) < 0)
        return err_set(&u->err, ERR_TOOBIG, "%s: the text is longer than %d bytes", u->part, TEXT_MAX);
    return 0;
}

static int part_begin(struct upload *u, const char *name, bool file)
{
    int rc = text_end(u);
    if (rc < 0)
        return rc;
    if (++u->n_parts > PARTS_MAX)
        return err_set(&u->err, ERR_BADREQ, "more than %d parts in one form", PARTS_MAX);
    if (file)
        return file_begin(u, name);
    if (str_copy(u->part, sizeof u->part, name) < 0)
        return err_set(&u->err, ERR_INVALID, "%s...: no such field", u->part);
    u->part_open = true;
    return 0;
}

static bool is_file(const struct upload *u, const char *key, const char *filename, const char *type)
{
    if (u->schema && !is_media(u, key))
        return false;
    return filename || (type && strncasecmp(type, "text/", 5) != 0);
}

static enum MHD_Result on_part(void *cls, enum MHD_ValueKind kind, const char *key, const char *filename,
                               const char *type, const char *encoding, const char *data, uint64_t off, size_t n)
{
    struct upload *u = cls;
    (void)kind;
    (void)encoding;
    if (u->err.code)
        return MHD_NO;
    if (!key || !*key) {
        err_set(&u->err, ERR_BADREQ, "a part of the form has no name");
        return MHD_NO;
    }
    bool file = is_file(u, key, filename, type);
    /* The parser may open a part with an empty slice and begin again at 0 with the first bytes. */
    bool again = off == 0 && n > 0 && u->empty && strncmp(u->last, key, sizeof u->last - 1) == 0;
    u->empty = off == 0 && n == 0;
    str_copy(u->last, sizeof u->last, key);
    int rc = off == 0 && !again ? part_begin(u, key, file) : 0;
    if (rc == 0)
        rc = file ? file_add(u, data, n) : text_add(u, data, n);
    return rc < 0 ? MHD_NO : MHD_YES;
}

int upload_new(struct request *r, enum upload_kind kind, const struct schema *schema, struct upload **ret,
               struct err *err)
{
    struct upload *u = mem_zalloc(sizeof *u);
    if (!u)
        return err_set(err, ERR_NOMEM, "out of memory");
    u->app = r->app;
    u->schema = schema;
    u->fields = json_object();
    buf_init(&u->text, TEXT_MAX);
    int rc = u->fields ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    if (rc == 0 && kind == UPLOAD_FORM) {
        u->form = MHD_create_post_processor(r->conn, FORM_BUFFER, on_part, u);
        if (!u->form)
            rc = err_set(err, ERR_BADREQ, "the Content-Type names no usable multipart boundary");
    } else if (rc == 0 && (rc = file_begin(u, "body")) < 0) {
        err_set(err, rc, "%s", u->err.text);
    }
    if (rc < 0) {
        upload_free(u);
        return rc;
    }
    *ret = u;
    return 0;
}

int upload_feed(struct upload *u, const char *data, size_t n, struct err *err)
{
    if (!u->form)
        file_add(u, data, n);
    else if (MHD_post_process(u->form, data, n) != MHD_YES)
        err_set(&u->err, ERR_BADREQ, "the form is not valid multipart/form-data");
    return u->err.code ? err_set(err, u->err.code, "%s", u->err.text) : 0;
}

int upload_check_media(const char *volume, const char *field, const char *key, struct err *err)
{
    int fd;
    int rc = blob_open(volume, key, &fd, err);
    if (rc == ERR_NOTFOUND) {
        err_clear(err);
        return err_set(err, ERR_INVALID, "%s: no blob %s is here; upload it first (POST /v1/blobs)", field, key);
    }
    if (rc < 0)
        return err_wrap(err, "%s", field);
    if (strcmp(field, "image") == 0)
        rc = magic_image_file(field, fd, NULL, NULL, err);
    else if (strcmp(field, "audio") == 0)
        rc = magic_audio_file(field, fd, err);
    close(fd);
    return rc;
}

/* A file is complete: it gets its name, and its field the key. */
static int file_end(struct upload *u, struct upload_file *f)
{
    if (u->schema && head_check(u, f) < 0)
        return u->err.code;
    if (f->bytes == 0)
        return err_set(&u->err, ERR_MEDIA, "%s: the file is empty", f->name);
    f->open = false;
    int rc = blob_put_end(&f->put, f->key, &u->err);
    if (rc < 0 || !u->schema)
        return rc;
    if ((rc = upload_check_media(u->app->conf.volume, f->name, f->key, &u->err)) < 0)
        return rc;
    if (json_object_get(u->fields, f->name))
        return err_set(&u->err, ERR_INVALID, "%s: given twice", f->name);
    return json_object_set_new(u->fields, f->name, json_string(f->key));
}

int upload_finish(struct upload *u, struct err *err)
{
    if (u->form) {
        enum MHD_Result ok = MHD_destroy_post_processor(u->form);
        u->form = NULL;
        if (ok != MHD_YES)
            err_set(&u->err, ERR_BADREQ, "the form ends before its last boundary");
    }
    if (!u->err.code)
        text_end(u);
    for (int i = 0; i < u->n_files && !u->err.code; i++)
        file_end(u, u->file[i]);
    return u->err.code ? err_set(err, u->err.code, "%s", u->err.text) : 0;
}

void upload_free(struct upload *u)
{
    if (!u)
        return;
    if (u->form)
        MHD_destroy_post_processor(u->form);
    for (int i = 0; i < u->n_files; i++) {
        if (u->file[i]->open)
            blob_put_abort(&u->file[i]->put);
        mem_free(u->file[i]);
    }
    buf_done(&u->text);
    json_decref(u->fields);
    mem_free(u);
}
