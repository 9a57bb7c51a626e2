/* command_words.h -- the words behind `plan` and `bench`: --name VALUE, --name=VALUE, or --name alone for a
 * flag.
 *
 *     static const char *const options[] = {"json", "size", NULL};     the first one takes no value
 *     for (int i = 1; i < argc && rc == 0; i++)
 *         if ((rc = command_words_next(options, 1, argc, argv, &i, &which, &value, &err)) == 0) ...
 */
#ifndef WORKER_COMMAND_WORDS_H
#define WORKER_COMMAND_WORDS_H

#include "common/err.h"

/* The option at argv[*i]: its place in options (NULL at their end) and its value, NULL for the first n_flags
 * of them. *i goes to its last word. ERR_INVALID names the word, and the nearest option; argv[0] is the
 * command. */
int command_words_next(const char *const *options, int n_flags, int argc, char **argv, int *i,
                       int *ret_option, const char **ret_value, struct err *err);

/* "troupe PLAN: sentence" on stderr, {"error": ...} on stdout too where --json is among the words; the exit
 * code. */
int command_words_fail(int argc, char **argv, const struct err *err);

#endif
