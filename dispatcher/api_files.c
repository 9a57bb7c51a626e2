#include "dispatcher/api_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/blob.h"
#include "common/str.h"
#include "dispatcher/api_jobs.h"
#include "dispatcher/magic.h"
#include "dispatcher/reply.h"

struct file_kind {
    const char *member; /* of the result object */
    const char *digest; /* member with its SHA-256, or NULL */
    const char *type; /* NULL: by its first bytes */
};

static const struct file_kind video = {"video", "video_sha256", "video/mp4"};
static const struct file_kind thumbnail = {"thumbnail", NULL, NULL};
static const struct file_kind report = {"report", NULL, "application/json"};

/* A result names its files inside the job's own folder: no way out of it. */
static bool plain_name(const char *name)
{
    return name && *name && *name != '.' && !strchr(name, '/') && strlen(name) < 200;
}

static int open_result(const struct request *r, const struct job_view *v, const struct file_kind *k, int *ret_fd,
                       struct err *err)
{
    const char *name = json_string_value(json_object_get(v->status.result, k->member));
    char path[BLOB_PATH];
    if (v->status.state != JOB_DONE)
        return err_set(err, job_state_final(v->status.state) ? ERR_NOTFOUND : ERR_CONFLICT, "%s: the job is %s%s",
                       k->member, job_state_text(v->status.state),
                       job_state_final(v->status.state) ? "" : "; wait for its end (?wait=55 or /events)");
    if (!plain_name(name))
        return err_set(err, ERR_NOTFOUND, "%s: the job has none", k->member);
    if (str_format(path, sizeof path, "%s/results/%s/%s", r->app->conf.volume, v->job.id, name) < 0)
        return err_set(err, ERR_INTERNAL, "%s: the path is too long", k->member);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s", k->member,
                       errno == ENOENT ? "the file is no longer there" : strerror(errno));
    *ret_fd = fd;
    return 0;
}

static void etag_of(const struct job_view *v, const struct file_kind *k, int fd, char *ret, size_t size)
{
    const char *digest = k->digest ? json_string_value(json_object_get(v->status.result, k->digest)) : NULL;
    struct stat st = {0};
    if (digest && strlen(digest) == 64 && strspn(digest, "0123456789abcdef") == 64) {
        str_format(ret, size, "%.32s", digest);
        return;
    }
    fstat(fd, &st);
    str_format(ret, size, "%lld-%lld-%lld", (long long)v->status.attempt, (long long)st.st_size,
               (long long)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000);
}

static void send_file(struct request *r, const struct file_kind *k, int rc, const void *bytes, size_t len,
                      const struct err *why)
{
    struct job_view v = {0};
    struct err err = *why;
    char etag[80], name[96];
    int fd = -1;
    if (rc == 0)
        rc = queue_read_get(bytes, len, &v, &err);
    if (rc == 0)
        rc = open_result(r, &v, k, &fd, &err);
    if (rc < 0) {
        reply_error(r, &err);
    } else {
        const char *file = json_string_value(json_object_get(v.status.result, k->member)), *dot = strrchr(file, '.');
        unsigned char head[MAGIC_HEAD];
        ssize_t n = k->type ? 0 : pread(fd, head, sizeof head, 0);
        etag_of(&v, k, fd, etag, sizeof etag);
        str_format(name, sizeof name, "%s%s", v.job.id, dot ? dot : "");
        reply_file(r, fd, k->type ? k->type : magic_type(head, n > 0 ? (size_t)n : 0), etag, name);
    }
    job_view_done(&v);
}

static void on_video(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    send_file(arg, &video, rc, bytes, len, why);
}

static void on_thumbnail(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    send_file(arg, &thumbnail, rc, bytes, len, why);
}

static void on_report(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    send_file(arg, &report, rc, bytes, len, why);
}

void api_files_video(struct request *r)
{
    if (api_jobs_id(r))
        api_jobs_fetch(r, false, on_video);
}

void api_files_thumbnail(struct request *r)
{
    if (api_jobs_id(r))
        api_jobs_fetch(r, false, on_thumbnail);
}

void api_files_report(struct request *r)
{
    if (api_jobs_id(r))
        api_jobs_fetch(r, false, on_report);
}
