/* conf: defaults, file, environment, flags and their order; every refusal's sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/blob.h"
#include "common/conf.h"
#include "common/str.h"

static struct err err;
static struct conf c;
static enum conf_action todo;

static int load(unsigned program, const char *a, const char *b, const char *d)
{
    char *argv[] = {(char *)(uintptr_t) "x", (char *)(uintptr_t)a, (char *)(uintptr_t)b, (char *)(uintptr_t)d,
                    NULL};
    int n = 1;
    while (argv[n])
        n++;
    err_clear(&err);
    return conf_load(&c, program, n, argv, &todo, &err);
}

static int clear(void **state)
{
    (void)state;
    char name[64];
    unsetenv("PORT");
    unsetenv("FASTAPI_PORT");
    for (char **e = environ; e && *e;) { /* whatever settings the person has */
        str_format(name, sizeof name, "%.*s", (int)strcspn(*e, "="), *e);
        if (strncmp(*e, "TROUPE_", 7) == 0 && unsetenv(name) == 0)
            e = environ; /* the list has moved */
        else
            e++;
    }
    return 0;
}

static void test_defaults(void **state)
{
    (void)state;
    assert_int_equal(load(CONF_DISPATCHER, NULL, NULL, NULL), 0);
    assert_int_equal(todo, CONF_RUN);
    assert_int_equal(c.port, 8000);
    assert_int_equal(c.web_port, 7860);
    assert_string_equal(c.bind, "127.0.0.1");
    assert_false(c.insecure);
    assert_true(c.ttl_s == 604800);
    assert_int_equal(c.default_seed, -1);
}

static void test_flags(void **state)
{
    (void)state;
    assert_int_equal(load(CONF_DISPATCHER, "--port", "81", "--insecure"), 0);
    assert_int_equal(c.port, 81);
    assert_true(c.insecure);
    assert_int_equal(load(CONF_DISPATCHER, "--web-port=-1", "--no-insecure", "--insecure=yes"), 0);
    assert_int_equal(c.web_port, -1);
    assert_true(c.insecure);
    assert_int_equal(load(CONF_WORKER, "--renew_s", "0.5", NULL), 0); /* either spelling */
    assert_true(c.renew_s == 0.5);
    assert_int_equal(load(CONF_WORKER, "--help", "--nonsense", NULL), 0);
    assert_int_equal(todo, CONF_HELP);
    assert_int_equal(load(CONF_WORKER, "--version", NULL, NULL), 0);
    assert_int_equal(todo, CONF_VERSION);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b, *sentence;
    } cases[] = {
        {"--port", "65536", "port: '65536' is not allowed; a whole number from 0 to 65535 is"},
        {"--port", "eighty", "port: 'eighty' is not allowed; a whole number from 0 to 65535 is"},
        {"--port", NULL, "--port: a value must follow"},
        {"--ttl-s", "nan", "ttl_s: 'nan' is not allowed; a number from 1 to 315360000 is"},
        {"--insecure=perhaps", NULL, "insecure: 'perhaps' is not allowed; yes or no is"},
        {"--log-format", "xml", "log_format: 'xml' is not allowed; kv|json is"},
        {"--prot", "1", "there is no flag '--prot'; did you mean --port?; --help lists the flags"},
        {"--lease-s", "9", "there is no flag '--lease-s'; --help lists the flags"}, /* the worker's */
        {"--quite-another-thing", NULL, "there is no flag '--quite-another-thing'; --help lists the flags"},
        {"word", NULL, "'word' is not expected here; --help lists the flags"},
        {"--config", "/nowhere", "config: /nowhere cannot be read: No such file or directory"},
        {"--config", NULL, "--config: a file's name must follow"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        c.port = 1234;
        assert_int_equal(load(CONF_DISPATCHER, cases[i].a, cases[i].b, NULL), ERR_INVALID);
        assert_string_equal(err.text, cases[i].sentence);
        assert_int_equal(c.port, 1234); /* untouched */
    }
}

static void test_environment(void **state)
{
    (void)state;
    setenv("PORT", "1", 1);
    assert_int_equal(load(CONF_DISPATCHER, NULL, NULL, NULL), 0);
    assert_int_equal(c.port, 1);
    setenv("FASTAPI_PORT", "2", 1);
    assert_int_equal(load(CONF_DISPATCHER, NULL, NULL, NULL), 0);
    assert_int_equal(c.port, 2);
    setenv("TROUPE_PORT", "3", 1);
    assert_int_equal(load(CONF_DISPATCHER, NULL, NULL, NULL), 0);
    assert_int_equal(c.port, 3);
    assert_int_equal(load(CONF_DISPATCHER, "--port", "4", NULL), 0);
    assert_int_equal(c.port, 4);
    setenv("TROUPE_PORT", "x", 1);
    assert_int_equal(load(CONF_WORKER, NULL, NULL, NULL), 0); /* not the worker's */
    assert_int_equal(load(CONF_DISPATCHER, NULL, NULL, NULL), ERR_INVALID);
    assert_string_equal(
        err.text,
        "environment variable TROUPE_PORT: port: 'x' is not allowed; a whole number from 0 to 65535 is");
}

