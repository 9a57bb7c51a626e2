/* conf.c -- the settings. `rows` is CONF_MAP as a table; everything walks it. Start reading at conf_load. */
#include "common/conf.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/str.h"

#define FILE_MAX (64 * 1024)
#define ENV_NAME_MAX 64

enum conf_type { TYPE_STR, TYPE_INT, TYPE_NUM, TYPE_BOOL };

struct row {
    const char *name;
    enum conf_type type;
    const char *initial;
    double min, max;
    const char *aliases;
    unsigned programs;
    const char *help;
    size_t offset;
};

static const struct row rows[] = {
#define X(type, name, initial, min, max, env, programs, help)                                                \
    {#name, TYPE_##type, initial, min, max, env, programs, help, offsetof(struct conf, name)},
    CONF_MAP(X)
#undef X
};
enum { N_ROWS = sizeof(rows) / sizeof(rows[0]) };

static const struct {
    const char *name, *choices;
} choices[] = {{"log_format", "kv|json"},
             {"log_level", "debug|info|warn|error"},
             {"precision", "auto|f32|bf16|fp8"},
             {"round", "bf16|f32"},
             {"weights", "auto|resident|staged|streamed"}};

static bool same_name(const char *a, const char *b) /* '-' and '_' are one */
{
    while (*a && (*a == *b || ((*a == '-' || *a == '_') && (*b == '-' || *b == '_')))) {
        a++;
        b++;
    }
    return *a == *b;
}

static const struct row *find(const char *name)
{
    for (int i = 0; i < N_ROWS; i++)
        if (same_name(rows[i].name, name))
            return &rows[i];
    return NULL;
}

static const char *nearest(const char *name, unsigned programs)
{
    const char *names[N_ROWS + 1] = {NULL};
    int n = 0;
    for (int i = 0; i < N_ROWS; i++)
        if (rows[i].programs & programs)
            names[n++] = rows[i].name;
    const char *best = str_nearest(name, names);
    return best ? best : "";
}

static const char *choices_of(const struct row *r)
{
    for (size_t i = 0; i < sizeof(choices) / sizeof(choices[0]); i++)
        if (strcmp(choices[i].name, r->name) == 0)
            return choices[i].choices;
    return NULL;
}

static int set_number(const struct row *r, void *at, const char *value, struct err *err)
{
    int64_t i;
    double f;
    int rc = r->type == TYPE_INT ? str_parse_i64(value, (int64_t)r->min, (int64_t)r->max, &i)
                                 : str_parse_f64(value, r->min, r->max, &f);
    if (rc < 0)
        return err_set(err, ERR_INVALID, "%s: '%s' is not allowed; %s from %.10g to %.10g is", r->name, value,
                       r->type == TYPE_INT ? "a whole number" : "a number", r->min, r->max);
    if (r->type == TYPE_INT)
        *(int64_t *)at = i;
    else
        *(double *)at = f;
    return 0;
}

static int set_text(const struct row *r, char *at, const char *value, struct err *err)
{
    const char *list = choices_of(r);
    if (list && !str_in_list(list, value))
        return err_set(err, ERR_INVALID, "%s: '%s' is not allowed; %s is", r->name, value, list);
    if (strlen(value) >= CONF_TEXT_MAX)
        return err_set(err, ERR_INVALID, "%s: longer than %d bytes", r->name, CONF_TEXT_MAX - 1);
    if (!str_utf8_ok(value, strlen(value)))
        return err_set(err, ERR_INVALID, "%s: the value is not UTF-8", r->name);
    return str_copy(at, CONF_TEXT_MAX, value);
}

static int set_row(struct conf *c, const struct row *r, const char *value, struct err *err)
{
    void *at = (char *)c + r->offset;
    if (r->type == TYPE_STR)
        return set_text(r, at, value, err);
    if (r->type != TYPE_BOOL)
        return set_number(r, at, value, err);
    if (str_parse_bool(value, at) < 0)
        return err_set(err, ERR_INVALID, "%s: '%s' is not allowed; yes or no is", r->name, value);
    return 0;
}

static void get_row(const struct conf *c, const struct row *r, char *ret, size_t size)
{
    const void *at = (const char *)c + r->offset;
    if (r->type == TYPE_STR)
        str_copy(ret, size, at);
    else if (r->type == TYPE_INT)
        str_format(ret, size, "%lld", (long long)*(const int64_t *)at);
    else if (r->type == TYPE_NUM)
        str_format(ret, size, "%.10g", *(const double *)at);
    else
        str_copy(ret, size, *(const bool *)at ? "yes" : "no");
}

int conf_set(struct conf *c, const char *name, const char *value, struct err *err)
{
    const struct row *r = find(name);
    if (!r) {
        const char *near = nearest(name, CONF_ALL);
        return err_set(err, ERR_INVALID, "there is no setting '%s'%s%s%s", name,
                       *near ? "; did you mean " : "", near, *near ? "?" : "");
    }
    return set_row(c, r, value, err);
}

const char *conf_nearest(unsigned programs, const char *name)
{
    const char *best = nearest(name, programs);
    return *best ? best : NULL;
}

int conf_get(const struct conf *c, const char *name, char *ret, size_t size)
{
    const struct row *r = find(name);
    if (!r)
        return ERR_NOTFOUND;
    get_row(c, r, ret, size);
    return 0;
}

void conf_init(struct conf *c)
{
    *c = (struct conf){0};
    for (int i = 0; i < N_ROWS; i++)
        set_row(c, &rows[i], rows[i].initial, NULL);
}

static const char *env_name(const struct row *r, char *dst)
{
    size_t n = 7;
    str_copy(dst, ENV_NAME_MAX, "TROUPE_");
    for (const char *s = r->name; *s && n + 1 < ENV_NAME_MAX; s++)
        dst[n++] = (char)toupper((unsigned char)*s);
    dst[n] = 0;
    return dst;
}

void conf_each(const struct conf *c, unsigned programs,
               void (*fn)(void *arg, const char *env, const char *value), void *arg)
{
    char env[ENV_NAME_MAX], value[CONF_TEXT_MAX], initial[CONF_TEXT_MAX];
    struct conf defaults;
    conf_init(&defaults);
    for (int i = 0; i < N_ROWS; i++) {
        get_row(c, &rows[i], value, sizeof(value));
        get_row(&defaults, &rows[i], initial, sizeof(initial));
        if ((rows[i].programs & programs) && strcmp(value, initial) != 0)
            fn(arg, env_name(&rows[i], env), value);
    }
}

/* ---- the file ---- */

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1]))
        s[--n] = 0;
    if (n >= 2 && s[0] == '"' && s[n - 1] == '"') {
        s[n - 1] = 0;
        s++;
    }
    return s;
}

