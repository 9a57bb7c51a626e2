/* plan, bench: what only the worker can answer. The CLI knows no network, so it becomes troupe-worker with
 * the same words. */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cluster.h"
#include "common/str.h"

#define WORDS_MAX 60

static int become_worker(struct cli *c, const char *what, int argc, char **argv)
{
    char program[1024];
    char *words[WORDS_MAX + 3] = {program, (char *)(uintptr_t)what};
    struct err err = {0};
    int n = 2;
    if (cluster_find("troupe-worker", "build it: ninja -C build", program, sizeof program, &err) < 0)
        return cli_fail(c, &err);
    for (int i = 0; i < argc && n < WORDS_MAX; i++)
        words[n++] = argv[i];
    if (c->json)
        words[n++] = (char *)(uintptr_t) "--json";
    execv(program, words);
    err_set(&err, ERR_IO, "%s: %s", program, strerror(errno));
    return cli_fail(c, &err);
}

int delegate_plan(struct cli *c, int argc, char **argv)
{
    return become_worker(c, "plan", argc, argv);
}

int delegate_bench(struct cli *c, int argc, char **argv)
{
    return become_worker(c, "bench", argc, argv);
}
