#include "cli/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"

#define MAX_CHILDREN 34
#define MAX_WORDS 24
#define MAX_ENV 80
#define EXIT_RECYCLE 75 /* of a worker that wants to be started again */
#define EXIT_FAILED 1   /* of one that could not start */
#define EXIT_USAGE 2    /* of one whose settings are wrong */
#define SETTLED_S 60

struct child {
    char title[32];
    char program[1024];
    char *argv[MAX_WORDS]; /* owned texts */
    int argc;
    char log[1100]; /* "": standard error */
    bool worker;
    pid_t pid;  /* 0: not running */
    int status; /* of its end, as waitpid tells it */
    int restarts;
    int64_t started_us, again_us; /* when to start it again */
};

struct cluster {
    char volume[1024], redis_dir[1100], run_dir[64], socket[96], log_dir[1100], port_file[128];
    char url[64], page[64];
    int lock; /* held: nobody else starts a Redis in this folder */
    char *env[MAX_ENV]; /* owned texts, NULL at the end */
    int n_env;
    struct child child[MAX_CHILDREN];
    int n;
    pthread_t thread;
    bool watching, container, once;
    int start_s; /* how long a part may take to come up */
    unsigned parts;
    atomic_bool stopping;
    atomic_int deaths, failed; /* failed: number of the child, from 1 */
};

/* ---- programs and folders ---- */

/* Beside this program (installed), in the sibling folders of a build tree, or on the PATH. */
int cluster_find(const char *name, const char *package, char *ret, size_t size, struct err *err)
{
    static const char *const beside[] = {"", "../dispatcher/", "../worker/"};
    char self[1024];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    for (size_t i = 0; slash && i < sizeof beside / sizeof *beside; i++) {
        if (str_format(ret, size, "%.*s/%s%s", (int)(slash - self), self, beside[i], name) == 0 &&
            access(ret, X_OK) == 0)
            return 0;
    }
    const char *path = getenv("PATH");
    for (const char *p = path ? path : ""; *p;) {
        size_t k = strcspn(p, ":");
        if (str_format(ret, size, "%.*s/%s", (int)k, p, name) == 0 && access(ret, X_OK) == 0)
            return 0;
        p += k + (p[k] == ':');
    }
    return err_set(err, ERR_NOTFOUND, "%s is not installed: %s", name, package);
}

static int make_dir(const char *path, struct err *err)
{
    if (mkdir(path, 0755) == 0 || errno == EEXIST)
        return 0;
    return err_set(err, errno == ENOSPC ? ERR_NOSPACE : ERR_IO,
                   "%s cannot be made: %s: name another folder with --volume", path, strerror(errno));
}

int cluster_parts(const char *text, unsigned *ret, struct err *err)
{
    static const char *const names[] = {"redis", "dispatcher", "workers"};
    unsigned parts = 0;
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ","), i = 0;
        while (i < 3 && (strlen(names[i]) != n || strncmp(p, names[i], n) != 0))
            i++;
        if (i == 3)
            return err_set(err, ERR_INVALID, "--parts: %.40s is none of redis, dispatcher, workers", p);
        parts |= 1U << i;
        p += n + (p[n] == ',');
    }
    if (!parts)
        return err_set(err, ERR_INVALID, "--parts: name some of redis, dispatcher, workers");
    *ret = parts;
    return 0;
}

