#include "worker/media/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/media/image_in.h"
#include "worker/media/sandbox_wire.h"

struct child {
    pid_t pid; /* 0: none */
    int socket;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct child spare[2]; /* started ahead, for a job's picture and its sound; under lock */
static int deadline_ms = SANDBOX_SECONDS * 1000;

void sandbox_deadline(int ms)
{
    deadline_ms = ms;
}

/* ---- children ---- */

static int set_up(posix_spawn_file_actions_t *files, posix_spawnattr_t *attr, int socket)
{
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    int rc = posix_spawn_file_actions_addopen(files, 0, "/dev/null", O_RDWR, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(files, 0, 1);
#if !SANDBOX_WIRE_SANITIZED
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(files, 0, 2);
#endif
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(files, socket, SANDBOX_WIRE_SOCKET);
    if (rc == 0)
        rc = posix_spawnattr_setsigdefault(attr, &all);
    if (rc == 0)
        rc = posix_spawnattr_setsigmask(attr, &none);
    if (rc == 0) /* a group of its own (0): what is typed at the terminal does not reach it */
        rc = posix_spawnattr_setpgroup(attr, 0);
    if (rc == 0)
        rc = posix_spawnattr_setflags(attr,
                                      POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    return rc;
}

/* With an empty environment: what is secret in ours stays here. Only the way to the libraries is passed on.
 */
static int spawn(pid_t *ret, int socket)
{
    static char name[] = "troupe-media", word[] = SANDBOX_WORD;
    char *const words[] = {name, word, NULL};
    char libraries[4096];
    const char *given = getenv("LD_LIBRARY_PATH");
    bool has_path = given && str_format(libraries, sizeof libraries, "LD_LIBRARY_PATH=%s", given) == 0;
    char *const environment[] = {has_path ? libraries : NULL, NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    int rc = posix_spawn_file_actions_init(&files);
    if (rc != 0)
        return rc;
    rc = posix_spawnattr_init(&attr);
    if (rc == 0) {
        rc = set_up(&files, &attr, socket);
        if (rc == 0)
            rc = posix_spawn(ret, "/proc/self/exe", &files, &attr, words, environment);
        posix_spawnattr_destroy(&attr);
    }
    posix_spawn_file_actions_destroy(&files);
    return rc;
}

static int start(struct child *ret, struct err *err)
{
    int pair[2];
    pid_t pid = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(err, ERR_IO, "media: no socket for the decoder process: %s", strerror(errno));
    int rc = spawn(&pid, pair[1]);
    close(pair[1]);
    if (rc != 0) {
        close(pair[0]);
        return err_set(err, ERR_IO, "media: the decoder process does not start: %s", strerror(rc));
    }
    *ret = (struct child){pid, pair[0]};
    return 0;
}

static struct child take_spare(void)
{
    struct child c = {0};
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof spare / sizeof *spare && c.pid == 0; i++) {
        c = spare[i];
        spare[i] = (struct child){0};
    }
    pthread_mutex_unlock(&lock);
    return c;
}

void sandbox_warm(void)
{
    struct err err = {0};
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof spare / sizeof *spare; i++) {
        if (spare[i].pid == 0)
            start(&spare[i], &err); /* leaves it as it is on failure */
    }
    pthread_mutex_unlock(&lock);
}

static void drop(struct child *c)
{
    kill(c->pid, SIGKILL);
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    close(c->socket);
}

static bool send_request(const struct child *c, const struct sandbox_wire_request *q, int file, int result)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    const int fd[2] = {file, result};
    struct iovec part = {(void *)(uintptr_t)q, sizeof *q};
    struct msghdr m = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(h), fd, sizeof fd);
    ssize_t put;
    do
        put = sendmsg(c->socket, &m, MSG_NOSIGNAL);
    while (put < 0 && errno == EINTR);
    return put == (ssize_t)sizeof *q;
}