static int read_line(struct conf *c, char *line, const char *path, int number, struct err *err)
{
    char *s = trim(line);
    if (*s == 0 || *s == '#')
        return 0;
    char *eq = strchr(s, '=');
    if (!eq)
        return err_set(err, ERR_INVALID, "%s, line %d: 'name = value' is the form", path, number);
    *eq = 0;
    int rc = conf_set(c, trim(s), trim(eq + 1), err);
    return rc < 0 ? err_wrap(err, "%s, line %d", path, number) : 0;
}

static int read_file(struct conf *c, const char *path, struct err *err)
{
    char line[CONF_TEXT_MAX + 128];
    int number = 0, rc = 0;
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set(err, ERR_INVALID, "config: %s cannot be read: %s", path, strerror(errno));
    while (rc == 0 && fgets(line, sizeof(line), f)) {
        number++;
        if (!strchr(line, '\n') && !feof(f))
            rc = err_set(err, ERR_INVALID, "%s, line %d: longer than %zu bytes", path, number,
                         sizeof(line) - 2);
        else
            rc = read_line(c, line, path, number, err);
    }
    if (rc == 0 && ferror(f))
        rc = err_set(err, ERR_INVALID, "config: %s cannot be read: %s", path, strerror(errno));
    fclose(f);
    return rc;
}

/* ---- the environment ---- */

/* The value of the first of TROUPE_NAME and the other names that is set and not empty. */
static const char *from_environment(const struct row *r, char *used)
{
    const char *value = getenv(env_name(r, used));
    for (const char *at = r->aliases; (!value || !*value) && *at;) {
        size_t n = strcspn(at, " ");
        str_format(used, ENV_NAME_MAX, "%.*s", (int)n, at);
        value = getenv(used);
        at += n + (at[n] == ' ');
    }
    return value && *value ? value : NULL;
}

