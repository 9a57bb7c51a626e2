#include "dispatcher/api_blobs.h"

#include <unistd.h>

#include "common/blob.h"
#include "common/mem.h"
#include "common/str.h"
#include "dispatcher/reply.h"
#include "dispatcher/upload.h"

struct put {
    uv_work_t work;
    struct request *r;
    struct err err;
};

static void put_work(uv_work_t *w)
{
    struct put *p = w->data;
    struct upload *u = p->r->upload;
    if (upload_finish(u, &p->err) == 0 && u->n_files == 0)
        err_set(&p->err, ERR_INVALID, "the form holds no file part");
}

static void put_after(uv_work_t *w, int status)
{
    struct put *p = w->data;
    struct request *r = p->r;
    char path[128];
    (void)status;
    if (p->err.code) {
        reply_error(r, &p->err);
        return;
    }
    const struct upload_file *f = r->upload->file[0];
    str_format(path, sizeof path, "/v1/blobs/%s", f->key);
    request_set_header(r, MHD_HTTP_HEADER_LOCATION, path);
    reply_json(r, 201, json_pack("{s:s, s:I, s:s}", "key", f->key, "bytes", (json_int_t)f->bytes, "type",
                                 magic_type(f->head, f->n_head)));
}

void api_blobs_put(struct request *r)
{
    struct put *p = mem_zalloc(sizeof *p);
    struct err err = {0};
    if (!p || !r->upload) {
        mem_free(p);
        err_set(&err, p ? ERR_BADREQ : ERR_NOMEM, "the request has no body");
        reply_error(r, &err);
        return;
    }
    *p = (struct put){.r = r, .work.data = p};
    r->state = p;
    r->state_free = mem_free;
    if (uv_queue_work(r->app->loop, &p->work, put_work, put_after) == 0)
        request_park(r);
    else
        reply_error(r, &p->err);
}

void api_blobs_get(struct request *r)
{
    struct err err = {0};
    unsigned char head[MAGIC_HEAD];
    int fd;
    if (!blob_key_ok(r->param[0]))
        err_set(&err, ERR_INVALID, "key: %.80s is no blob key; sha256: and 64 hexadecimal digits are", r->param[0]);
    else if (blob_open(r->app->conf.volume, r->param[0], &fd, &err) == 0) {
        ssize_t n = pread(fd, head, sizeof head, 0);
        reply_file(r, fd, magic_type(head, n > 0 ? (size_t)n : 0), r->param[0] + 7, NULL);
        return;
    }
    reply_error(r, &err);
}
