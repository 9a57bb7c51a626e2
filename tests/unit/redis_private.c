#include "tests/unit/redis_private.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/redis_sync.h"
#include "common/str.h"

static const char server[] = "/usr/bin/redis-server";

static void child(const struct redis_private *r, bool aof, pid_t parent)
{
    char sock[96], log[96];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    str_path(sock, sizeof(sock), r->folder, "redis.sock");
    str_path(log, sizeof(log), r->folder, "redis.log");
    execl(server, server, "--port", "0", "--unixsocket", sock, "--dir", r->folder, "--save", "",
          "--appendonly", aof ? "yes" : "no", "--appendfsync", "always", "--logfile", log,
          "--maxmemory-policy", "noeviction", (char *)NULL);
    _exit(127);
}

static void die(const char *what)
{
    fprintf(stderr, "redis_private: %s\n", what);
    exit(1);
}

void redis_private_again(struct redis_private *r, bool aof)
{
    pid_t parent = getpid();
    r->pid = fork();
    if (r->pid < 0)
        die("fork failed");
    if (r->pid == 0)
        child(r, aof, parent);
    struct redis_sync *c = NULL;
    struct buf reply;
    struct err err = {0};
    buf_init(&reply, 1024);
    if (redis_sync_open(&c, r->url, &err) < 0)
        die(err.text);
    int64_t deadline = clock_us() + 10 * CLOCK_S;
    while (redis_sync_words(c, (const char *const[]){"PING"}, 1, 1000, &reply, NULL) < 0) {
        if (clock_us() > deadline)
            die("redis-server did not answer within 10 s");
        clock_sleep_us(10 * CLOCK_MS);
    }
    buf_done(&reply);
    redis_sync_close(c);
}

bool redis_private_start(struct redis_private *r, bool aof)
{
    if (access(server, X_OK) != 0)
        return false;
    str_copy(r->folder, sizeof(r->folder), "/tmp/troupe-redis-XXXXXX");
    if (!mkdtemp(r->folder))
        die("no temporary folder");
    str_format(r->url, sizeof(r->url), "unix://%s/redis.sock", r->folder);
    redis_private_again(r, aof);
    return true;
}

static void end(struct redis_private *r, int sig)
{
    if (r->pid > 0) {
        kill(r->pid, sig);
        waitpid(r->pid, NULL, 0);
    }
    r->pid = 0;
}

void redis_private_kill(struct redis_private *r)
{
    end(r, SIGKILL);
}

void redis_private_stop(struct redis_private *r, bool keep_folder)
{
    char cmd[128];
    end(r, SIGTERM);
    if (keep_folder || !str_starts(r->folder, "/tmp/troupe-redis-"))
        return;
    str_format(cmd, sizeof(cmd), "rm -rf '%s'", r->folder);
    if (system(cmd) != 0)
        fprintf(stderr, "redis_private: %s was not removed\n", r->folder);
}