int conf_environment(struct conf *c, unsigned program, const char *file, struct err *err)
{
    char used[ENV_NAME_MAX];
    if (!file)
        file = getenv("TROUPE_CONFIG");
    int rc = file && *file ? read_file(c, file, err) : 0;
    for (int i = 0; rc == 0 && i < N_ROWS; i++) {
        const char *value = rows[i].programs & program ? from_environment(&rows[i], used) : NULL;
        if (value) {
            rc = set_row(c, &rows[i], value, err);
            if (rc < 0)
                err_wrap(err, "environment variable %s", used);
        }
    }
    return rc;
}

/* ---- flags ---- */

/* The setting that a word like "--web-port=7860" or "--no-insecure" names, NULL for none; *ret_value: what it
 * says. */
static const struct row *row_of_flag(const char *word, char name[ENV_NAME_MAX], const char **ret_value)
{
    size_t n = strcspn(word, "=");
    if (n < 2 || n - 2 >= ENV_NAME_MAX || !str_starts(word, "--"))
        return NULL;
    str_format(name, ENV_NAME_MAX, "%.*s", (int)n - 2, word + 2);
    *ret_value = word[n] == '=' ? word + n + 1 : NULL;
    const struct row *r = find(name);
    if (!r && str_starts(name, "no-") && !*ret_value) {
        *ret_value = "no";
        r = find(name + 3);
        return r && r->type == TYPE_BOOL ? r : NULL;
    }
    return r;
}

int conf_flag(struct conf *c, unsigned program, int argc, char **argv, int *i, struct err *err)
{
    char name[ENV_NAME_MAX];
    const char *value = NULL;
    const struct row *r = row_of_flag(argv[*i], name, &value);
    if (!r || !(r->programs & program))
        return 0;
    (*i)++;
    if (!value && r->type == TYPE_BOOL)
        value = "yes";
    if (!value && *i >= argc)
        return err_set(err, ERR_INVALID, "--%s: a value must follow", name);
    if (!value)
        value = argv[(*i)++];
    int rc = set_row(c, r, value, err);
    return rc < 0 ? rc : 1;
}

static int unknown_flag(unsigned program, const char *word, struct err *err)
{
    char name[ENV_NAME_MAX], flag[ENV_NAME_MAX];
    if (!str_starts(word, "-"))
        return err_set(err, ERR_INVALID, "'%s' is not expected here; --help lists the flags", word);
    size_t skip = strspn(word, "-");
    str_format(name, sizeof(name), "%.*s", (int)strcspn(word + skip, "="), word + skip);
    str_copy(flag, sizeof(flag), nearest(name, program));
    for (char *s = flag; *s; s++)
        *s = *s == '_' ? '-' : *s;
    return err_set(err, ERR_INVALID, "there is no flag '%s'%s%s%s; --help lists the flags", word,
                   *flag ? "; did you mean --" : "", flag, *flag ? "?" : "");
}

/* --help, --help-table, --version, and --config FILE, wherever they stand. */
static enum conf_action special(int argc, char **argv, const char **ret_file)
{
    static const char *const names[] = {
        [CONF_HELP] = "--help", [CONF_HELP_TABLE] = "--help-table", [CONF_VERSION] = "--version"};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-h") == 0)
            return CONF_HELP;
        for (int k = CONF_HELP; k <= CONF_VERSION; k++)
            if (strcmp(argv[i], names[k]) == 0)
                return (enum conf_action)k;
        if (str_starts(argv[i], "--config="))
            *ret_file = argv[i] + 9;
        else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            *ret_file = argv[i + 1];
    }
    return CONF_RUN;
}

int conf_load(struct conf *c, unsigned program, int argc, char **argv, enum conf_action *ret, struct err *err)
{
    const char *file = NULL;
    struct conf v;
    conf_init(&v);
    enum conf_action todo = special(argc, argv, &file);
    int rc = todo == CONF_RUN ? conf_environment(&v, program, file, err) : 0;
    for (int i = 1; rc >= 0 && todo == CONF_RUN && i < argc;) {
        if (str_starts(argv[i], "--config")) {
            if (argv[i][8] == 0 && i + 1 >= argc)
                return err_set(err, ERR_INVALID, "--config: a file's name must follow");
            i += argv[i][8] == 0 ? 2 : 1;
            continue;
        }
        rc = conf_flag(&v, program, argc, argv, &i, err);
        if (rc == 0)
            rc = unknown_flag(program, argv[i], err);
    }
    if (rc < 0)
        return rc;
    *c = v;
    *ret = todo;
    return 0;
}