/* Two servers that append to one file would ruin it. */
static int lock_dir(struct cluster *k, const char *dir, struct err *err)
{
    char path[1200];
    if (str_path(path, sizeof path, dir, "troupe.lock") < 0)
        return err_set(err, ERR_TOOBIG, "--volume: the path is too long");
    k->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (k->lock < 0)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    if (flock(k->lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) /* a network volume may have no locks */
        return 0;
    return err_set(err, ERR_CONFLICT,
                   "%s is in use by another `troupe up`: stop it, or name another folder with --volume", dir);
}

/* Where Redis' data and the logs lie. */
static int make_state(struct cluster *k, const char *state, struct err *err)
{
    char redis[1100];
    int rc = state == k->volume ? 0 : make_dir(state, err);
    if (rc < 0)
        return rc;
    if (str_path(redis, sizeof redis, state, "redis") < 0 || str_copy(k->redis_dir, sizeof k->redis_dir, redis) < 0 ||
        str_path(k->log_dir, sizeof k->log_dir, state, "log") < 0)
        return err_set(err, ERR_TOOBIG, "--state: the path is too long");
    if (k->container)
        k->log_dir[0] = 0;
    else if ((rc = make_dir(k->log_dir, err)) < 0)
        return rc;
    if (!(k->parts & CLUSTER_REDIS))
        return 0;
    rc = make_dir(redis, err);
    return rc < 0 ? rc : lock_dir(k, redis, err);
}

static int make_dirs(struct cluster *k, const struct cluster_options *o, struct err *err)
{
    int rc = make_dir(o->volume, err);
    if (rc < 0)
        return rc;
    char *full = realpath(o->volume, NULL);
    rc = full ? str_copy(k->volume, sizeof k->volume, full) : ERR_IO;
    mem_free(full);
    if (rc < 0)
        return err_set(err, ERR_TOOBIG, "--volume: the path is too long");
    if ((rc = make_state(k, o->state ? o->state : k->volume, err)) < 0)
        return rc;
    str_copy(k->run_dir, sizeof k->run_dir, "/tmp/troupe-XXXXXX");
    if (!mkdtemp(k->run_dir)) {
        k->run_dir[0] = 0;
        return err_set(err, ERR_IO, "/tmp: %s", strerror(errno));
    }
    str_path(k->socket, sizeof k->socket, k->run_dir, "redis.sock");
    str_path(k->port_file, sizeof k->port_file, k->run_dir, "port");
    return 0;
}

/* ---- environment of the children ---- */

static void add_env(void *arg, const char *name, const char *value)
{
    struct cluster *k = arg;
    char text[CONF_TEXT_MAX + 80];
    str_format(text, sizeof text, "%s=%s", name, value);
    size_t head = strlen(name) + 1;
    for (int i = 0; i < k->n_env; i++) {
        if (strncmp(k->env[i], text, head) == 0) {
            mem_free(k->env[i]);
            k->env[i] = mem_strdup(text);
            return;
        }
    }
    if (k->n_env < MAX_ENV - 1)
        k->env[k->n_env++] = mem_strdup(text);
}

static void make_env(struct cluster *k, struct cli *c)
{
    static const char *const keep[] = {"PATH",
                                       "HOME",
                                       "LANG",
                                       "LC_ALL",
                                       "TZ",
                                       "LD_LIBRARY_PATH",
                                       "OMP_NUM_THREADS",
                                       "OMP_WAIT_POLICY",
                                       "ASAN_OPTIONS",
                                       "UBSAN_OPTIONS",
                                       "LSAN_OPTIONS",
                                       "CUDA_VISIBLE_DEVICES",
                                       "TROUPE_CUDA_MODULE"};
    char redis[128];
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
        const char *v = getenv(keep[i]);
        if (v && strlen(v) < CONF_TEXT_MAX)
            add_env(k, keep[i], v);
    }
    for (char **e = environ; *e; e++) { /* settings of the programs below, which this one does not know */
        char name[64];
        size_t n = strcspn(*e, "=");
        if (strncmp(*e, "TROUPE_", 7) == 0 && n < sizeof name && strlen(*e) < CONF_TEXT_MAX) {
            str_format(name, sizeof name, "%.*s", (int)n, *e);
            add_env(k, name, *e + n + 1);
        }
    }
    conf_each(&c->conf, CONF_ALL, add_env, k);
    str_format(redis, sizeof redis, "unix://%s", k->socket);
    if (k->parts & CLUSTER_REDIS)
        add_env(k, "TROUPE_REDIS", redis);
    add_env(k, "TROUPE_VOLUME", k->volume);
}

/* ---- children ---- */

static void child_word(struct child *ch, const char *word)
{
    if (ch->argc < MAX_WORDS - 1)
        ch->argv[ch->argc++] = mem_strdup(word);
}

static struct child *child_new(struct cluster *k, const char *title, const char *program)
{
    struct child *ch = &k->child[k->n++];
    str_copy(ch->title, sizeof ch->title, title);
    str_copy(ch->program, sizeof ch->program, program);
    if (!k->container)
        str_format(ch->log, sizeof ch->log, "%s/%s.log", k->log_dir, title);
    child_word(ch, program);
    return ch;
}

/* In the child: only async-signal-safe calls. */
static void child_main(const struct cluster *k, const struct child *ch, int log_fd, pid_t parent)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    int null_fd = open("/dev/null", O_RDONLY);
    dup2(null_fd, 0);
    dup2(log_fd, 1);
    dup2(log_fd, 2);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL); /* what came in between counts now */
    execve(ch->program, ch->argv, k->env);
    _exit(127);
}

