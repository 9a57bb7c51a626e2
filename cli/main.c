/* troupe -- the person's program: starts a cluster on this machine, sends jobs, follows them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "common/job.h"
#include "common/schema.h"
#include "common/str.h"
#include "common/version.h"

static const struct command commands[] = {
    {"up", "[options]", "start redis-server, a dispatcher and workers on this machine, until Ctrl-C",
     up_command},
    {"run", "--image FILE --audio FILE [options]", "from a portrait and a recording to an MP4, in one go",
     run_command},
    {"submit", "--image FILE --audio FILE [options]", "put a job into the queue", submit_command},
    {"watch", "ID", "follow a job to its end", watch_command},
    {"jobs", "[options]", "list jobs", jobs_command},
    {"cancel", "ID", "stop a job", jobs_cancel},
    {"why", "ID", "why a job is not running, and when it will", jobs_why},
    {"retry", "ID...", "put failed, cancelled or timed out jobs back into the queue", dead_retry},
    {"queue", "[options]", "the queue in numbers: levels, tenants, what is paused", queue_command},
    {"top", "[--interval SECONDS]", "the queue, the workers and the last failures, live", top_command},
    {"workers", "[options]", "list the workers and what each does", workers_command},
    {"quiet", "NAME [--off]", "let a worker finish its job and take no other", workers_quiet},
    {"dead", "[ID] [options]", "list the jobs that failed, or what happened to one", dead_command},
    {"redrive", "ID... | --all | filters", "put failed jobs back into the queue", dead_redrive},
    {"pause", "[--generator NAME | --tenant NAME]", "hand out no more jobs", queue_pause},
    {"resume", "[--generator NAME | --tenant NAME]", "hand out jobs again", queue_resume},
    {"purge", "[--yes]", "cancel everything that waits", queue_purge},
    {"plan", "[options]", "memory and work of a video by stage, before anything runs", delegate_plan},
    {"doctor", "[options]", "what on this machine would stop a job", doctor_command},
    {"bench", "[options]", "time the operations on this machine", delegate_bench},
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static int help(FILE *to)
{
    fputs("troupe: talking-avatar video from a portrait and a recording\n\n", to);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  troupe %-9s %s\n", commands[i].name, commands[i].summary);
    fputs("  troupe version   what this is\n  troupe completion  words for bash: eval \"$(troupe "
          "completion)\"\n\n"
          "troupe COMMAND --help tells its options; --json makes every answer one JSON value.\n",
          to);
    return to == stdout ? CLI_OK : CLI_USAGE;
}

/* bash asks the program itself: `troupe COMMAND --help` holds every option; jobs and workers come from the dispatcher. */
static const char completion_script[] =
    "version completion help'\n"
    "    else\n"
    "        case $prev in\n"
    "        --state) words=$states ;;\n"
    "        --code) words=$codes ;;\n"
    "        --generator) words=$generators ;;\n"
    "        *) case $cur in\n"
    "            -*) words=$(\"$me\" \"${COMP_WORDS[1]}\" --help 2>/dev/null | grep -oE '^ +--[a-z][a-z_-]*' | tr -d ' ' | "
    "tr _ -) ;;\n"
    "            *) words=$(_troupe_names \"$me\" \"${COMP_WORDS[1]}\") ;;\n"
    "            esac ;;\n"
    "        esac\n"
    "    fi\n"
    "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
    "    [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- \"$cur\"))\n"
    "}\n"
    "_troupe_names() {\n"
    "    case $2 in\n"
    "    quiet) \"$1\" workers 2>/dev/null | awk 'NF > 2 {print $1}' ;;\n"
    "    retry | dead | redrive) \"$1\" dead --limit 100 2>/dev/null | grep -oE '^[0-9a-f-]{36}' ;;\n"
    "    watch | cancel | why) \"$1\" jobs --limit 100 2>/dev/null | grep -oE '^[0-9a-f-]{36}' ;;\n"
    "    esac\n"
    "}\n"
    "complete -o filenames -F _troupe troupe\n";

static int completion(void)
{
    fputs("_troupe() {\n    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} me=${COMP_WORDS[0]} words\n"
          "    local states='", stdout);
    for (int i = 0; i < JOB_STATE_COUNT; i++)
        fprintf(stdout, "%s ", job_state_text((enum job_state)i));
    fputs("' codes='", stdout);
    for (int i = 1; i < ERR_COUNT; i++)
        fprintf(stdout, "%s ", err_name(-i));
    fputs("' generators='", stdout);
    for (size_t i = 0; schema_at(i); i++)
        fprintf(stdout, "%s ", schema_at(i)->generator);
    fputs("'\n    if [ \"$COMP_CWORD\" = 1 ]; then\n        words='", stdout);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(stdout, "%s ", commands[i].name);
    fputs(completion_script, stdout);
    return CLI_OK;
}

static int version(struct cli *c, bool json)
{
    c->json = json;
    if (json)
        cli_print_json(json_pack("{s:s, s:s, s:s}", "name", "troupe", "version", version_text(), "build",
                                 version_build()));
    else
        printf("troupe %s (%s)\n", version_text(), version_build());
    return CLI_OK;
}

/* The environment, and the file that --config names anywhere on the line. */
static int load(struct cli *c, int argc, char **argv, struct err *err)
{
    const char *file = NULL, *server = getenv("TROUPE_SERVER");
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--config") == 0)
            file = argv[i + 1];
    }
    conf_init(&c->conf);
    int rc = conf_environment(&c->conf, CONF_CLI, file, err);
    if (rc == 0 && server)
        rc = str_copy(c->server, sizeof c->server, server);
    return rc; /* else args_read takes this machine's, at the port that the flags may name */
}

static int no_command(const char *name)
{
    const char *list[N_COMMANDS + 4] = {"version", "completion", "help"};
    for (size_t i = 0; i < N_COMMANDS; i++)
        list[3 + i] = commands[i].name;
    const char *best = str_nearest(name, list);
    fprintf(stderr, "troupe: there is no command \"%s\"%s%s%s\n", name, best ? "; did you mean " : "", best ? best : "",
            best ? "?" : "");
    return help(stderr);
}

int main(int argc, char **argv)
{
    struct cli c = {0};
    struct err err = {0};
    const char *name = argc > 1 ? argv[1] : "";
    bool json = argc > 2 && strcmp(argv[2], "--json") == 0;
    if (!*name)
        return help(stderr);
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return help(stdout);
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0)
        return version(&c, json);
    if (strcmp(name, "completion") == 0)
        return completion();
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) != 0)
            continue;
        c.name = name;
        return load(&c, argc, argv, &err) < 0 ? cli_fail(&c, &err) : commands[i].run(&c, argc - 2, argv + 2);
    }
    return no_command(name);
}
