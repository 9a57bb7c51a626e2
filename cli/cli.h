/* cli.h -- what every sub-command of `troupe` gets, and the table that main.c walks.
 *
 * A sub-command takes the words behind its name, reads them with args.h, prints its answer on stdout (one
 * JSON value with
 * --json, text for people otherwise), everything else on stderr, and returns the process' exit code: 0, 1
 * (the thing asked for failed), 2 (the words were wrong).
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <signal.h>
#include <stdbool.h>

#include "common/conf.h"
#include "common/err.h"

enum { CLI_OK, CLI_FAILED, CLI_USAGE };

struct cli {
    struct conf conf; /* environment and --config are in; a command's flags go on top */
    bool json;        /* --json */
    char server[256]; /* --server, TROUPE_SERVER, or this machine at the setting port */
    const char *name; /* of the sub-command, for messages */
};

/* Set by SIGINT and SIGTERM (cli_catch_signals): every loop looks at it. */
extern volatile sig_atomic_t cli_stopped;
void cli_catch_signals(void);

/* Prints "troupe NAME: sentence" and returns code (CLI_USAGE for ERR_INVALID given by hand, else CLI_FAILED).
 * With --json
 * {"error": {...}} on stdout. */
int cli_fail(const struct cli *c, const struct err *err);
/* Prints the value as one line of JSON on stdout and drops the reference. */
void cli_print_json(json_t *v);

/* A text member of an answer; "" where it is not there. */
const char *cli_text(const json_t *v, const char *key);
int64_t cli_int(const json_t *v, const char *key);          /* 0 where it is not there */
double cli_num(const json_t *v, const char *key, double otherwise); /* also where it is null */
/* A copy for a terminal: control characters, which others may have put into names and reasons, become '?'. Cut to size.
 * Returns dst. */
const char *cli_clean(char *dst, size_t size, const char *text);

/* Asks on the terminal; 0 when the answer is yes, or yes is true. ERR_CANCEL for any other answer, ERR_INVALID where there
 * is no terminal to ask. */
int cli_confirm(const char *question, bool yes, struct err *err);

/* Runs a program found on the PATH and waits: its wait status, or -1. */
int cli_spawn_wait(char *const *words);

typedef int command_fn(struct cli *c, int argc, char **argv);
struct command {
    const char *name, *words, *summary;
    command_fn *run;
};

command_fn up_command, run_command, submit_command, watch_command, jobs_command, jobs_cancel, jobs_why,
    queue_command, queue_pause, queue_resume, queue_purge, dead_command, dead_redrive, dead_retry, workers_command,
    workers_quiet, top_command, delegate_plan, doctor_command, delegate_bench;

#endif
