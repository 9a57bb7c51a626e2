#include "worker/command_words.h"

#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/str.h"

static int unknown(const char *const *options, const char *command, const char *word, const char *name,
                   struct err *err)
{
    const char *best = str_nearest(name, options);
    if (best)
        return err_set(err, ERR_INVALID, "there is no option %s; did you mean --%s?", word, best);
    return err_set(err, ERR_INVALID, "there is no option %s: see troupe %s --help", word, command);
}

int command_words_next(const char *const *options, int n_flags, int argc, char **argv, int *i,
                       int *ret_option, const char **ret_value, struct err *err)
{
    const char *word = strcmp(argv[*i], "-h") == 0 ? "--help" : argv[*i];
    size_t n = strcspn(word, "=");
    char name[64];
    int k = 0;
    if (strncmp(word, "--", 2) != 0 || str_format(name, sizeof name, "%.*s", (int)n - 2, word + 2) < 0)
        return err_set(err, ERR_INVALID, "unexpected word %s: see troupe %s --help", word, argv[0]);
    while (options[k] && strcmp(options[k], name) != 0)
        k++;
    if (!options[k])
        return unknown(options, argv[0], word, name, err);
    *ret_option = k;
    *ret_value = word[n] ? word + n + 1 : NULL;
    if (k < n_flags)
        return *ret_value ? err_set(err, ERR_INVALID, "--%s takes no value", name) : 0;
    if (!*ret_value && *i + 1 >= argc)
        return err_set(err, ERR_INVALID, "--%s needs a value", name);
    if (!*ret_value)
        *ret_value = argv[++*i];
    return 0;
}

int command_words_fail(int argc, char **argv, const struct err *err)
{
    fprintf(stderr, "troupe %s: %s\n", argv[0], err->text);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") != 0)
            continue;
        json_t *v = json_pack("{s:{s:s, s:s}}", "error", "code", err_name(err->code), "detail", err->text);
        json_dumpf(v, stdout, JSON_COMPACT);
        fputc('\n', stdout);
        json_decref(v);
        break;
    }
    return err->code == ERR_INVALID ? 2 : 1;
}
