#include "cli/cli.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/str.h"

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

int64_t cli_int(const json_t *v, const char *key)
{
    return json_integer_value(json_object_get(v, key));
}

double cli_num(const json_t *v, const char *key, double otherwise)
{
    const json_t *n = json_object_get(v, key);
    return json_is_number(n) ? json_number_value(n) : otherwise;
}

const char *cli_clean(char *dst, size_t size, const char *text)
{
    str_copy(dst, size, text);
    for (unsigned char *p = (unsigned char *)dst; *p; p++) {
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
        else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) /* U+0080 to U+009F: the other control characters */
            p[0] = p[1] = '?';
    }
    return dst;
}

int cli_confirm(const char *question, bool yes, struct err *err)
{
    char line[32];
    if (yes)
        return 0;
    if (!isatty(0))
        return err_set(err, ERR_INVALID, "%s there is no terminal to ask: say --yes", question);
    fprintf(stderr, "%s [y/N] ", question);
    if (!fgets(line, sizeof line, stdin) || (line[0] != 'y' && line[0] != 'Y'))
        return err_set(err, ERR_CANCEL, "nothing was changed");
    return 0;
}

void cli_print_json(json_t *v)
{
    json_dumpf(v, stdout, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
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
