/* blob.c -- see the header. Every path is built by `path_of`; every failure of the system goes through
 * blob_errno. */
#include "common/blob.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/crash.h"
#include "common/job.h"
#include "common/str.h"

#define CHUNK (64 * 1024)

int blob_errno(struct err *err, int errnum, const char *what, const char *path)
{
    if (errnum == ENOSPC || errnum == EDQUOT)
        return err_set(err, ERR_NOSPACE, "%s %s: no space left on the volume; free some, or use a larger one",
                       what, path);
    if (errnum == EROFS)
        return err_set(err, ERR_IO, "%s %s: the volume is read-only; mount it writable", what, path);
    if (errnum == EACCES || errnum == EPERM)
        return err_set(err, ERR_IO, "%s %s: this user has no right to; change the volume's owner", what,
                       path);
    if (errnum == ENOENT)
        return err_set(err, ERR_NOTFOUND, "%s %s: there is no such file or folder", what, path);
    return err_set(err, ERR_IO, "%s %s: %s", what, path, strerror(errnum));
}

static int long_path(struct err *err)
{
    return err_set(err, ERR_INVALID, "volume: the path is longer than %d bytes", BLOB_PATH - 1);
}

static int sync_folder_of(const char *path, struct err *err)
{
    char folder[BLOB_PATH];
    const char *slash = strrchr(path, '/');
    if (!slash)
        str_copy(folder, sizeof(folder), ".");
    else if (str_format(folder, sizeof(folder), "%.*s", (int)(slash - path), path) < 0)
        return long_path(err);
    int fd = open(folder[0] ? folder : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return blob_errno(err, errno, "open", folder);
    int rc = fsync(fd) < 0 && errno != EINVAL ? blob_errno(err, errno, "sync", folder)
                                              : 0; /* EINVAL: not offered */
    close(fd);
    return rc;
}

/* A folder that was not there is made to stay: its own entry reaches the disk too. */
static int make_folder(const char *path, struct err *err)
{
    if (mkdir(path, 0775) == 0)
        return sync_folder_of(path, err);
    return errno == EEXIST ? 0 : blob_errno(err, errno, "make folder", path);
}

/* A new file of a name that nobody else has. */
static int open_tmp(char *path, size_t size, const char *volume, int *ret_fd, struct err *err)
{
    char id[JOB_ID];
    int rc = job_make_id(id);
    if (rc < 0)
        return err_set(err, rc, "no random numbers");
    if (str_format(path, size, "%s/tmp/put-%s", volume, id) < 0)
        return long_path(err);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0664);
    if (fd < 0)
        return blob_errno(err, errno, "write", path);
    *ret_fd = fd;
    return 0;
}

int blob_init(const char *volume, struct err *err)
{
    static const char *const names[] = {"", "/blobs", "/tmp", "/results"};
    char path[BLOB_PATH];
    int fd = -1, rc = 0;
    for (int i = 0; rc == 0 && i < 4; i++) {
        rc = str_format(path, sizeof(path), "%s%s", volume, names[i]) < 0 ? long_path(err)
                                                                          : make_folder(path, err);
    }
    if (rc == 0)
        rc = open_tmp(path, sizeof(path), volume, &fd, err);
    if (rc < 0)
        return err_wrap(err, "volume");
    if (write(fd, "x", 1) != 1)
        rc = blob_errno(err, errno, "write", path);
    close(fd);
    unlink(path);
    return rc < 0 ? err_wrap(err, "volume") : 0;
}

int blob_put_begin(struct blob_put *p, const char *volume, uint64_t max_bytes, struct err *err)
{
    *p = (struct blob_put){.fd = -1, .max_bytes = max_bytes};
    if (str_copy(p->volume, sizeof(p->volume), volume) < 0)
        return long_path(err);
    int rc = sha256_init(&p->hash);
    if (rc < 0)
        return err_set(err, rc, "no memory for a checksum");
    rc = open_tmp(p->tmp, sizeof(p->tmp), volume, &p->fd, err);
    if (rc < 0) {
        p->tmp[0] = 0;
        blob_put_abort(p);
    }
    return rc;
}