/* ---- what others make of it ---- */

json_t *conf_defaults(const struct conf *c)
{
    json_t *frames = c->default_frames > 0 ? json_integer((json_int_t)c->default_frames) : NULL;
    return json_pack("{s:s s:I s:o* s:f s:f s:I s:s}", "size", c->default_size, "num_inference_steps",
                     (json_int_t)c->default_steps, "num_frames", frames, "guidance_scale", c->default_guidance,
                     "flow_shift", c->default_shift, "seed", (json_int_t)c->default_seed, "prompt",
                     c->default_prompt);
}

/* web_port -> --web-port */
static const char *flag_name(const struct row *r, char *dst)
{
    str_format(dst, ENV_NAME_MAX, "--%s", r->name);
    for (char *s = dst + 2; *s; s++)
        *s = *s == '_' ? '-' : *s;
    return dst;
}

static const char *value_word(const struct row *r)
{
    static const char *const names[] = {"TEXT", "N", "X", ""};
    const char *list = choices_of(r);
    return list ? list : names[r->type];
}

/* Words of text into lines of at most `width`, each after `indent` spaces; the first line has begun already.
 */
static int wrapped(struct buf *out, const char *text, int indent, int width)
{
    int column = indent, rc = 0;
    while (rc == 0 && *text) {
        int n = (int)strcspn(text, " ");
        if (column + 1 + n > width && column > indent) {
            rc = buf_printf(out, "\n%*s", indent, "");
            column = indent;
        }
        if (rc == 0)
            rc = buf_printf(out, "%s%.*s", column > indent ? " " : "", n, text);
        column += n + (column > indent);
        text += n + (text[n] == ' ');
    }
    return rc < 0 ? rc : buf_puts(out, "\n");
}

static int help_row(const struct row *r, struct buf *out)
{
    char name[ENV_NAME_MAX], flag[2 * ENV_NAME_MAX], env[ENV_NAME_MAX], text[1024];
    str_format(flag, sizeof(flag), "  %s %s", flag_name(r, name), value_word(r));
    str_format(text, sizeof(text), "%s [%s%s%s%s%s]", r->help, r->initial, r->initial[0] ? "; " : "",
               env_name(r, env), r->aliases[0] ? " " : "", r->aliases);
    int rc = buf_printf(out, strlen(flag) < 29 ? "%-30s" : "%s\n                              ", flag);
    return rc < 0 ? rc : wrapped(out, text, 30, 100);
}

int conf_help(unsigned program, const char *name, const char *what, struct buf *out)
{
    int rc = buf_printf(
        out,
        "%s -- %s\n\nSettings, as flags; each is also an environment variable [in brackets, after the "
        "default]\nand a line 'name = value' of the file that --config FILE or TROUPE_CONFIG names.\n\n",
        name, what);
    for (int i = 0; rc == 0 && i < N_ROWS; i++)
        if (rows[i].programs & program)
            rc = help_row(&rows[i], out);
    return rc < 0 ? rc : buf_puts(out, "\n  --config FILE, --help, --help-table, --version\n");
}

int conf_help_table(unsigned programs, struct buf *out)
{
    static const char *const names[] = {"dispatcher", "worker", "cli"};
    char env[ENV_NAME_MAX], flag[ENV_NAME_MAX];
    int rc =
        buf_puts(out, "| setting | environment | default | for | what |\n| --- | --- | --- | --- | --- |\n");
    for (int i = 0; rc == 0 && i < N_ROWS; i++) {
        const struct row *r = &rows[i];
        if (!(r->programs & programs))
            continue;
        rc = buf_printf(out, "| `%s` | `%s`%s%s | %s%s%s |", flag_name(r, flag), env_name(r, env),
                        r->aliases[0] ? " " : "", r->aliases, r->initial[0] ? "`" : "", r->initial,
                        r->initial[0] ? "`" : "");
        for (unsigned k = 0; rc == 0 && k < 3; k++)
            if (r->programs & 1u << k)
                rc = buf_printf(out, " %s", names[k]);
        if (rc == 0)
            rc = buf_printf(out, " | %s |\n", r->help);
    }
    return rc;
}
