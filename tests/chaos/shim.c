/* shim.c -- a disk and a network that misbehave on purpose: preloaded (LD_PRELOAD) under the real programs.
 *
 *     CHAOS_SHIM="op=write path=*.mp4.part nth=3 do=ENOSPC;op=fsync path=*blobs* count=1000 do=sleep:300"
 *
 * Rules are separated by ';', their words by spaces:
 *     op      open, write, fsync, rename, or send (a write to a socket)
 *     path    fnmatch pattern of the file's (rename: the new) name; for send: text that the bytes contain. Default: all
 *     nth     the first call that is hit (1)        count   how many from there on (1)
 *     do      EIO, ENOSPC, EROFS, ... the call fails    short: half of the bytes are written
 *             sleep:MS: it takes longer                 kill: the call is made, then the process is killed
 *             lose: the bytes are sent, the answer is read and thrown away, and the connection breaks
 * CHAOS_SYNC_LOG=FILE: a line "PATH BYTES" for each sync of a file that went well: what a power cut would leave.
 * CHAOS_CLOCK=SECONDS: the wall clock is so much ahead (or behind, < 0); the monotonic one is not.
 * Each hit says so on standard error: "chaos shim OP ACTION NAME".
 */
#undef _FILE_OFFSET_BITS /* open and open64 by their own names */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
enum { RULES = 8, PATH = 1024, FDS = 1024 };

enum act { FAIL, SHORT, SLEEP, KILL, LOSE };

struct rule {
    char op[12], path[200];
    long nth, count;
    enum act act;
    int number; /* errno, or milliseconds */
    atomic_long seen;
};

static struct rule rules[RULES];
static int n_rules;
static char sync_log[PATH]; /* a copy: redis-server writes over its environment */
static long clock_ahead;
static atomic_bool lost[FDS]; /* sockets whose next answer is thrown away */

/* ---- rules ---- */

static int errno_of(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } all[] = {{"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EROFS", EROFS},
               {"EDQUOT", EDQUOT}, {"EMFILE", EMFILE}, {"EACCES", EACCES}};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (strcmp(all[i].name, name) == 0)
            return all[i].number;
    return 0;
}

static void say(const char *line)
{
    syscall(SYS_write, 2, line, strlen(line));
}

static void bad(const char *what)
{
    say("CHAOS_SHIM is not understood: ");
    say(what);
    say("\n");
    _exit(2);
}

static void set_word(struct rule *r, const char *name, const char *value)
{
    if (strcmp(name, "op") == 0)
        snprintf(r->op, sizeof(r->op), "%s", value);
    else if (strcmp(name, "path") == 0)
        snprintf(r->path, sizeof(r->path), "%s", value);
    else if (strcmp(name, "nth") == 0)
        r->nth = strtol(value, NULL, 10);
    else if (strcmp(name, "count") == 0)
        r->count = strtol(value, NULL, 10);
    else if (strcmp(name, "do") == 0 && strcmp(value, "short") == 0)
        r->act = SHORT;
    else if (strcmp(name, "do") == 0 && strcmp(value, "kill") == 0)
        r->act = KILL;
    else if (strcmp(name, "do") == 0 && strcmp(value, "lose") == 0)
        r->act = LOSE;
    else if (strcmp(name, "do") == 0 && strncmp(value, "sleep:", 6) == 0) {
        r->act = SLEEP;
        r->number = (int)strtol(value + 6, NULL, 10);
    } else if (strcmp(name, "do") == 0 && errno_of(value))
        r->number = errno_of(value);
    else
        bad(name);
}

