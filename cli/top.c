/* top: the queue as it is, drawn again and again. */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/board.h"
#include "cli/http.h"
#include "cli/screen.h"
#include "cli/top_view.h"
#include "common/clock.h"
#include "common/str.h"

enum { CALL_S = 10, TEXT_MAX = 1 << 20, PLAIN_WIDTH = 100, PLAIN_HEIGHT = 200 };

struct top {
    json_t *stats, *workers, *dead; /* owned; dead is the answer's list of jobs */
};

static void top_done(struct top *t)
{
    json_decref(t->stats);
    json_decref(t->workers);
    json_decref(t->dead);
    *t = (struct top){0};
}

/* The new picture, or the old one with why. */
static int refresh(const struct cli *c, struct top *t, struct err *err)
{
    struct top n = {0};
    json_t *dead = NULL;
    int rc = http_json(c, "GET", "/v1/queue", NULL, CALL_S, &n.stats, err);
    if (rc == 0)
        rc = board_workers(c, &n.workers, err);
    if (rc == 0)
        rc = http_json(c, "GET", "/v1/queue/dead?limit=20", NULL, CALL_S, &dead, err);
    n.dead = json_incref(json_object_get(dead, "jobs"));
    json_decref(dead);
    if (rc < 0) {
        top_done(&n);
        return rc;
    }
    top_done(t);
    *t = n;
    return 0;
}

static void view(const struct cli *c, const struct top *t, const char *problem, int width, int height, bool colors,
                 struct buf *out)
{
    struct top_data d = {.server = c->server, .stats = t->stats, .workers = t->workers, .dead = t->dead, .problem = problem};
    top_view(&d, width, height, colors, out);
}

static int columns(void)
{
    const char *text = getenv("COLUMNS");
    int64_t n = PLAIN_WIDTH;
    if (text && str_parse_i64(text, 20, 1000, &n) < 0)
        n = PLAIN_WIDTH;
    return (int)n;
}

/* No terminal: one picture, as text or as JSON. */
static void print_once(const struct cli *c, const struct top *t)
{
    struct buf out;
    if (c->json) {
        cli_print_json(json_pack("{s:O, s:O, s:O}", "queue", t->stats, "workers", t->workers, "failed", t->dead));
        return;
    }
    buf_init(&out, TEXT_MAX);
    view(c, t, NULL, columns(), PLAIN_HEIGHT, false, &out);
    fputs(out.data ? out.data : "", stdout);
    buf_done(&out);
}

/* Until q, or a signal. A dispatcher that is away is waited for: the old picture stays, and says so. */
static void watch(const struct cli *c, struct screen *s, struct top *t, double interval)
{
    struct buf out;
    struct err why = {0};
    int key = 0;
    buf_init(&out, TEXT_MAX);
    while (key != 'q' && key != 'Q' && key != SCREEN_STOP) {
        int64_t until = clock_us() + (int64_t)(interval * (double)CLOCK_S);
        do {
            screen_size(s);
            buf_clear(&out);
            view(c, t, why.code ? why.text : NULL, s->width, s->height, s->colors, &out);
            screen_show(&out);
            int64_t ms = (until - clock_us()) / CLOCK_MS;
            key = screen_key(ms > 0 ? (int)ms : 0);
        } while (key == SCREEN_SIZE);
        if (key == 0 || key == ' ') {
            err_clear(&why);
            refresh(c, t, &why);
        }
    }
    buf_done(&out);
}

static int run(const struct cli *c, double interval, struct err *err)
{
    struct top t = {0};
    struct screen s = {0};
    if (!setlocale(LC_CTYPE, "C.UTF-8")) /* columns of what is not ASCII */
        setlocale(LC_CTYPE, "");
    cli_catch_signals();
    int rc = refresh(c, &t, err);
    if (rc == 0 && !c->json && screen_open(&s)) {
        watch(c, &s, &t, interval);
        screen_close(&s);
    } else if (rc == 0) {
        print_once(c, &t);
    }
    top_done(&t);
    return rc;
}

int top_command(struct cli *c, int argc, char **argv)
{
    const char *text = NULL;
    double interval = 1;
    const struct arg own[] = {{"interval", &text, NULL, "SECONDS", "how often it is drawn, 0.1 to 3600 [1]"}, {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && text && str_parse_f64(text, 0.1, 3600, &interval) < 0)
        rc = err_set(&err, ERR_INVALID, "--interval: %s is not a number of seconds from 0.1 to 3600", text);
    if (rc == 0 && r.help)
        args_help(c, "[--interval SECONDS]",
                  "The queue as it is now: numbers, levels, workers, the last failures. q ends it, the space bar draws\n"
                  "at once. Without a terminal, and with --json: once.",
                  own, false);
    else if (rc == 0)
        rc = run(c, interval, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
