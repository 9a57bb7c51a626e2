/* crash.c -- see the header. Compiled only into the programs of tests/chaos/. */
#include "common/crash.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/str.h"

static const char *const names[] = {
#define X(name, where) #name,
    CRASH_MAP(X)
#undef X
};

enum { N_NAMES = sizeof(names) / sizeof(names[0]), LINE = 96 };

static int wanted = -1;
static atomic_llong left = 1;
static bool stops;

static void say(const char *what, const char *name)
{
    char line[LINE];
    str_format(line, sizeof(line), "%s %.60s\n", what, name);
    ssize_t n = write(STDERR_FILENO, line, strlen(line));
    (void)n;
}

/* "NAME[:N][:stop]" */
static bool parse(const char *text)
{
    char word[LINE];
    size_t n = strcspn(text, ":");
    int64_t times;
    for (int i = 0; i < N_NAMES; i++)
        if (strlen(names[i]) == n && strncmp(names[i], text, n) == 0)
            wanted = i;
    for (text += n; *text; text += n) {
        n = strcspn(++text, ":");
        if (str_format(word, sizeof(word), "%.*s", (int)n, text) < 0)
            return false;
        if (strcmp(word, "stop") == 0)
            stops = true;
        else if (str_parse_i64(word, 1, INT32_MAX, &times) == 0)
            atomic_store(&left, times);
        else
            return false;
    }
    return wanted >= 0;
}

__attribute__((constructor)) static void read_environment(void)
{
    const char *text = getenv("TROUPE_CRASH_AT");
    if (text && *text && !parse(text)) {
        say("TROUPE_CRASH_AT: NAME[:N][:stop] is expected, not", text);
        _exit(2);
    }
}

void crash_point(enum crash_name name)
{
    if ((int)name != wanted || atomic_fetch_sub(&left, 1) != 1)
        return;
    say("crash point", names[name]);
    raise(stops ? SIGSTOP : SIGKILL);
}