__attribute__((constructor)) static void read_rules(void)
{
    static char text[2000];
    char *more = NULL, *inner = NULL;
    const char *all = getenv("CHAOS_SHIM"), *ahead = getenv("CHAOS_CLOCK"), *log = getenv("CHAOS_SYNC_LOG");
    snprintf(sync_log, sizeof(sync_log), "%s", log ? log : "");
    clock_ahead = ahead ? strtol(ahead, NULL, 10) : 0;
    if (!all)
        return;
    snprintf(text, sizeof(text), "%s", all);
    for (char *rule = strtok_r(text, ";", &more); rule; rule = strtok_r(NULL, ";", &more)) {
        if (n_rules == RULES)
            bad("too many rules");
        struct rule *r = &rules[n_rules];
        *r = (struct rule){.nth = 1, .count = 1};
        for (char *word = strtok_r(rule, " ", &inner); word; word = strtok_r(NULL, " ", &inner)) {
            char *value = strchr(word, '=');
            if (!value)
                bad(word);
            *value = 0;
            set_word(r, word, value + 1);
        }
        n_rules += r->op[0] != 0;
    }
}

static void tell(const struct rule *r, const char *name)
{
    static const char *const acts[] = {"fail", "short", "sleep", "kill", "lose"};
    char line[PATH + 64];
    snprintf(line, sizeof(line), "chaos shim %s %s %s\n", r->op, acts[r->act], name);
    say(line);
}

/* The rule that this call hits. text: for sockets what is sent (name NULL), else NULL. */
static struct rule *hit(const char *op, const char *name, const void *text, size_t n)
{
    for (int i = 0; i < n_rules; i++) {
        struct rule *r = &rules[i];
        bool ours = strcmp(r->op, op) == 0;
        if (ours && r->path[0])
            ours = name ? fnmatch(r->path, name, 0) == 0 : memmem(text, n, r->path, strlen(r->path)) != NULL;
        if (!ours)
            continue;
        long seen = atomic_fetch_add(&r->seen, 1) + 1;
        if (seen < r->nth || seen >= r->nth + r->count)
            continue;
        tell(r, name ? name : r->path);
        if (r->act == SLEEP)
            syscall(SYS_nanosleep, &(struct timespec){r->number / 1000, r->number % 1000 * 1000000L}, NULL);
        return r;
    }
    return NULL;
}

/* 1: the call must fail (errno is set); 0: go on. */
static int refused(const char *op, const char *name)
{
    struct rule *r = n_rules ? hit(op, name, NULL, 0) : NULL;
    if (!r || r->act != FAIL)
        return 0;
    errno = r->number;
    return 1;
}

static const char *name_of(int fd, char path[PATH])
{
    char link[40];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH - 1);
    path[n < 0 ? 0 : n] = 0;
    return path;
}

/* ---- files ---- */

