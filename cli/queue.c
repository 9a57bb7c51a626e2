/* queue: the queue in numbers. pause, resume, purge: the operator's hand on it. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/figures.h"
#include "cli/http.h"
#include "common/str.h"

/* ---- queue ---- */

static void print_numbers(const json_t *q)
{
    char a[64], b[64];
    const json_t *hist = json_object_get(q, "hist");
    figures_paused(a, sizeof a, q);
    printf("state     %s%s\n", a[0] ? "paused: " : "running", a);
    printf("waiting   %lld", (long long)cli_int(q, "waiting"));
    if (cli_int(q, "waiting") > 0)
        printf("   the oldest for %s; %s of work for the workers there are",
               figures_seconds(a, sizeof a, cli_num(q, "oldest_ms", 0) / 1000),
               figures_seconds(b, sizeof b, cli_num(q, "backlog_s", -1)));
    printf("\nrunning   %lld\ndelayed   %lld\n", (long long)cli_int(q, "running"), (long long)cli_int(q, "delayed"));
    printf("failed    %lld%s\n", (long long)cli_int(q, "dead"), cli_int(q, "dead") ? "   troupe dead lists them" : "");
    printf("workers   %lld\n", (long long)cli_int(q, "workers"));
    printf("waits     %s\nruns      %s\n", figures_spread(a, sizeof a, json_object_get(hist, "wait")),
           figures_spread(b, sizeof b, json_object_get(hist, "run")));
    if (cli_int(q, "hooks"))
        printf("webhooks  %lld to deliver\n", (long long)cli_int(q, "hooks"));
}

static void print_levels(const json_t *q)
{
    size_t i, shown = 0;
    json_t *one;
    char work[32];
    json_array_foreach(json_object_get(q, "levels"), i, one) {
        if (cli_int(one, "waiting") == 0)
            continue;
        if (!shown++)
            printf("\nlevel   waiting  work\n");
        printf("%-6lld  %7lld  %s\n", (long long)cli_int(one, "priority"), (long long)cli_int(one, "waiting"),
               figures_seconds(work, sizeof work, cli_num(one, "waiting_s", -1)));
    }
}

static void limit_text(char *dst, size_t size, const json_t *t)
{
    static const struct {
        const char *member, *unit;
    } limits[] = {{"max_running", "running"}, {"max_queued", "queued"}, {"gpu_s_day", "s a day"}, {"rate", "a minute"}};
    size_t n = 0;
    str_copy(dst, size, "-");
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        double v = cli_num(t, limits[i].member, 0);
        if (v > 0 && str_format(dst + n, size - n, "%s%.6g %s", n ? ", " : "", v, limits[i].unit) == 0)
            n = strlen(dst);
    }
}

static void print_tenants(const json_t *list)
{
    size_t i;
    json_t *t;
    char name[64], used[32], limits[120];
    if (json_array_size(list) == 0)
        return;
    printf("\ntenant                weight  waiting  running  used today    limits\n");
    json_array_foreach(list, i, t) {
        cli_clean(name, sizeof name, cli_text(t, "name"));
        figures_seconds(used, sizeof used, cli_num(t, "used_s_day", 0));
        limit_text(limits, sizeof limits, t);
        printf("%-20s  %6.3g  %7lld  %7lld  %-12s  %s%s%s\n", name[0] ? name : "(none)", cli_num(t, "weight", 1),
               (long long)cli_int(t, "waiting"), (long long)cli_int(t, "running"), used, limits,
               json_is_true(json_object_get(t, "paused")) ? "; paused" : "",
               strcmp(cli_text(t, "held"), "running") == 0  ? "; as many run as may"
               : strcmp(cli_text(t, "held"), "budget") == 0 ? "; today's seconds are used"
                                                            : "");
    }
}