static int child_start(const struct cluster *k, struct child *ch, struct err *err)
{
    int fd = ch->log[0] ? open(ch->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)
                        : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return err_set(err, ERR_IO, "%s: %s", ch->log[0] ? ch->log : "standard error", strerror(errno));
    sigset_t all, before; /* a stop that comes before the child has its own handlers would be lost in ours */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        child_main(k, ch, fd, parent);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(fd);
    if (pid < 0)
        return err_set(err, ERR_NOMEM, "%s cannot be started: %s", ch->title, strerror(errno));
    ch->pid = pid;
    ch->started_us = clock_us();
    return 0;
}

static bool child_ended(struct child *ch)
{
    if (ch->pid > 0 && waitpid(ch->pid, &ch->status, WNOHANG) == ch->pid)
        ch->pid = 0;
    return ch->pid == 0;
}

/* How long to wait before it is started again. One that had worked for a while begins anew. */
static int64_t child_pause(struct child *ch)
{
    if (clock_us() - ch->started_us > SETTLED_S * CLOCK_S)
        ch->restarts = 0;
    if (ch->restarts == 0 && WIFEXITED(ch->status) && WEXITSTATUS(ch->status) == EXIT_RECYCLE)
        return 0;
    int wait_s = 1 << (ch->restarts > 5 ? 5 : ch->restarts);
    return (wait_s > 30 ? 30 : wait_s) * CLOCK_S;
}

/* The first process of a container inherits what others leave behind. */
static void reap_orphans(const struct cluster *k)
{
    siginfo_t got = {0};
    if (getpid() != 1 || waitid(P_ALL, 0, &got, WEXITED | WNOHANG | WNOWAIT) < 0 || got.si_pid <= 0)
        return;
    for (int i = 0; i < k->n; i++) {
        if (k->child[i].pid == got.si_pid)
            return;
    }
    waitpid(got.si_pid, NULL, WNOHANG);
}

/* Workers and dispatcher first: they give jobs back to a Redis that is still there. */
static void stop_range(struct cluster *k, int from, int to)
{
    for (int i = from; i < to; i++) {
        if (k->child[i].pid > 0)
            kill(k->child[i].pid, SIGTERM);
    }
    for (int64_t end = clock_us() + 10 * CLOCK_S; clock_us() < end;) {
        bool left = false;
        for (int i = from; i < to; i++)
            left |= !child_ended(&k->child[i]);
        if (!left)
            return;
        clock_sleep_us(5 * CLOCK_MS);
    }
    for (int i = from; i < to; i++) {
        if (k->child[i].pid > 0) {
            kill(k->child[i].pid, SIGKILL);
            waitpid(k->child[i].pid, NULL, 0);
        }
    }
}

static void stop_all(struct cluster *k)
{
    int first = k->parts & CLUSTER_REDIS && k->n > 0; /* Redis is the first child */
    stop_range(k, first, k->n);
    stop_range(k, 0, first);
}

/* Nothing is gained by starting it again: a part that others need, or for one job a worker that refuses to start. */
static bool is_missed(const struct cluster *k, const struct child *ch)
{
    if (k->container)
        return !ch->worker;
    bool refused = WIFEXITED(ch->status) && (WEXITSTATUS(ch->status) == EXIT_FAILED || WEXITSTATUS(ch->status) == EXIT_USAGE);
    return k->once && ch->worker && refused && ch->restarts == 0 && clock_us() - ch->started_us < SETTLED_S * CLOCK_S;
}

/* Stops them too: a child ends with the thread that started it (PR_SET_PDEATHSIG), and Redis must outlive the rest. */
static void *watch(void *arg)
{
    struct cluster *k = arg;
    while (!atomic_load(&k->stopping)) {
        for (int i = 0; i < k->n && !atomic_load(&k->failed); i++) {
            struct child *ch = &k->child[i];
            if (ch->pid > 0 && child_ended(ch)) {
                ch->again_us = clock_us() + child_pause(ch);
                atomic_fetch_add(&k->deaths, 1);
                if (is_missed(k, ch))
                    atomic_store(&k->failed, i + 1);
                if (k->once && atomic_load(&k->failed))
                    cli_stopped = 1;
            } else if (ch->pid == 0 && clock_us() >= ch->again_us) {
                struct err why = {0};
                ch->restarts++;
                if (child_start(k, ch, &why) < 0)
                    ch->again_us = clock_us() + 5 * CLOCK_S;
            }
        }
        reap_orphans(k);
        clock_sleep_us(50 * CLOCK_MS);
    }
    stop_all(k);
    return NULL;
}

