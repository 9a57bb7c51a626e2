/* main.c -- troupe-dispatcher: settings, then Redis, then the listening sockets; then the loop; then an orderly end.
 *
 * Exit codes: 0 stopped as told; 2 the settings are wrong; 3 Redis cannot be used; 4 the volume cannot; 5 no address to
 * listen on. Each with one sentence on standard error.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/blob.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/str.h"
#include "common/version.h"
#include "dispatcher/api_events.h"
#include "dispatcher/app.h"
#include "dispatcher/backend.h"
#include "dispatcher/events.h"
#include "dispatcher/gate.h"
#include "dispatcher/models.h"
#include "dispatcher/server.h"
#include "dispatcher/tenants.h"
#include "dispatcher/webhook.h"

enum { EXIT_SETTINGS = 2, EXIT_REDIS = 3, EXIT_VOLUME = 4, EXIT_LISTEN = 5 };
enum { SMALL_BODIES = 64 << 20 }; /* room beside one JSON body of the largest size */
enum { DRAIN_TICK_MS = 20, DRAIN_MAX_MS = 10000 };

struct program {
    struct app app;
    uv_signal_t term, intr;
    uv_timer_t drain;
    int64_t drain_until_us;
    int exit_code;
};

static struct program prog;

static void stop(struct program *p, int code, const struct err *err)
{
    if (err)
        LOG(ERROR, "cannot start", log_code(err->code), log_str("why", err->text));
    p->exit_code = code;
    uv_stop(p->app.loop);
}

/* ---- listening ---- */

static int write_port_file(const char *path, int port, struct err *err)
{
    char text[16], tmp[CONF_TEXT_MAX + 8];
    str_format(text, sizeof text, "%d\n", port);
    str_format(tmp, sizeof tmp, "%s.tmp", path);
    FILE *f = fopen(tmp, "w");
    bool bad = !f || fputs(text, f) == EOF;
    bad |= f && fclose(f) != 0;
    if (bad || rename(tmp, path) < 0)
        return err_set(err, ERR_IO, "port_file: %s cannot be written", path);
    return 0;
}

static int listen_all(struct program *p, struct err *err)
{
    const struct conf *c = &p->app.conf;
    struct err second = {0};
    int port = 0, web = 0;
    int rc = server_listen(p->app.server, c->bind, (int)c->port, &port, err);
    if (rc < 0)
        return rc;
    bool more = c->web_port >= 0 && c->web_port != port;
    if (more && server_listen(p->app.server, c->bind, (int)c->web_port, &web, &second) < 0)
        LOG(WARN, "no second port for the page; the first one has it too", log_str("why", second.text));
    if (*c->port_file && (rc = write_port_file(c->port_file, port, err)) < 0)
        return rc;
    LOG(INFO, "listening", log_str("bind", c->bind), log_int("port", port), log_int("web_port", web),
        log_int("pid", getpid()), log_num("ms", (double)(clock_us() - p->app.started_us) / 1000));
    printf("listening on http://%s:%d\n", c->bind, port);
    fflush(stdout);
    return 0;
}

/* Redis was found and is good, or why not. Only now is there anything to listen for. */
static void on_first(struct app *app, int rc, const struct err *why)
{
    struct program *p = &prog;
    struct err err = {0};
    if (rc < 0) {
        stop(p, EXIT_REDIS, why);
        return;
    }
    struct server_opts o = {
        .app = app,
        .max_connections = (unsigned)app->conf.max_connections,
        .idle_s = (unsigned)app->conf.idle_s,
        .header_bytes = (unsigned)app->conf.max_header_bytes,
        .max_body_memory = (uint64_t)app->conf.max_json_bytes + SMALL_BODIES,
    };
    tenants_push(app->tenants); /* before the first submit can come */
    models_refresh(app->models);
    if (events_new(app, &app->events, &err) < 0 || api_events_new(app, &app->streams, &err) < 0 ||
        webhook_new(app, &app->webhook, &err) < 0 ||
        server_new(app->loop, &o, &app->server, &err) < 0 || listen_all(p, &err) < 0)
        stop(p, EXIT_LISTEN, &err);
}

/* ---- stopping ---- */

static void on_drain(uv_timer_t *t)
{
    struct program *p = t->data;
    unsigned n = server_n_requests(p->app.server);
    if ((n > 0 || webhook_busy(p->app.webhook)) && clock_us() < p->drain_until_us)
        return;
    if (n > 0)
        LOG(WARN, "stopping with requests unanswered", log_int("requests", n));
    stop(p, 0, NULL);
}

static void on_signal(uv_signal_t *h, int number)
{
    struct program *p = h->data;
    if (!p->app.server || uv_is_active((uv_handle_t *)&p->drain)) { /* not begun, or told twice */
        stop(p, 0, NULL);
        return;
    }
    LOG(INFO, "stopping", log_int("signal", number), log_int("requests", server_n_requests(p->app.server)));
    p->drain_until_us = clock_us() + DRAIN_MAX_MS * CLOCK_MS;
    server_drain(p->app.server);
    api_events_drain(p->app.streams);
    webhook_drain(p->app.webhook);
    events_resync(p->app.events); /* those who wait for a job are answered with what it is now */
    uv_timer_start(&p->drain, on_drain, 0, DRAIN_TICK_MS);
}