static int open_real(int folder, const char *path, int flags, mode_t mode)
{
    return refused("open", path) ? -1 : (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE_OF(last)                                \
    mode_t mode = 0;                                 \
    if (flags & (O_CREAT | __O_TMPFILE)) {           \
        va_list more;                                \
        va_start(more, last);                        \
        mode = va_arg(more, mode_t);                 \
        va_end(more);                                \
    }

EXPORT int open(const char *path, int flags, ...)
{
    MODE_OF(flags)
    return open_real(AT_FDCWD, path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...)
{
    MODE_OF(flags)
    return open_real(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

EXPORT int openat(int folder, const char *path, int flags, ...)
{
    MODE_OF(flags)
    return open_real(folder, path, flags, mode);
}

EXPORT int rename(const char *from, const char *to)
{
    struct rule *r = n_rules ? hit("rename", to, NULL, 0) : NULL;
    if (r && r->act == FAIL) {
        errno = r->number;
        return -1;
    }
    int rc = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (r && r->act == KILL)
        raise(SIGKILL);
    return rc;
}

/* What is on the disk for sure: the size from before the sync. */
static void log_sync(const char *path, long long bytes)
{
    char line[PATH + 32];
    int n = snprintf(line, sizeof(line), "%s %lld\n", path, bytes);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, sync_log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, n);
        syscall(SYS_close, fd);
    }
}

static int sync_real(int fd, long call)
{
    char path[PATH];
    struct stat st = {0};
    if ((n_rules && refused("fsync", name_of(fd, path))))
        return -1;
    if (sync_log[0])
        fstat(fd, &st);
    int rc = (int)syscall(call, fd);
    if (rc == 0 && sync_log[0] && S_ISREG(st.st_mode))
        log_sync(name_of(fd, path), (long long)st.st_size);
    return rc;
}

EXPORT int fsync(int fd)
{
    return sync_real(fd, SYS_fsync);
}

EXPORT int fdatasync(int fd)
{
    return sync_real(fd, SYS_fdatasync);
}

/* ---- bytes: files and sockets ---- */

static void throw_answer_away(int fd)
{
    char bytes[4096];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 1000) > 0)
        syscall(SYS_recvfrom, fd, bytes, sizeof(bytes), MSG_DONTWAIT, NULL, NULL);
    shutdown(fd, SHUT_RDWR);
}

static bool take_lost(int fd)
{
    return fd >= 0 && fd < FDS && atomic_exchange(&lost[fd], false);
}

/* Before a write: -1 with errno when it fails; else how many bytes are to be written. *ret: the rule that was hit. */
static ssize_t before_write(int fd, const void *bytes, size_t n, struct rule **ret)
{
    char path[PATH];
    *ret = NULL;
    if (!n_rules || fd == 2)
        return (ssize_t)n;
    name_of(fd, path);
    bool socket = strncmp(path, "socket:", 7) == 0;
    *ret = hit(socket ? "send" : "write", socket ? NULL : path, bytes, n);
    if (*ret && (*ret)->act == FAIL) {
        errno = (*ret)->number;
        return -1;
    }
    return *ret && (*ret)->act == SHORT && n > 1 ? (ssize_t)(n / 2) : (ssize_t)n;
}

static void after_write(int fd, const struct rule *r)
{
    if (r && r->act == KILL)
        raise(SIGKILL);
    if (r && r->act == LOSE && fd < FDS)
        atomic_store(&lost[fd], true);
}

EXPORT ssize_t write(int fd, const void *bytes, size_t n)
{
    struct rule *r;
    ssize_t k = before_write(fd, bytes, n, &r);
    if (k < 0)
        return k;
    k = syscall(SYS_write, fd, bytes, k);
    after_write(fd, r);
    return k;
}

EXPORT ssize_t send(int fd, const void *bytes, size_t n, int flags)
{
    struct rule *r;
    ssize_t k = before_write(fd, bytes, n, &r);
    if (k < 0)
        return k;
    k = syscall(SYS_sendto, fd, bytes, k, flags, NULL, 0);
    after_write(fd, r);
    return k;
}

EXPORT ssize_t read(int fd, void *bytes, size_t n)
{
    if (take_lost(fd)) {
        throw_answer_away(fd);
        errno = ECONNRESET;
        return -1;
    }
    return syscall(SYS_read, fd, bytes, n);
}

EXPORT ssize_t recv(int fd, void *bytes, size_t n, int flags)
{
    if (take_lost(fd)) {
        throw_answer_away(fd);
        errno = ECONNRESET;
        return -1;
    }
    return syscall(SYS_recvfrom, fd, bytes, n, flags, NULL, NULL);
}

/* ---- the wall clock ---- */

EXPORT int clock_gettime(clockid_t id, struct timespec *ret)
{
    int rc = (int)syscall(SYS_clock_gettime, id, ret);
    if (rc == 0 && id == CLOCK_REALTIME)
        ret->tv_sec += clock_ahead;
    return rc;
}

EXPORT time_t time(time_t *ret)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (ret)
        *ret = t.tv_sec;
    return t.tv_sec;
}

EXPORT int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    ret->tv_sec = t.tv_sec;
    ret->tv_usec = t.tv_nsec / 1000;
    return 0;
}
