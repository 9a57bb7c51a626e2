/* args.h -- the words behind a sub-command: its own options, the settings' flags, and what is left.
 *
 *     const char *out = NULL;
 *     bool once = false;
 *     const struct arg own[] = {{"out", &out, NULL, "FILE", "where the MP4 goes"}, {"once", NULL, &once,
 * NULL, "..."}, {0}}; int rc = args_read(c, argc, argv, own, false, 0, &rest, &err);
 */
#ifndef CLI_ARGS_H
#define CLI_ARGS_H

#include <stdbool.h>

#include "cli/cli.h"
#include "common/json.h"

struct arg {
    const char *name;   /* without the dashes; NULL ends the list */
    const char **value; /* takes a word; the last one wins */
    bool *flag;         /* takes none */
    const char *word;   /* of the value, for the help */
    const char *help;
};

#define ARGS_WORDS 64
#define ARGS_ANY (-1) /* as n_words: any number of words, also none */

struct args_rest {
    const char *word[ARGS_WORDS]; /* positional */
    int n;
    bool help;
    json_t *fields; /* owned: request fields that were given (size, seed, ...), NULL when request = false */
};

/* request: the flags of the avatar request are taken too (--num-inference-steps or --steps, --guidance,
 * --shift). Media fields stay paths. n_words: how many positional words there must be (none with --help).
 * ERR_INVALID names the word and the nearest known one. */
int args_read(struct cli *c, int argc, char **argv, const struct arg *own, bool request, int n_words,
              struct args_rest *ret, struct err *err);
void args_done(struct args_rest *r);
/* "usage: troupe NAME WORDS" and the options on stdout. */
void args_help(const struct cli *c, const char *words, const char *summary, const struct arg *own,
               bool request);

#endif