/* ---- readiness ---- */

static bool redis_answers(const struct cluster *k)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    str_copy(a.sun_path, sizeof a.sun_path, k->socket);
    bool ok = fd >= 0 && connect(fd, (const struct sockaddr *)&a, sizeof a) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool dispatcher_answers(struct cluster *k)
{
    char line[32] = "";
    int64_t port;
    FILE *f = fopen(k->port_file, "r");
    if (!f)
        return false;
    bool got = fgets(line, sizeof line, f) != NULL;
    fclose(f);
    line[strcspn(line, "\n")] = 0;
    if (!got || str_parse_i64(line, 1, 65535, &port) < 0)
        return false;
    str_format(k->url, sizeof k->url, "http://127.0.0.1:%d", (int)port);
    return true;
}

/* Is the page on its own port? Not when somebody else has that already; the dispatcher's port has it too. */
static bool page_port_free(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bool ok = port > 0 && fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
              bind(fd, (const struct sockaddr *)&a, sizeof a) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

/* The last line of a child's log: most often why it ended. */
static void last_line(const char *path, char *ret, size_t size)
{
    char line[400];
    FILE *f = fopen(path, "r");
    ret[0] = 0;
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (line[0])
            str_copy(ret, size, line);
    }
    if (f)
        fclose(f);
}

static int wait_for(struct cluster *k, struct child *ch, bool (*ready)(struct cluster *k), struct err *err)
{
    char why[300];
    const char *where = ch->log[0] ? ch->log : "the lines above";
    for (int64_t end = clock_us() + k->start_s * CLOCK_S; clock_us() < end && !cli_stopped;) {
        if (ready(k))
            return 0;
        if (child_ended(ch) && k->container)
            return err_set(err, ERR_IO, "%s ended at once: see the lines above", ch->title);
        if (ch->pid == 0) {
            last_line(ch->log, why, sizeof why);
            return err_set(err, ERR_IO, "%s ended at once: %s (%s)", ch->title, why, ch->log);
        }
        clock_sleep_us(2 * CLOCK_MS);
    }
    return err_set(err, cli_stopped ? ERR_CANCEL : ERR_TIMEOUT, "%s did not come up in %d s: see %s", ch->title,
                   k->start_s, where);
}

static bool redis_ready(struct cluster *k)
{
    return redis_answers(k);
}

/* ---- start and stop ---- */

static int start_redis(struct cluster *k, struct err *err)
{
    char program[1024];
    int rc = cluster_find("redis-server", "apt-get install redis-server", program, sizeof program, err);
    if (rc < 0)
        return rc;
    struct child *ch = child_new(k, "redis", program);
    const char *const words[] = {"--port",
                                 "0",
                                 "--unixsocket",
                                 k->socket,
                                 "--unixsocketperm",
                                 "700",
                                 "--save",
                                 "",
                                 "--appendonly",
                                 "yes",
                                 "--appendfsync",
                                 "everysec",
                                 "--maxmemory-policy",
                                 "noeviction",
                                 "--daemonize",
                                 "no",
                                 "--dir",
                                 k->redis_dir};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        child_word(ch, words[i]);
    rc = child_start(k, ch, err);
    return rc < 0 ? rc : wait_for(k, ch, redis_ready, err);
}

static int start_dispatcher(struct cluster *k, struct err *err)
{
    char program[1024];
    int rc = cluster_find("troupe-dispatcher", "build it: ninja -C build", program, sizeof program, err);
    if (rc < 0)
        return rc;
    struct child *ch = child_new(k, "dispatcher", program);
    child_word(ch, "--port-file");
    child_word(ch, k->port_file);
    rc = child_start(k, ch, err);
    if (rc == 0)
        rc = wait_for(k, ch, dispatcher_answers, err);
    if (rc == 0) { /* started again, it must be found where it was, whatever port it got */
        child_word(ch, "--port");
        child_word(ch, strrchr(k->url, ':') + 1);
    }
    return rc;
}

static int start_worker(struct cluster *k, const struct cluster_options *o, int number, const char *program,
                        const char *device, struct err *err)
{
    char title[32];
    str_format(title, sizeof title, "worker%d", number);
    struct child *ch = child_new(k, title, program);
    const char *const words[][2] = {{"--device", device}, {"--noise", o->noise}, {"--dump", o->dump}};
    ch->worker = true;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (words[i][1]) {
            child_word(ch, words[i][0]);
            child_word(ch, words[i][1]);
        }
    }
    return child_start(k, ch, err);
}