static void on_walk(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, NULL);
}

/* With requests left (the drain's deadline passed) memory is left to the system: pool threads may still use it. */
static void close_all(struct program *p)
{
    struct app *app = &p->app;
    if (app->server && server_n_requests(app->server) > 0)
        return;
    backend_free(app->backend);
    tenants_free(app->tenants);
    models_free(app->models);
    webhook_free(app->webhook);
    events_free(app->events);
    api_events_free(app->streams);
    server_free(app->server);
    uv_close((uv_handle_t *)&p->term, NULL);
    uv_close((uv_handle_t *)&p->intr, NULL);
    uv_close((uv_handle_t *)&p->drain, NULL);
    uv_run(app->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(app->loop) != 0) {
        uv_walk(app->loop, on_walk, NULL);
        uv_run(app->loop, UV_RUN_DEFAULT);
    }
    json_decref(app->defaults);
}

/* ---- start ---- */

static int start(struct program *p, struct err *err, int *ret_exit)
{
    struct app *app = &p->app;
    *ret_exit = EXIT_SETTINGS;
    int rc = gate_check_conf(&app->conf, &app->local_only, err);
    if (rc < 0 || (rc = webhook_check_conf(&app->conf, err)) < 0 || (rc = queue_init(&app->queue, app->conf.queue, err)) < 0)
        return rc;
    app->defaults = conf_defaults(&app->conf);
    if (!app->defaults)
        return err_set(err, ERR_NOMEM, "out of memory");
    *ret_exit = EXIT_VOLUME;
    if ((rc = blob_init(app->conf.volume, err)) < 0)
        return rc;
    uv_signal_init(app->loop, &p->term);
    uv_signal_init(app->loop, &p->intr);
    uv_timer_init(app->loop, &p->drain);
    p->term.data = p->intr.data = p->drain.data = p;
    uv_signal_start(&p->term, on_signal, SIGTERM);
    uv_signal_start(&p->intr, on_signal, SIGINT);
    *ret_exit = EXIT_SETTINGS;
    if ((rc = tenants_new(app, &app->tenants, err)) < 0 || (rc = models_new(app, &app->models, err)) < 0)
        return rc;
    return backend_new(app, (unsigned)(app->conf.redis_wait_s * 1000), on_first, &app->backend, err);
}

/* "troupe-dispatcher --new-key [ID]": the key, once, and the line for the keys file. Nothing keeps the key. */
static int new_key(const char *id)
{
    char key[KEYS_TEXT], hash[SHA256_HEX], made[16];
    int rc = keys_make(key, hash);
    if (rc < 0) {
        fputs("no randomness for a key\n", stderr);
        return EXIT_SETTINGS;
    }
    str_format(made, sizeof made, "k-%.8s", hash);
    printf("The key, for its user alone; it is not shown again:\n\n    %s\n\n"
           "For the keys file, in \"keys\" of its tenant:\n\n"
           "    {\"id\": \"%s\", \"sha256\": \"%s\", \"scope\": \"jobs\"}\n", key, id ? id : made, hash);
    return 0;
}

static int print_help(enum conf_action todo)
{
    struct buf b;
    buf_init(&b, 256 * 1024);
    if (todo == CONF_HELP) {
        conf_help(CONF_DISPATCHER, "troupe-dispatcher", "the HTTP gateway of the queue", &b);
        buf_puts(&b, "\nA new key for the keys file:  troupe-dispatcher --new-key [ID]\n");
    } else if (todo == CONF_HELP_TABLE)
        conf_help_table(CONF_DISPATCHER, &b);
    else
        buf_printf(&b, "troupe-dispatcher %s (%s)\n", version_text(), version_build());
    fputs(b.data ? b.data : "", stdout);
    buf_done(&b);
    return 0;
}

int main(int argc, char **argv)
{
    struct program *p = &prog;
    struct err err = {0};
    enum conf_action todo = CONF_RUN;
    p->app.started_us = clock_us();
    signal(SIGPIPE, SIG_IGN);
    log_init("troupe-dispatcher", LOG_KV, LOG_INFO);
    if (argc >= 2 && argc <= 3 && strcmp(argv[1], "--new-key") == 0)
        return new_key(argv[2]);
    if (conf_load(&p->app.conf, CONF_DISPATCHER, argc, argv, &todo, &err) < 0) {
        LOG(ERROR, "settings are not valid", log_str("why", err.text));
        return EXIT_SETTINGS;
    }
    if (todo != CONF_RUN)
        return print_help(todo);
    const char *level = p->app.conf.log_level;
    log_init("troupe-dispatcher", strcmp(p->app.conf.log_format, "json") == 0 ? LOG_JSON : LOG_KV,
             *level == 'd' ? LOG_DEBUG : *level == 'w' ? LOG_WARN : *level == 'e' ? LOG_ERROR : LOG_INFO);
    p->app.loop = uv_default_loop();
    if (start(p, &err, &p->exit_code) < 0) {
        LOG(ERROR, "cannot start", log_code(err.code), log_str("why", err.text));
        return p->exit_code;
    }
    p->exit_code = 0;
    uv_run(p->app.loop, UV_RUN_DEFAULT);
    close_all(p);
    return p->exit_code;
}
