#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef HAVE_SECCOMP
#include <seccomp.h>
#endif
#include <signal.h>

#include "common/str.h"
#include "worker/media/image_in.h"
#include "worker/media/sandbox.h"
#include "worker/media/sandbox_wire.h"

/* ---- what it gives up ---- */

static void limit(int what, rlim_t most)
{
    const struct rlimit r = {most, most};
    setrlimit(what, &r);
}

#if defined(HAVE_SECCOMP) && !SANDBOX_WIRE_SANITIZED
/* Descriptors it has, memory (never executable), time, and the end of the process. */
static int allow(scmp_filter_ctx f)
{
    static const int call[] = {
        SCMP_SYS(read),
        SCMP_SYS(pread64),
        SCMP_SYS(readv),
        SCMP_SYS(write),
        SCMP_SYS(pwrite64),
        SCMP_SYS(writev),
        SCMP_SYS(lseek),
        SCMP_SYS(fstat),
        SCMP_SYS(close),
        SCMP_SYS(munmap),
        SCMP_SYS(mremap),
        SCMP_SYS(brk),
        SCMP_SYS(madvise),
        SCMP_SYS(futex),
        SCMP_SYS(exit),
        SCMP_SYS(exit_group),
        SCMP_SYS(rt_sigreturn),
        SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(rt_sigaction),
        SCMP_SYS(sigaltstack),
        SCMP_SYS(clock_gettime),
        SCMP_SYS(gettimeofday),
        SCMP_SYS(time),
        SCMP_SYS(getpid),
        SCMP_SYS(gettid),
        SCMP_SYS(getrandom),
        SCMP_SYS(sched_getaffinity),
        SCMP_SYS(sched_yield),
        SCMP_SYS(restart_syscall),
        SCMP_SYS(sysinfo),
        SCMP_SYS(getcpu),
    };
    const struct scmp_arg_cmp not_executable = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    int rc = 0;
    for (size_t i = 0; i < sizeof call / sizeof *call && rc == 0; i++)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, call[i], 0);
    if (rc == 0)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, not_executable);
    if (rc == 0)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, not_executable);
    return rc;
}

/* What a library may try in passing, and lives without. newfstatat: how the C library asks about a
 * descriptor. */
static int refuse(scmp_filter_ctx f)
{
    static const int call[] = {
        SCMP_SYS(open),  SCMP_SYS(openat),     SCMP_SYS(access),    SCMP_SYS(faccessat), SCMP_SYS(stat),
        SCMP_SYS(lstat), SCMP_SYS(newfstatat), SCMP_SYS(statx),     SCMP_SYS(readlink),  SCMP_SYS(readlinkat),
        SCMP_SYS(ioctl), SCMP_SYS(uname),      SCMP_SYS(prlimit64),
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof call / sizeof *call && rc == 0; i++) {
        if (call[i] != SCMP_SYS(newfstatat))
            rc = seccomp_rule_add(f, SCMP_ACT_ERRNO(EACCES), call[i], 0);
    }
    /* by descriptor only: flag AT_EMPTY_PATH. A path beside it would still name no more than sizes and dates.
     */
    if (rc == 0)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
                              SCMP_A3(SCMP_CMP_MASKED_EQ, 0x1000, 0x1000));
    return rc;
}

static bool filter(void)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int rc = f ? allow(f) : -ENOMEM;
    if (rc == 0)
        rc = refuse(f);
    if (rc == 0)
        rc = seccomp_load(f);
    seccomp_release(f);
    return rc == 0;
}

bool sandbox_is_filtered(void)
{
    /* no filter is set by this: the kernel that knows filters stumbles over the address */
    return prctl(PR_SET_SECCOMP, 2 /* SECCOMP_MODE_FILTER */, NULL) < 0 && errno == EFAULT;
}
#else
static bool filter(void)
{
    return false;
}

bool sandbox_is_filtered(void)
{
    return false;
}
#endif

bool sandbox_child_enter(void)
{
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, 300);
    limit(RLIMIT_FSIZE, (rlim_t)4 << 30); /* of the result: there is no other file */
    if (!SANDBOX_WIRE_SANITIZED) {
        limit(RLIMIT_NOFILE, 8);
        limit(RLIMIT_AS, (rlim_t)3 << 30);
    }
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return filter();
}

/* ---- its one request ---- */

/* 1: a request and its two descriptors; 0: the parent is gone or talks nonsense. */
static int receive(struct sandbox_wire_request *q, int fd[2])
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec part = {q, sizeof *q};
    struct msghdr m = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got;
    do
        got = recvmsg(SANDBOX_WIRE_SOCKET, &m, 0);
    while (got < 0 && errno == EINTR);
    const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (got != (ssize_t)sizeof *q || !c || c->cmsg_type != SCM_RIGHTS ||
        c->cmsg_len != CMSG_LEN(2 * sizeof(int)))
        return 0;
    memcpy(fd, CMSG_DATA(c), 2 * sizeof(int));
    return 1;
}

static bool write_all(int fd, const void *data, size_t n)
{
    const char *p = data;
    while (n > 0) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno != EINTR)
            return false;
        p += put > 0 ? put : 0;
        n -= put > 0 ? (size_t)put : 0;
    }
    return true;
}

static bool answer(const struct sandbox_wire_request *q, const int fd[2])
{
    struct sandbox_wire_reply r = {.magic = SANDBOX_WIRE_MAGIC};
    struct err err = {0};
    struct image im = {0};
    struct sound s = {0};
    const void *data = NULL;
    size_t n = 0;
    if (q->kind == SANDBOX_WIRE_IMAGE) {
        r.code = image_in_fd(fd[0], q->turn, &im, &err);
        data = im.pixels;
        n = (size_t)im.width * (size_t)im.height * 3;
    } else {
        const struct audio_limit l = {q->min_s, q->max_s};
        r.code = audio_in_fd(fd[0], &l, &s, &err);
        data = s.samples;
        n = (size_t)s.n * (size_t)s.channels * sizeof *s.samples;
    }
    r.width = im.width;
    r.height = im.height;
    r.channels = s.channels;
    r.rate = s.rate;
    r.n = s.n;
    memcpy(r.text, err.text, sizeof r.text);
    bool done = write_all(fd[1], &r, sizeof r) && (r.code < 0 || write_all(fd[1], data, n));
    image_done(&im);
    sound_done(&s);
    return done;
}

/* Whatever the parent's libraries left open over an exec. */
static void close_others(void)
{
    if (syscall(SYS_close_range, SANDBOX_WIRE_SOCKET + 1, ~0u, 0) == 0)
        return;
    for (int fd = SANDBOX_WIRE_SOCKET + 1; fd < 4096; fd++) /* a kernel before 5.9 */
        close(fd);
}

int sandbox_child_main(void)
{
    struct sandbox_wire_request q;
    int fd[2];
    close_others();
    if (!receive(&q, fd))
        return 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != q.parent)
        return 0;
    sandbox_child_enter();
    _exit(answer(&q, fd)
              ? 0
              : 1); /* no exit handlers: hundred libraries have them, and they may do what is forbidden */
}