void blob_put_abort(struct blob_put *p)
{
    sha256_done(&p->hash);
    if (p->tmp[0]) {
        close(p->fd);
        unlink(p->tmp);
    }
    *p = (struct blob_put){.fd = -1};
}

static int write_all(int fd, const void *bytes, size_t n)
{
    const char *at = bytes;
    while (n > 0) {
        ssize_t k = write(fd, at, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -1;
        at += k;
        n -= (size_t)k;
    }
    return 0;
}

int blob_put_add(struct blob_put *p, const void *bytes, size_t n, struct err *err)
{
    char limit[32];
    int rc = 0;
    if (p->fd < 0)
        return err_set(err, ERR_INTERNAL, "the file was given up before");
    if (n > p->max_bytes - p->bytes)
        rc = err_set(err, ERR_TOOBIG, "larger than the limit of %s",
                     str_bytes(limit, sizeof(limit), p->max_bytes));
    else if (write_all(p->fd, bytes, n) < 0)
        rc = blob_errno(err, errno, "write", p->tmp);
    if (rc < 0) {
        blob_put_abort(p);
        return rc;
    }
    CRASH_POINT(blob_add);
    sha256_add(&p->hash, bytes, n);
    p->bytes += n;
    return 0;
}

int blob_publish(const char *tmp, const char *path, struct err *err)
{
    int fd = open(tmp, O_RDONLY | O_CLOEXEC), rc = 0;
    if (fd < 0)
        return errno == ENOENT ? err_set(err, ERR_IO, "%s is gone before it was whole; try again", tmp)
                               : blob_errno(err, errno, "open", tmp);
    CRASH_POINT(blob_sync);
    if (fsync(fd) < 0)
        rc = blob_errno(err, errno, "write", tmp);
    close(fd);
    CRASH_POINT(blob_rename);
    if (rc == 0 && rename(tmp, path) < 0)
        rc = errno == ENOENT ? err_set(err, ERR_IO, "rename to %s: %s is gone; try again", path, tmp)
                             : blob_errno(err, errno, "rename to", path);
    CRASH_POINT(blob_renamed);
    if (rc < 0)
        unlink(tmp);
    return rc < 0 ? rc : sync_folder_of(path, err);
}

int blob_put_end(struct blob_put *p, char key[BLOB_KEY], struct err *err)
{
    char hex[SHA256_HEX], path[BLOB_PATH];
    if (p->fd < 0)
        return err_set(err, ERR_INTERNAL, "the file was given up before");
    int rc = sha256_hex(&p->hash, hex);
    if (rc < 0)
        err_set(err, rc, "the checksum failed");
    if (rc == 0) {
        rc = str_format(path, sizeof(path), "%s/blobs/%.2s", p->volume, hex) < 0 ? long_path(err)
                                                                                 : make_folder(path, err);
    }
    if (rc == 0 && str_format(path, sizeof(path), "%s/blobs/%.2s/%s", p->volume, hex, hex) < 0)
        rc = long_path(err);
    if (rc == 0)
        rc = blob_publish(p->tmp, path, err);
    if (rc == 0) {
        close(p->fd);
        p->tmp[0] = 0;
        str_format(key, BLOB_KEY, "sha256:%s", hex);
    }
    blob_put_abort(p);
    return rc;
}

int blob_put_bytes(const char *volume, const void *bytes, size_t n, char key[BLOB_KEY], struct err *err)
{
    struct blob_put p;
    int rc = blob_put_begin(&p, volume, n, err);
    if (rc == 0)
        rc = blob_put_add(&p, bytes, n, err);
    return rc < 0 ? rc : blob_put_end(&p, key, err);
}

int blob_put_file(const char *volume, const char *path, uint64_t max_bytes, char key[BLOB_KEY],
                  struct err *err)
{
    struct blob_put p;
    char chunk[CHUNK];
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return blob_errno(err, errno, "read", path);
    int rc = blob_put_begin(&p, volume, max_bytes, err);
    while (rc == 0 && (n = read(fd, chunk, sizeof(chunk))) != 0) {
        if (n > 0)
            rc = blob_put_add(&p, chunk, (size_t)n, err);
        else if (errno != EINTR)
            rc = blob_errno(err, errno, "read", path);
    }
    if (rc == 0)
        rc = blob_put_end(&p, key, err);
    else
        blob_put_abort(&p);
    close(fd);
    return rc;
}

/* 0..63; 64: '=', 65: white space, -1: none of them. The URL alphabet counts too (RFC 4648, part 5). */
static int base64_value(unsigned char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    if (at)
        return (int)(at - digits);
    if (c == '-' || c == '_')
        return c == '-' ? 62 : 63;
    if (c == '=')
        return 64;
    return c && strchr(" \n\r\t", c) ? 65 : -1;
}

struct base64 {
    uint32_t bits;
    int n_bits;
    size_t n_digits, n_pad;
    unsigned char out[CHUNK];
    size_t n_out;
};

static int base64_flush(struct base64 *d, struct blob_put *p, struct err *err)
{
    int rc = d->n_out ? blob_put_add(p, d->out, d->n_out, err) : 0;
    d->n_out = 0;
    return rc;
}

static int base64_text(struct base64 *d, struct blob_put *p, const char *text, size_t len, struct err *err)
{
    for (size_t i = 0; i < len; i++) {
        int v = base64_value((unsigned char)text[i]);
        if (v == 65)
            continue;
        if (v < 0 || (v < 64 && d->n_pad) || (v == 64 && d->n_pad == 2))
            return err_set(err, ERR_MEDIA,
                           "not base64: character %zu is not of its alphabet or stands behind the end",
                           i + 1);
        if (v == 64) {
            d->n_pad++;
            continue;
        }
        d->n_digits++;
        d->bits = d->bits << 6 | (uint32_t)v;
        d->n_bits += 6;
        if (d->n_bits >= 8) {
            d->n_bits -= 8;
            d->out[d->n_out++] = (unsigned char)(d->bits >> d->n_bits);
        }
        if (d->n_out == sizeof(d->out)) {
            int rc = base64_flush(d, p, err);
            if (rc < 0)
                return rc;
        }
    }
    if (d->n_digits % 4 == 1 || (d->n_pad && (d->n_digits + d->n_pad) % 4 != 0))
        return err_set(err, ERR_MEDIA, "not base64: it ends in the middle of a group of four characters");
    return base64_flush(d, p, err);
}

int blob_put_base64(const char *volume, const char *text, size_t len, uint64_t max_bytes, char key[BLOB_KEY],
                    struct err *err)
{
    struct blob_put p;
    struct base64 d;
    memset(&d, 0, offsetof(struct base64, out));
    d.n_out = 0;
    int rc = blob_put_begin(&p, volume, max_bytes, err);
    if (rc == 0)
        rc = base64_text(&d, &p, text, len, err);
    if (rc == 0)
        return blob_put_end(&p, key, err);
    blob_put_abort(&p);
    return rc;
}

bool blob_key_ok(const char *key)
{
    return key && str_starts(key, "sha256:") && strspn(key + 7, "0123456789abcdef") == 64 && key[71] == 0;
}

int blob_path(const char *volume, const char *key, char *ret, size_t size, struct err *err)
{
    if (!blob_key_ok(key))
        return err_set(err, ERR_INVALID, "a key is sha256: and 64 digits of 0-9 a-f");
    if (str_format(ret, size, "%s/blobs/%.2s/%s", volume, key + 7, key + 7) < 0)
        return long_path(err);
    return 0;
}

int blob_stat(const char *volume, const char *key, uint64_t *ret_bytes, struct err *err)
{
    char path[BLOB_PATH];
    struct stat st;
    int rc = blob_path(volume, key, path, sizeof(path), err);
    if (rc < 0)
        return rc;
    if (stat(path, &st) < 0)
        return errno == ENOENT ? err_set(err, ERR_NOTFOUND, "%s is not on the volume: upload it first", key)
                               : blob_errno(err, errno, "read", path);
    if (ret_bytes)
        *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

int blob_open(const char *volume, const char *key, int *ret_fd, struct err *err)
{
    char path[BLOB_PATH];
    int rc = blob_stat(volume, key, NULL, err);
    if (rc == 0)
        rc = blob_path(volume, key, path, sizeof(path), err);
    if (rc < 0)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return blob_errno(err, errno, "read", path);
    *ret_fd = fd;
    return 0;
}

int blob_delete(const char *volume, const char *key, struct err *err)
{
    char path[BLOB_PATH];
    int rc = blob_path(volume, key, path, sizeof(path), err);
    if (rc == 0 && unlink(path) < 0 && errno != ENOENT)
        rc = blob_errno(err, errno, "delete", path);
    return rc;
}

static int result_folder(const char *volume, const char *job, char *ret, size_t size, struct err *err)
{
    if (!job_id_ok(job))
        return err_set(err, ERR_INVALID, "'%s' is not a job's id", job);
    return str_format(ret, size, "%s/results/%s", volume, job) < 0 ? long_path(err) : 0;
}

int blob_result_path(const char *volume, const char *job, int64_t attempt, const char *name, bool make,
                     char *ret, size_t size, struct err *err)
{
    char folder[BLOB_PATH];
    int rc = result_folder(volume, job, folder, sizeof(folder), err);
    if (rc == 0 && make)
        rc = make_folder(folder, err);
    if (rc == 0 && str_format(ret, size, "%s/%lld-%s", folder, (long long)attempt, name) < 0)
        rc = long_path(err);
    return rc;
}

int blob_publish_bytes(const char *path, const void *bytes, size_t n, struct err *err)
{
    char tmp[BLOB_PATH];
    if (str_format(tmp, sizeof(tmp), "%s.part", path) < 0)
        return long_path(err);
    int rc = 0, fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0664);
    if (fd < 0)
        return blob_errno(err, errno, "write", tmp);
    if (write_all(fd, bytes, n) < 0)
        rc = blob_errno(err, errno, "write", tmp);
    close(fd);
    if (rc == 0)
        return blob_publish(tmp, path, err);
    unlink(tmp);
    return rc;
}

/* Unlinks the files of a folder that were written before `before` (0: all). Returns how many went. */
static int clear_folder(const char *folder, time_t before)
{
    int n = 0;
    DIR *d = opendir(folder);
    struct dirent *e;
    while (d && (e = readdir(d)) != NULL) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            !S_ISREG(st.st_mode))
            continue;
        if (before == 0 || st.st_mtime < before)
            n += unlinkat(dirfd(d), e->d_name, 0) == 0;
    }
    if (d)
        closedir(d);
    return n;
}

int blob_delete_results(const char *volume, const char *job, struct err *err)
{
    char folder[BLOB_PATH];
    int rc = result_folder(volume, job, folder, sizeof(folder), err);
    if (rc < 0)
        return rc;
    clear_folder(folder, 0);
    CRASH_POINT(blob_remove);
    if (rmdir(folder) < 0 && errno != ENOENT)
        return blob_errno(err, errno, "delete", folder);
    return 0;
}

/* Ages are counted by the volume's clock, that of a file just written: this machine's may be days off, and would take
 * away what others are writing. */
int blob_sweep(const char *volume, int64_t max_age_s)
{
    char folder[BLOB_PATH], path[BLOB_PATH];
    struct stat st;
    int fd = -1;
    if (str_format(folder, sizeof(folder), "%s/tmp", volume) < 0 ||
        open_tmp(path, sizeof(path), volume, &fd, NULL) < 0)
        return 0;
    bool known = write(fd, "x", 1) == 1 && fstat(fd, &st) == 0;
    close(fd);
    unlink(path);
    return known ? clear_folder(folder, st.st_mtime - (time_t)max_age_s) : 0;
}