/* The list of tenants is an operator's; whoever may not see it gets the rest. */
static int show(const struct cli *c, struct err *err)
{
    json_t *q = NULL, *tenants = NULL;
    struct err why = {0};
    int rc = http_json(c, "GET", "/v1/queue", NULL, 30, &q, err);
    if (rc == 0) {
        rc = http_json(c, "GET", "/v1/tenants", NULL, 30, &tenants, &why);
        if (rc < 0 && rc != ERR_AUTH && rc != ERR_UNSUPPORTED)
            err_set(err, rc, "%s", why.text);
        else
            rc = 0;
    }
    const json_t *list = json_object_get(tenants, "tenants");
    if (rc == 0 && c->json) {
        if (list)
            json_object_set(q, "tenants", (json_t *)(uintptr_t)list);
        cli_print_json(json_incref(q));
    } else if (rc == 0) {
        print_numbers(q);
        print_levels(q);
        print_tenants(list);
    }
    json_decref(q);
    json_decref(tenants);
    return rc;
}

int queue_command(struct cli *c, int argc, char **argv)
{
    static const struct arg own[] = {{0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "[options]", "The queue in numbers: what waits and runs, levels, tenants, what is paused.", own, false);
    else if (rc == 0)
        rc = show(c, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}

/* ---- pause, resume ---- */

static int pause_or_resume(const struct cli *c, const char *word, const char *generator, const char *tenant, struct err *err)
{
    char path[256], name[100];
    json_t *answer = NULL;
    if (generator && tenant)
        return err_set(err, ERR_INVALID, "--generator and --tenant: name one of them, or none for all of the queue");
    str_format(path, sizeof path, "/v1/queue/%s", word);
    if (http_query(path, sizeof path, "generator", generator) < 0 || http_query(path, sizeof path, "tenant", tenant) < 0)
        return err_set(err, ERR_INVALID, "the name is too long");
    int rc = http_json(c, "POST", path, NULL, 30, &answer, err);
    if (rc == 0 && c->json) {
        cli_print_json(json_incref(answer));
    } else if (rc == 0) {
        cli_clean(name, sizeof name, generator ? generator : tenant ? tenant : "");
        printf("%s %s%s%s\n", *word == 'p' ? "paused" : "resumed",
               generator ? "generator " : tenant ? "tenant " : "the queue", name,
               *word == 'p' ? ": what runs goes on, nothing more is handed out" : "");
    }
    json_decref(answer);
    return rc;
}

static int pause_command(struct cli *c, int argc, char **argv, const char *word, const char *summary)
{
    const char *generator = NULL, *tenant = NULL;
    const struct arg own[] = {{"generator", &generator, NULL, "NAME", "only jobs of this generator"},
                              {"tenant", &tenant, NULL, "NAME", "only this tenant's jobs"},
                              {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "[--generator NAME | --tenant NAME]", summary, own, false);
    else if (rc == 0)
        rc = pause_or_resume(c, word, generator, tenant, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}

int queue_pause(struct cli *c, int argc, char **argv)
{
    return pause_command(c, argc, argv, "pause", "Hands out no more jobs: of all, of a generator, or of a tenant.");
}

int queue_resume(struct cli *c, int argc, char **argv)
{
    return pause_command(c, argc, argv, "resume", "Hands out jobs again.");
}

/* ---- purge ---- */

static int purge(const struct cli *c, bool yes, struct err *err)
{
    json_t *q = NULL, *answer = NULL;
    char question[100];
    int rc = http_json(c, "GET", "/v1/queue", NULL, 30, &q, err);
    long long n = cli_int(q, "waiting");
    if (rc == 0) {
        str_format(question, sizeof question, "Cancel %s%lld waiting job%s?", n > 1 ? "all " : "", n, n == 1 ? "" : "s");
        rc = cli_confirm(question, yes || n == 0, err);
    }
    if (rc == 0)
        rc = http_json(c, "POST", "/v1/queue/purge", NULL, 600, &answer, err);
    if (rc == 0 && c->json)
        cli_print_json(json_incref(answer));
    else if (rc == 0)
        printf("%lld cancelled\n", (long long)cli_int(answer, "cancelled"));
    json_decref(q);
    json_decref(answer);
    return rc;
}

int queue_purge(struct cli *c, int argc, char **argv)
{
    bool yes = false;
    const struct arg own[] = {{"yes", NULL, &yes, NULL, "do not ask"}, {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "[--yes]", "Cancels every job that waits; what runs goes on.", own, false);
    else if (rc == 0)
        rc = purge(c, yes, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
