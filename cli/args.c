#include "cli/args.h"

#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "common/schema.h"
#include "common/str.h"

#define NAMES_MAX 64

static const struct {
    const char *word, *field;
} shorts[] = {{"steps", "num_inference_steps"},
              {"guidance", "guidance_scale"},
              {"shift", "flow_shift"},
              {"frames", "num_frames"}};

/* "--num-inference-steps=4": the name with underscores into name, the value behind '=' or NULL. */
static const char *split(const char *word, char *name, size_t size)
{
    const char *eq = strchr(word, '=');
    size_t n = eq ? (size_t)(eq - word) : strlen(word);
    if (n >= size)
        n = size - 1;
    memcpy(name, word, n);
    name[n] = 0;
    for (char *p = name; *p; p++) {
        if (*p == '-')
            *p = '_';
    }
    return eq ? eq + 1 : NULL;
}

static const char *value_of(const char *given, int argc, char **argv, int *i)
{
    if (given)
        return given;
    return *i + 1 < argc ? argv[++*i] : NULL;
}

static bool same(const char *option, const char *name)
{
    char flat[64];
    split(option, flat, sizeof flat);
    return strcmp(flat, name) == 0;
}

/* 1: taken, 0: not ours. */
static int own_option(const struct arg *own, const char *name, const char *given, int argc, char **argv,
                      int *i, struct err *err)
{
    for (const struct arg *a = own; a && a->name; a++) {
        if (!same(a->name, name))
            continue;
        if (a->flag) {
            *a->flag = true;
            return 1;
        }
        const char *v = value_of(given, argc, argv, i);
        if (!v)
            return err_set(err, ERR_INVALID, "--%s needs a value: %s", a->name, a->word);
        *a->value = v;
        return 1;
    }
    return 0;
}

static int request_option(const char *name, const char *given, int argc, char **argv, int *i, json_t *into,
                          struct err *err)
{
    const struct schema *s = schema_find("avatar");
    for (size_t k = 0; k < sizeof shorts / sizeof *shorts; k++) {
        if (strcmp(name, shorts[k].word) == 0)
            name = shorts[k].field;
    }
    const struct schema_field *f = schema_field(s, name);
    if (!f)
        return 0;
    const char *v = value_of(given, argc, argv, i);
    if (!v)
        return err_set(err, ERR_INVALID, "--%s needs a value", name);
    if (f->type == SCHEMA_MEDIA)
        return json_object_set_new(into, name, json_string(v)) == 0
                   ? 1
                   : err_set(err, ERR_INVALID, "%s: not UTF-8", name);
    int rc = schema_text(s, name, v, strlen(v), into, err);
    return rc < 0 ? rc : 1;
}

static int common_option(struct cli *c, const char *name, const char *given, int argc, char **argv, int *i,
                         struct args_rest *r, struct err *err)
{
    if (strcmp(name, "json") == 0) {
        c->json = true;
        return 1;
    }
    if (strcmp(name, "help") == 0) {
        r->help = true;
        return 1;
    }
    if (strcmp(name, "server") == 0) {
        const char *v = value_of(given, argc, argv, i);
        return v && str_copy(c->server, sizeof c->server, v) == 0
                   ? 1
                   : err_set(err, ERR_INVALID, "--server needs an address: http://HOST:PORT");
    }
    return 0;
}

/* word: as it was typed; name: its name, with underscores. */
static int unknown(const struct cli *c, const char *word, const char *name, const struct arg *own, bool request,
                   struct err *err)
{
    const char *list[NAMES_MAX] = {"json", "help", "server", "config", conf_nearest(CONF_CLI, name)};
    const struct schema *s = schema_find("avatar");
    char flag[64];
    size_t n = list[4] ? 5 : 4;
    for (const struct arg *a = own; a && a->name && n < NAMES_MAX - 1; a++)
        list[n++] = a->name;
    for (size_t i = 0; request && i < sizeof shorts / sizeof *shorts && n < NAMES_MAX - 1; i++)
        list[n++] = shorts[i].word;
    for (size_t i = 0; request && i < s->n_fields && n < NAMES_MAX - 1; i++)
        list[n++] = s->fields[i].name;
    const char *best = str_nearest(name, list);
    if (!best)
        return err_set(err, ERR_INVALID, "there is no option %s: see troupe %s --help", word, c->name);
    str_copy(flag, sizeof flag, best);
    for (char *p = flag; *p; p++)
        *p = *p == '_' ? '-' : *p;
    return err_set(err, ERR_INVALID, "there is no option %s; did you mean --%s?", word, flag);
}