static int start_workers(struct cluster *k, const struct cluster_options *o, struct err *err)
{
    char program[1024], device[32];
    int rc = cluster_find("troupe-worker", "build it: ninja -C build", program, sizeof program, err), n = 0;
    for (; !o->devices && n < o->n_workers && n < MAX_CHILDREN - 2 && rc == 0; n++)
        rc = start_worker(k, o, n, program, NULL, err);
    for (const char *p = o->devices ? o->devices : ""; *p && rc == 0; n++) {
        size_t len = strcspn(p, ",");
        if (n == MAX_CHILDREN - 2 || len == 0 || str_format(device, sizeof device, "%.*s", (int)len, p) < 0)
            return err_set(err, ERR_INVALID, "--devices: %.60s is no list of at most %d devices like cuda:0,cuda:1",
                           o->devices, MAX_CHILDREN - 2);
        rc = start_worker(k, o, n, program, device, err);
        p += len + (p[len] == ',');
    }
    return rc;
}

static int start_parts(struct cluster *k, const struct cluster_options *o, struct err *err)
{
    int rc = k->parts & CLUSTER_REDIS ? start_redis(k, err) : 0;
    if (rc == 0 && k->parts & CLUSTER_DISPATCHER)
        rc = start_dispatcher(k, err);
    if (rc == 0 && k->parts & CLUSTER_WORKERS)
        rc = start_workers(k, o, err);
    if (rc == 0 && pthread_create(&k->thread, NULL, watch, k) != 0)
        rc = err_set(err, ERR_NOMEM, "no thread to watch the programs");
    k->watching = rc == 0;
    return rc;
}

int cluster_start(struct cluster **ret, struct cli *c, const struct cluster_options *o, struct err *err)
{
    struct cluster *k = mem_zalloc(sizeof *k);
    if (!k)
        return err_set(err, ERR_NOMEM, "no memory");
    k->lock = -1;
    k->parts = o->parts ? o->parts : CLUSTER_ALL;
    k->container = o->container;
    k->once = o->once;
    k->start_s = o->container ? 120 : 20; /* a network volume may take its time */
    int rc = make_dirs(k, o, err);
    bool own_page = page_port_free((int)c->conf.web_port);
    if (rc == 0) {
        make_env(k, c);
        rc = start_parts(k, o, err);
    }
    if (rc < 0) {
        cluster_stop(k);
        return rc;
    }
    if (own_page && k->url[0])
        str_format(k->page, sizeof k->page, "http://127.0.0.1:%d/", (int)c->conf.web_port);
    else if (c->conf.web_port >= 0 && k->url[0])
        str_format(k->page, sizeof k->page, "%s/", k->url);
    str_copy(c->server, sizeof c->server, k->url);
    *ret = k;
    return 0;
}

const char *cluster_url(const struct cluster *k)
{
    return k->url;
}

const char *cluster_page(const struct cluster *k)
{
    return k->page;
}

const char *cluster_log_dir(const struct cluster *k)
{
    return k->log_dir;
}

const char *cluster_failed(struct cluster *k)
{
    int n = atomic_load(&k->failed);
    return n ? k->child[n - 1].title : NULL;
}

/* Of a log line its why="...", else the line. */
void cluster_why(struct cluster *k, char *ret, size_t size)
{
    int n = atomic_load(&k->failed);
    char line[400] = "";
    if (n && k->child[n - 1].log[0])
        last_line(k->child[n - 1].log, line, sizeof line);
    const char *why = strstr(line, "why=\"");
    char *end = strrchr(line, '"');
    if (why && end > why + strlen("why=\""))
        *end = 0;
    str_copy(ret, size, why ? why + strlen("why=\"") : line);
}

int cluster_deaths(struct cluster *k)
{
    return atomic_load(&k->deaths);
}

void cluster_stop(struct cluster *k)
{
    if (!k)
        return;
    atomic_store(&k->stopping, true);
    if (k->watching)
        pthread_join(k->thread, NULL);
    else
        stop_all(k);
    if (k->run_dir[0]) {
        unlink(k->socket);
        unlink(k->port_file);
        rmdir(k->run_dir);
    }
    if (k->lock >= 0)
        close(k->lock);
    for (int i = 0; i < k->n; i++) {
        for (int w = 0; w < k->child[i].argc; w++)
            mem_free(k->child[i].argv[w]);
    }
    for (int i = 0; i < k->n_env; i++)
        mem_free(k->env[i]);
    mem_free(k);
}
