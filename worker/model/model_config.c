#include "worker/model/model_config.h"

#include <string.h>

enum { FILE_MAX = 1 << 20, DEPTH_MAX = 32 };

static void start(struct model_config *c, struct err *err)
{
    if (c->rc == 0 && !json_is_object(c->root))
        c->rc = err_set(err, ERR_FORMAT, "config: not an object");
    c->at = c->root;
    c->err = err;
}

void model_config_read(struct model_config *c, const char *path, struct err *err)
{
    *c = (struct model_config){0};
    c->rc = json_read_file(path, FILE_MAX, &c->root, err);
    start(c, err);
}

void model_config_parse(struct model_config *c, const char *text, size_t len, struct err *err)
{
    *c = (struct model_config){0};
    c->rc = json_parse(text, len, DEPTH_MAX, &c->root, err);
    start(c, err);
}

int model_config_done(struct model_config *c)
{
    int rc = c->rc;
    json_decref(c->root);
    *c = (struct model_config){.rc = rc};
    return rc;
}

bool model_config_enter(struct model_config *c, const char *key)
{
    json_t *o = json_object_get(c->at, key);
    if (!json_is_object(o))
        return false;
    c->at = o;
    return true;
}

void model_config_leave(struct model_config *c)
{
    c->at = c->root;
}

/* The value of key, NULL where the default counts. */
static json_t *find(const struct model_config *c, const char *key)
{
    json_t *v = c->rc < 0 ? NULL : json_object_get(c->at, key);
    return json_is_null(v) ? NULL : v;
}

int64_t model_config_int(struct model_config *c, const char *key, int64_t otherwise, int64_t min, int64_t max)
{
    json_t *v = find(c, key);
    if (!v)
        return otherwise;
    if (json_is_integer(v) && json_integer_value(v) >= min && json_integer_value(v) <= max)
        return json_integer_value(v);
    c->rc = err_set(c->err, ERR_FORMAT, "config: %s must be a whole number from %lld to %lld", key,
                    (long long)min, (long long)max);
    return otherwise;
}

float model_config_real(struct model_config *c, const char *key, double otherwise, double min, double max)
{
    json_t *v = find(c, key);
    if (!v)
        return (float)otherwise;
    if (json_is_number(v) && json_number_value(v) >= min && json_number_value(v) <= max)
        return (float)json_number_value(v);
    c->rc = err_set(c->err, ERR_FORMAT, "config: %s must be a number from %g to %g", key, min, max);
    return (float)otherwise;
}

enum act model_config_act(struct model_config *c, const char *key, enum act otherwise)
{
    static const struct {
        const char *name;
        enum act act;
    } list[] = {
        {"gelu", ACT_GELU_ERF}, {"quick_gelu", ACT_QUICK_GELU}, {"silu", ACT_SILU}, {"relu", ACT_RELU}};
    json_t *v = find(c, key);
    const char *name = json_string_value(v);
    if (!v)
        return otherwise;
    for (size_t i = 0; name && i < sizeof list / sizeof *list; i++) {
        if (strcmp(list[i].name, name) == 0)
            return list[i].act;
    }
    c->rc = err_set(c->err, ERR_FORMAT, "config: %s is \"%.40s\": gelu, quick_gelu, silu and relu are known",
                    key, name ? name : "(no text)");
    return otherwise;
}
