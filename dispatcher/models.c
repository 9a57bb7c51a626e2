#include "dispatcher/models.h"

#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "common/str.h"
#include "dispatcher/backend.h"

enum { REFRESH_MS = 1000, MODELS_MAX = 16 };

struct model {
    char generator[32];
    bool known;
    struct cost_model cost;
    int64_t memory;
};

struct models {
    struct app *app;
    struct model model[MODELS_MAX];
    int n;
    bool asking;
    uv_timer_t tick;
};

static struct model *find(struct models *m, const char *generator, bool make)
{
    for (int i = 0; i < m->n; i++) {
        if (strcmp(m->model[i].generator, generator) == 0)
            return &m->model[i];
    }
    if (!make || m->n == MODELS_MAX || strlen(generator) >= sizeof m->model->generator)
        return NULL;
    struct model *one = &m->model[m->n++];
    str_copy(one->generator, sizeof one->generator, generator);
    return one;
}

/* What cannot be read leaves what was known before. */
static void take(struct models *m, const json_t *o)
{
    json_t *models = json_object_get(o, "models"), *memory = json_object_get(o, "memory"), *v;
    const char *generator;
    for (int i = 0; i < m->n; i++)
        m->model[i].memory = 0; /* its workers may be gone */
    json_object_foreach(memory, generator, v) {
        struct model *one = find(m, generator, true);
        if (one)
            one->memory = (int64_t)json_number_value(v);
    }
    json_object_foreach(models, generator, v) {
        struct model *one = find(m, generator, true);
        struct cost_model cost;
        struct err err = {0};
        if (!one || !json_is_string(v))
            continue;
        if (cost_parse(json_string_value(v), &cost, &err) < 0) {
            LOG(DEBUG, "a cost model cannot be read", log_str("generator", generator), log_str("why", err.text));
            continue;
        }
        one->cost = cost;
        one->known = true;
    }
}

static void on_models(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct models *m = arg;
    struct err err = *why;
    json_t *o = NULL;
    m->asking = false;
    if (rc == 0 && queue_read_object(bytes, len, &o, &err) == 0)
        take(m, o);
    json_decref(o);
}

void models_refresh(struct models *m)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    if (m->asking || !backend_ready(m->app->backend))
        return;
    m->asking = true;
    if (queue_cmd_models(&c, &m->app->queue, &err) == 0)
        backend_send(m->app->backend, &c, on_models, m);
    else
        m->asking = false;
    queue_cmd_done(&c);
}

static void on_tick(uv_timer_t *t)
{
    models_refresh(t->data);
}

int models_new(struct app *app, struct models **ret, struct err *err)
{
    struct models *m = mem_zalloc(sizeof *m);
    if (!m)
        return err_set(err, ERR_NOMEM, "out of memory");
    m->app = app;
    uv_timer_init(app->loop, &m->tick);
    m->tick.data = m;
    uv_timer_start(&m->tick, on_tick, REFRESH_MS, REFRESH_MS);
    *ret = m;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

void models_free(struct models *m)
{
    if (m)
        uv_close((uv_handle_t *)&m->tick, on_closed);
}

bool models_guess(const struct models *m, const char *generator, const json_t *params, double audio_s,
                  struct cost_guess *ret, int64_t *ret_memory)
{
    const struct model *one = find((struct models *)(uintptr_t)m, generator, false);
    if (!one || !one->known)
        return false;
    *ret = cost_guess(&one->cost, params, audio_s);
    *ret_memory = one->memory;
    return true;
}