static int option(struct cli *c, int argc, char **argv, int *i, const struct arg *own, struct args_rest *r,
                  struct err *err)
{
    char name[64];
    const char *given = split(argv[*i] + 2, name, sizeof name);
    int rc = own_option(own, name, given, argc, argv, i, err);
    if (rc == 0)
        rc = common_option(c, name, given, argc, argv, i, r, err);
    if (rc == 0 && r->fields)
        rc = request_option(name, given, argc, argv, i, r->fields, err);
    if (rc == 0 && (rc = conf_flag(&c->conf, CONF_CLI, argc, argv, i, err)) > 0)
        --*i; /* it stands on the next word already */
    if (rc == 0)
        rc = unknown(c, argv[*i], name, own, r->fields != NULL, err);
    return rc < 0 ? rc : 0;
}

int args_read(struct cli *c, int argc, char **argv, const struct arg *own, bool request, int n_words,
              struct args_rest *ret, struct err *err)
{
    struct args_rest r = {.fields = request ? json_object() : NULL};
    int rc = 0;
    for (int i = 0; i < argc && rc == 0; i++) {
        if (strcmp(argv[i], "-h") == 0)
            r.help = true;
        else if (strncmp(argv[i], "--", 2) == 0)
            rc = option(c, argc, argv, &i, own, &r, err);
        else if (r.n < (n_words == ARGS_ANY ? ARGS_WORDS : n_words))
            r.word[r.n++] = argv[i];
        else
            rc = n_words == ARGS_ANY
                     ? err_set(err, ERR_INVALID, "at most %d words at once are taken", ARGS_WORDS)
                     : err_set(err, ERR_INVALID, "unexpected word %s: see troupe %s --help", argv[i], c->name);
    }
    if (rc == 0 && !c->server[0])
        rc = str_format(c->server, sizeof c->server, "http://127.0.0.1:%d", (int)c->conf.port);
    if (rc == 0 && r.n < n_words && !r.help)
        rc = err_set(err, ERR_INVALID, "a word is missing: see troupe %s --help", c->name);
    if (rc < 0)
        args_done(&r);
    else
        *ret = r;
    return rc;
}

void args_done(struct args_rest *r)
{
    json_decref(r->fields);
    r->fields = NULL;
}

void args_help(const struct cli *c, const char *words, const char *summary, const struct arg *own,
               bool request)
{
    struct buf b;
    buf_init(&b, 256 * 1024);
    buf_printf(&b, "usage: troupe %s %s\n\n%s\n\n", c->name, words, summary);
    for (const struct arg *a = own; a && a->name; a++) {
        char head[64];
        str_format(head, sizeof head, "--%s %s", a->name, a->word ? a->word : "");
        buf_printf(&b, "  %-26s %s\n", head, a->help);
    }
    buf_printf(&b, "  %-26s %s\n  %-26s %s\n", "--json", "answer as one JSON value", "--server URL",
               "the dispatcher [this machine's at --port; TROUPE_SERVER]");
    if (request) {
        buf_puts(&b, "\nThe request (also --steps, --guidance, --shift, --frames):\n");
        schema_help(schema_find("avatar"), &b);
    }
    buf_puts(&b, "\n");
    conf_help(CONF_CLI, "settings", "shared by all programs", &b);
    fputs(b.data ? b.data : "", stdout);
    buf_done(&b);
}
