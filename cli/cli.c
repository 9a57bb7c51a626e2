#include "cli/cli.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

volatile sig_atomic_t cli_stopped;

static void on_signal(int sig)
{
    (void)sig;
    cli_stopped = 1;
}

void cli_catch_signals(void)
{
    struct sigaction a = {.sa_handler = on_signal};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int cli_fail(const struct cli *c, const struct err *err)
{
    fprintf(stderr, "troupe%s%s: %s\n", c->name ? " " : "", c->name ? c->name : "", err->text);
    if (c->json)
        cli_print_json(
            json_pack("{s:{s:s, s:s}}", "error", "code", err_name(err->code), "detail", err->text));
    return err->code == ERR_INVALID ? CLI_USAGE : CLI_FAILED;
}

const char *cli_text(const json_t *v, const char *key)
{
    const char *s = json_string_value(json_object_get(v, key));
    return s ? s : "";
}

void cli_print_json(json_t *v)
{
    json_dumpf(v, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
    fputc('\n', stdout);
    fflush(stdout);
    json_decref(v);
}

int cli_spawn_wait(char *const *words)
{
    extern char **environ;
    pid_t pid;
    int status = -1;
    if (posix_spawnp(&pid, words[0], NULL, NULL, words, environ) != 0)
        return -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return status;
}
