/* upload.h -- request bodies that go to disk while they come in: multipart/form-data and raw bytes.
 *
 *     upload_new(r, UPLOAD_FORM, schema, &u, err)         at the headers
 *     upload_feed(u, data, n, err)                        on the loop, slice by slice; memory stays flat
 *     upload_finish(u, err)                               in a pool thread: fsync, rename, look at the files
 *     u->fields, u->file[i].key
 *     upload_free(u)                                      unfinished files are removed
 *
 * Media parts of a form become blobs, other parts become typed fields of one JSON object (schema_text). Wrong first
 * bytes are refused as soon as they are seen.
 */
#ifndef DISPATCHER_UPLOAD_H
#define DISPATCHER_UPLOAD_H

#include "common/blob.h"
#include "common/json.h"
#include "common/schema.h"
#include "dispatcher/app.h"
#include "dispatcher/magic.h"
#include "dispatcher/request.h"

enum upload_kind { UPLOAD_FORM, UPLOAD_RAW };

enum { UPLOAD_FILES = 4 };

struct upload_file {
    char name[32];
    struct blob_put put;
    unsigned char head[MAGIC_HEAD];
    size_t n_head;
    uint64_t bytes, max_bytes;
    bool open;
    char key[BLOB_KEY]; /* after upload_finish */
};

struct upload {
    struct app *app;             /* borrowed */
    const struct schema *schema; /* NULL: any single file part (blobs) */
    struct MHD_PostProcessor *form;
    struct upload_file *file[UPLOAD_FILES]; /* owned */
    int n_files;
    json_t *fields;      /* owned object: the text parts */
    char part[32];       /* the text part being gathered */
    bool part_open;
    struct buf text;
    char last[32]; /* name of the part of the last slice */
    bool empty;    /* and that it was an opening one without bytes */
    int n_parts;
    struct err err; /* the first failure inside the form's callback */
};

int upload_new(struct request *r, enum upload_kind kind, const struct schema *schema, struct upload **ret,
               struct err *err);
int upload_feed(struct upload *u, const char *data, size_t n, struct err *err);
int upload_finish(struct upload *u, struct err *err);
void upload_free(struct upload *u);

/* ERR_MEDIA unless the blob's first bytes fit the field: "image", "audio". ERR_NOTFOUND when it is not there. */
int upload_check_media(const char *volume, const char *field, const char *key, struct err *err);

#endif
