/* main.c -- troupe-worker: one process per device, runs the queue's jobs. See claim.h for the loop.
 *
 * Exit codes: 0 stopped by a signal (the job in work was finished or given back); 1 could not start, with the
 * reason on standard error; 2 wrong settings; 75 the device failed or a job would not stop: start it again.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "common/buf.h"
#include "common/conf.h"
#include "common/log.h"
#include "common/str.h"
#include "common/version.h"
#include "kernels/device.h"
#include "kernels/shadow.h"
#include "worker/claim.h"
#include "kernels/threads.h"
#include "worker/command.h"
#include "worker/media/sandbox.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_RECYCLE = 75 };

static int print_help(enum conf_action todo)
{
    struct buf b;
    buf_init(&b, 64 * 1024);
    int rc = todo == CONF_HELP
                 ? conf_help(CONF_WORKER, "troupe-worker", "runs the jobs of a queue on one device", &b)
                 : conf_help_table(CONF_WORKER, &b);
    if (rc == 0)
        fputs(b.data, stdout);
    buf_done(&b);
    return rc < 0 ? EXIT_FAILED : 0;
}

/* "cuda:1" -> kind and index. */
static int open_device(struct device **ret, const struct conf *c, struct err *err)
{
    struct device_options o = {.n_threads = (int)c->threads, .memory_limit = (size_t)c->max_memory_mib << 20};
    char kind[32];
    int64_t index = 0;
    const char *colon = strchr(c->device, ':');
    if (str_format(kind, sizeof(kind), "%.*s", (int)strcspn(c->device, ":"), c->device) < 0 ||
        (colon && str_parse_i64(colon + 1, 0, 1023, &index) < 0))
        return err_set(err, ERR_INVALID, "device: '%s' is not allowed; cpu, cpu_ref, cuda or cuda:N is",
                       c->device);
    o.index = (int)index;
    int rc = device_precision_parse(c->precision, kind, &o.precision, err);
    return rc < 0 ? rc : device_open(ret, kind, &o, err);
}

static enum log_level level_of(const char *name)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++)
        if (strcmp(names[i], name) == 0)
            return (enum log_level)i;
    return LOG_INFO;
}

/* Signals are the lease thread's; a crash leaves no core of the weights' size. */
static void set_up_process(void)
{
    sigset_t set;
    const struct rlimit none = {0, 0};
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    setrlimit(RLIMIT_CORE, &none);
}

static int serve(const struct conf *conf)
{
    struct device *device = NULL;
    struct shadow *shadow = NULL;
    struct err err = {0};
    log_init("troupe-worker", strcmp(conf->log_format, "json") == 0 ? LOG_JSON : LOG_KV,
             level_of(conf->log_level));
    set_up_process();
    int rc = open_device(&device, conf, &err);
    if (rc == 0 && conf->shadow)
        rc = shadow_open(&shadow, device, SHADOW_BYTES, &err);
    sandbox_warm();
    if (!sandbox_is_filtered())
        LOG(WARN, "media files are decoded without a system call filter",
            log_str("why", "built without libseccomp, or the kernel has no filters"));
    if (rc == 0)
        rc = claim_serve(conf, device, &err);
    shadow_close(shadow);
    if (device)
        device_close(device);
    if (rc < 0)
        LOG(ERROR, rc == ERR_DEVICE ? "device lost" : "cannot run", log_code(rc), log_str("why", err.text));
    else
        LOG(INFO, "stopped", log_code(0));
    return rc == 0 ? 0 : rc == ERR_DEVICE ? EXIT_RECYCLE : rc == ERR_INVALID ? EXIT_USAGE : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], SANDBOX_WORD) == 0)
        return sandbox_child_main();
    threads_settle(argv);
    struct conf conf;
    struct err err = {0};
    enum conf_action todo;
    if (argc > 1 && strcmp(argv[1], "plan") == 0)
        return command_plan(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "bench") == 0)
        return command_bench(argc - 1, argv + 1);
    if (conf_load(&conf, CONF_WORKER, argc, argv, &todo, &err) < 0) {
        fprintf(stderr, "troupe-worker: %s\n", err.text);
        return EXIT_USAGE;
    }
    if (todo == CONF_VERSION) {
        printf("troupe-worker %s (%s)\n", version_text(), version_build());
        return 0;
    }
    return todo == CONF_RUN ? serve(&conf) : print_help(todo);
}