static int with_file(const char *text)
{
    static const char path[] = "/tmp/troupe-conf-test";
    assert_int_equal(blob_publish_bytes(path, text, strlen(text), &err), 0);
    int rc = load(CONF_DISPATCHER, "--config", path, NULL);
    unlink(path);
    return rc;
}

static void test_file(void **state)
{
    (void)state;
    assert_int_equal(with_file("# comment\n\n port = 99\napi_key=\"a # b\"  \nlease_s = 5\nweb-port = 0"), 0);
    assert_int_equal(c.port, 99);
    assert_int_equal(c.web_port, 0);
    assert_string_equal(c.api_key, "a # b");
    setenv("TROUPE_PORT", "98", 1);
    assert_int_equal(with_file("port = 99\n"), 0);
    assert_int_equal(c.port, 98);
    unsetenv("TROUPE_PORT");
    assert_int_equal(with_file("port = 99\nprot = 1\n"), ERR_INVALID);
    assert_string_equal(err.text,
                        "/tmp/troupe-conf-test, line 2: there is no setting 'prot'; did you mean port?");
    assert_int_equal(with_file("port\n"), ERR_INVALID);
    assert_string_equal(err.text, "/tmp/troupe-conf-test, line 1: 'name = value' is the form");
}

static void count_lines(void *arg, const char *env, const char *value)
{
    int *n = arg;
    assert_true(str_starts(env, "TROUPE_"));
    assert_string_equal(value, "7");
    (*n)++;
}

static void test_hand_on(void **state)
{
    (void)state;
    int n = 0;
    char text[CONF_TEXT_MAX];
    conf_init(&c);
    assert_int_equal(conf_set(&c, "port", "7", &err), 0);
    conf_each(&c, CONF_ALL, count_lines, &n);
    assert_int_equal(n, 1);
    conf_each(&c, CONF_WORKER, count_lines, &n);
    assert_int_equal(n, 1);
    assert_int_equal(conf_get(&c, "backoff-s", text, sizeof(text)), 0);
    assert_string_equal(text, "2");
    assert_int_equal(conf_get(&c, "nothing", text, sizeof(text)), ERR_NOTFOUND);
}

/* Each setting of the table is in --help and in the README's table, with its environment variable. */
static void test_help(void **state)
{
    (void)state;
    struct buf help, table;
    char flag[64];
    buf_init(&help, 1 << 16);
    buf_init(&table, 1 << 16);
    assert_int_equal(conf_help(CONF_ALL, "troupe", "does it all", &help), 0);
    assert_int_equal(conf_help_table(CONF_ALL, &table), 0);
#define X(type, name, initial, min, max, env, programs, text)                                                \
    str_copy(flag, sizeof(flag), "--" #name);                                                                \
    for (char *s = flag; *s; s++)                                                                            \
        *s = *s == '_' ? '-' : *s;                                                                           \
    assert_non_null(strstr(help.data, flag));                                                                \
    str_copy(flag + strlen(flag), 16, "` | `TROUPE_");                                                       \
    assert_non_null(strstr(table.data, flag));                                                               \
    assert_non_null(strstr(table.data, text));
    CONF_MAP(X)
#undef X
    for (const char *line = help.data; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        size_t n = strcspn(line, "\n");
        assert_true(n <= 100 && (n == 0 || line[n - 1] != ' '));
    }
    buf_done(&help);
    buf_done(&table);
}

static void test_job_defaults(void **state)
{
    (void)state;
    conf_init(&c);
    conf_set(&c, "default_size", "64", &err);
    json_t *o = conf_defaults(&c);
    assert_string_equal(json_string_value(json_object_get(o, "size")), "64");
    assert_int_equal(json_integer_value(json_object_get(o, "num_inference_steps")), 50);
    assert_null(json_object_get(o, "num_frames"));
    json_decref(o);
    conf_set(&c, "default_frames", "129", &err);
    o = conf_defaults(&c);
    assert_int_equal(json_integer_value(json_object_get(o, "num_frames")), 129);
    assert_int_equal(json_object_size(o), 7);
    json_decref(o);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, clear)
    const struct CMUnitTest tests[] = {T(test_defaults),    T(test_flags),       T(test_refused),
                                       T(test_environment), T(test_file),        T(test_hand_on),
                                       T(test_help),        T(test_job_defaults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