/* A child that has the request. The spare one may have died meanwhile: then a new one. */
static int engage(struct child *ret, const struct sandbox_wire_request *q, int file, int result,
                  struct err *err)
{
    struct child c = take_spare();
    if (c.pid != 0 && send_request(&c, q, file, result)) {
        *ret = c;
        return 0;
    }
    if (c.pid != 0)
        drop(&c);
    int rc = start(&c, err);
    if (rc < 0)
        return rc;
    if (!send_request(&c, q, file, result)) {
        drop(&c);
        return err_set(err, ERR_IO, "media: the decoder process takes no request");
    }
    *ret = c;
    return 0;
}

/* ---- the end of a child ---- */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* True with its status, false when it had to be killed. Without pidfd (old kernels) it looks every 2 ms. */
static bool wait_for(struct child *c, int *ret_status)
{
    int64_t end = now_ms() + deadline_ms, left;
    struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, c->pid, 0), .events = POLLIN};
    pid_t got = 0;
    while ((left = end - now_ms()) > 0) {
        poll(&p, 1, p.fd < 0 ? 2 : left > 1000 ? 1000 : (int)left);
        got = waitpid(c->pid, ret_status, WNOHANG);
        if (got != 0 && !(got < 0 && errno == EINTR))
            break;
    }
    if (p.fd >= 0)
        close(p.fd);
    if (got == c->pid)
        close(c->socket);
    else
        drop(c);
    return got == c->pid;
}

static int verdict(const char *what, int status, struct err *err)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFEXITED(status))
        return err_set(err, ERR_IO, "%s: the decoder process ended with status %d", what,
                       WEXITSTATUS(status));
    int sig = WTERMSIG(status);
    if (sig == SIGKILL || sig == SIGTERM || sig == SIGINT || sig == SIGHUP)
        return err_set(err, ERR_NOMEM,
                       "%s: the decoder was killed from outside (signal %d), perhaps for want of memory",
                       what, sig);
    if (sig == SIGXCPU)
        return err_set(err, ERR_MEDIA,
                       "%s: decoding this file takes too long: it is damaged or hostile; export it again",
                       what);
    return err_set(
        err, ERR_MEDIA,
        "%s: the decoder crashed on this file (signal %d): it is damaged or hostile; export it again "
        "with another program",
        what, sig);
}

/* ---- answers: foreign bytes ---- */

static bool is_whole(const void *data, size_t n)
{
    const char *p = data;
    return memchr(p, 0, n) != NULL && str_utf8_ok(p, strlen(p));
}

static int nonsense(const char *what, struct err *err)
{
    return err_set(
        err, ERR_MEDIA,
        "%s: the decoder gave no sensible answer for this file: it is damaged or hostile; export it "
        "again with another program",
        what);
}

/* A failure must be one that decoders have: none of those that mean something to the queue. */
static int failure(const char *what, const struct sandbox_wire_reply *r, struct err *err)
{
    static const int known[] = {ERR_MEDIA, ERR_INVALID, ERR_TOOBIG, ERR_NOMEM, ERR_IO, ERR_UNSUPPORTED};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (r->code == known[i] && is_whole(r->text, sizeof r->text) && r->text[0])
            return err_set(err, r->code, "%s", r->text);
    }
    return nonsense(what, err);
}

static int read_at(int fd, void *dst, size_t n, off_t at)
{
    char *p = dst;
    while (n > 0) {
        ssize_t got = pread(fd, p, n, at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return ERR_IO;
        p += got;
        at += got;
        n -= (size_t)got;
    }
    return 0;
}

/* The data behind the header: n bytes, neither more nor less. */
static int take_data(const char *what, int result, size_t n, void **ret, struct err *err)
{
    struct stat st;
    if (fstat(result, &st) < 0 || (uint64_t)st.st_size != sizeof(struct sandbox_wire_reply) + (uint64_t)n)
        return nonsense(what, err);
    void *data = mem_alloc(n);
    if (!data)
        return err_set(err, ERR_NOMEM, "%s: no memory for what was decoded", what);
    if (read_at(result, data, n, sizeof(struct sandbox_wire_reply)) < 0) {
        mem_free(data);
        return err_set(err, ERR_IO, "%s: the result cannot be read", what);
    }
    *ret = data;
    return 0;
}

static int decode_with(const char *what, struct sandbox_wire_request *q, int file, int result,
                       struct sandbox_wire_reply *ret, struct err *err)
{
    struct child c = {0};
    int status = 0;
    q->parent = getpid();
    int rc = engage(&c, q, file, result, err);
    if (rc < 0)
        return rc;
    if (!wait_for(&c, &status))
        return err_set(
            err, ERR_MEDIA,
            "%s: decoding this file takes longer than %d s: it is damaged or hostile; export it again", what,
            deadline_ms / 1000);
    if ((rc = verdict(what, status, err)) < 0)
        return rc;
    if (read_at(result, ret, sizeof *ret, 0) < 0 || ret->magic != SANDBOX_WIRE_MAGIC)
        return nonsense(what, err);
    return ret->code != 0 ? failure(what, ret, err) : 0;
}

static int open_result(const char *what, int *ret, struct err *err)
{
    int fd = memfd_create("media", MFD_CLOEXEC);
    if (fd < 0)
        return err_set(err, ERR_IO, "%s: no memory file: %s", what, strerror(errno));
    *ret = fd;
    return 0;
}

int sandbox_image_fd(int fd, bool turn, struct image *ret, struct err *err)
{
    struct sandbox_wire_request q = {.kind = SANDBOX_WIRE_IMAGE, .turn = turn};
    struct sandbox_wire_reply r;
    void *pixels = NULL;
    int result = -1;
    int rc = open_result("image", &result, err);
    if (rc < 0)
        return rc;
    rc = decode_with("image", &q, fd, result, &r, err);
    sandbox_warm();
    if (rc == 0 && (r.width < IMAGE_IN_MIN_SIDE || r.height < IMAGE_IN_MIN_SIDE ||
                    r.width > IMAGE_IN_MAX_PIXELS / r.height))
        rc = nonsense("image", err);
    if (rc == 0)
        rc = take_data("image", result, (size_t)r.width * (size_t)r.height * 3, &pixels, err);
    close(result);
    if (rc == 0)
        *ret = (struct image){pixels, r.width, r.height};
    return rc;
}

static bool is_finite(const float *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(p[i]))
            return false;
    }
    return true;
}

int sandbox_audio_fd(int fd, const struct audio_limit *limit, struct sound *ret, struct err *err)
{
    struct sandbox_wire_request q = {
        .kind = SANDBOX_WIRE_AUDIO, .min_s = limit->min_s, .max_s = limit->max_s};
    struct sandbox_wire_reply r;
    void *samples = NULL;
    int result = -1;
    int rc = open_result("audio", &result, err);
    if (rc < 0)
        return rc;
    rc = decode_with("audio", &q, fd, result, &r, err);
    sandbox_warm();
    if (rc == 0 &&
        (r.channels < 1 || r.channels > 2 || r.rate < 1 || r.n < 1 || (double)r.n > limit->max_s * r.rate ||
         (double)r.n < limit->min_s * r.rate || r.n > INT32_MAX))
        rc = nonsense("audio", err);
    if (rc == 0)
        rc = take_data("audio", result, (size_t)r.n * (size_t)r.channels * sizeof(float), &samples, err);
    close(result);
    if (rc == 0 && !is_finite(samples, r.n * r.channels)) {
        mem_free(samples);
        rc = nonsense("audio", err);
    }
    if (rc == 0)
        *ret = (struct sound){samples, r.n, r.channels, r.rate};
    return rc;
}

int sandbox_image(const char *path, bool turn, struct image *ret, struct err *err)
{
    int fd;
    int rc = media_open("image", path, &fd, err);
    if (rc < 0)
        return rc;
    rc = sandbox_image_fd(fd, turn, ret, err);
    close(fd);
    return rc;
}

int sandbox_audio(const char *path, const struct audio_limit *limit, struct sound *ret, struct err *err)
{
    int fd;
    int rc = media_open("audio", path, &fd, err);
    if (rc < 0)
        return rc;
    rc = sandbox_audio_fd(fd, limit, ret, err);
    close(fd);
    return rc;
}
