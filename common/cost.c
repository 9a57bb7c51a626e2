#include "common/cost.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "common/schema.h"

#define GUESS_AUDIO_S 5
#define NUMBERS 6 /* of a row */

static int read_row(const json_t *list, struct cost_row *ret)
{
    double v[NUMBERS];
    for (size_t i = 0; i < NUMBERS; i++) {
        const json_t *one = json_array_get(list, i);
        v[i] = json_number_value(one);
        if (!json_is_number(one) || !isfinite(v[i]) || v[i] < 0)
            return ERR_FORMAT;
    }
    *ret = (struct cost_row){v[0], v[1], v[2], v[3], v[4], v[5]};
    return v[0] >= 1 ? 0 : ERR_FORMAT;
}

static int read_point(const json_t *list, struct cost_point *ret)
{
    const json_t *n = json_array_get(list, 0), *worth = json_array_get(list, 1);
    *ret = (struct cost_point){json_number_value(n), json_number_value(worth)};
    return json_is_number(n) && json_is_number(worth) && isfinite(ret->n) && isfinite(ret->worth) && ret->n >= 1 &&
                   ret->worth > 0
               ? 0
               : ERR_FORMAT;
}

static int read_rows(const json_t *list, struct cost_model *m)
{
    m->n = (int)json_array_size(list);
    if (m->n < 1 || m->n > COST_ROWS)
        return ERR_FORMAT;
    for (int i = 0; i < m->n; i++)
        if (read_row(json_array_get(list, (size_t)i), &m->row[i]) < 0 ||
            (i > 0 && m->row[i].pixels <= m->row[i - 1].pixels))
            return ERR_FORMAT;
    return 0;
}

static int read_points(const json_t *list, struct cost_model *m)
{
    m->n_steps = (int)json_array_size(list);
    if (m->n_steps < 1 || m->n_steps > COST_POINTS)
        return ERR_FORMAT;
    for (int i = 0; i < m->n_steps; i++)
        if (read_point(json_array_get(list, (size_t)i), &m->steps[i]) < 0 ||
            (i > 0 && m->steps[i].n <= m->steps[i - 1].n))
            return ERR_FORMAT;
    return 0;
}

static int read_model(const json_t *o, struct cost_model *ret)
{
    struct cost_model m = {.window = json_number_value(json_object_get(o, "window")),
                           .slope = json_number_value(json_object_get(o, "slope"))};
    if (!isfinite(m.window) || m.window < 1 || !isfinite(m.slope) || m.slope < 0)
        return ERR_FORMAT;
    if (read_rows(json_object_get(o, "rows"), &m) < 0 || read_points(json_object_get(o, "steps"), &m) < 0)
        return ERR_FORMAT;
    *ret = m;
    return 0;
}

int cost_parse(const char *text, struct cost_model *ret, struct err *err)
{
    json_t *o = NULL;
    int rc = json_parse(text, strlen(text), 4, &o, err);
    if (rc == 0)
        rc = read_model(o, ret);
    json_decref(o);
    return rc < 0 ? err_set(err, rc, "the cost model is not of the expected form") : 0;
}

json_t *cost_json(const struct cost_model *m)
{
    json_t *rows = json_array(), *steps = json_array();
    for (int i = 0; steps && i < m->n_steps; i++)
        json_array_append_new(steps, json_pack("[f,f]", m->steps[i].n, m->steps[i].worth));
    for (int i = 0; rows && i < m->n; i++) {
        const struct cost_row *r = &m->row[i];
        json_array_append_new(rows, json_pack("[f,f,f,f,f,f]", r->pixels, r->step, r->once, r->once_frame, r->bytes,
                                              r->bytes_frame));
    }
    return json_pack("{s:f,s:f,s:o,s:o}", "window", m->window, "slope", m->slope, "steps", steps, "rows", rows);
}

/* The member `at` of the rows, at an area between two of them: a power law where both are above 0, else the larger. */
static double between(const struct cost_model *m, double pixels, size_t at)
{
    int hi = 1;
    while (hi < m->n - 1 && m->row[hi].pixels < pixels)
        hi++;
    const struct cost_row *a = &m->row[hi > 0 && m->n > 1 ? hi - 1 : 0], *b = &m->row[m->n > 1 ? hi : 0];
    double va = *(const double *)(const void *)((const char *)a + at);
    double vb = *(const double *)(const void *)((const char *)b + at);
    if (a == b || va <= 0 || vb <= 0)
        return va > vb ? va : vb;
    double part = log(pixels / a->pixels) / log(b->pixels / a->pixels);
    return va * pow(vb / va, part);
}

/* What n steps are worth: straight between the points. */
static double worth_of(const struct cost_model *m, double n)
{
    const struct cost_point *p = m->steps;
    int i = 1;
    if (m->n_steps == 1 || n <= p[0].n)
        return p[0].worth * n / p[0].n;
    while (i < m->n_steps - 1 && p[i].n < n)
        i++;
    return p[i - 1].worth + (p[i].worth - p[i - 1].worth) * (n - p[i - 1].n) / (p[i].n - p[i - 1].n);
}

/* The video's pixels: a size class keeps the picture's shape, its area is the square's. */
static double pixels_of(const json_t *params)
{
    int size = 0, w = 0, h = 0;
    if (schema_size(params, &size, &w, &h) < 0)
        return 0;
    return size > 0 ? (double)size * size : (double)w * h;
}

static double frames_of(const json_t *params, double audio_s)
{
    double asked = (double)schema_int(params, "num_frames", 0);
    double frames = asked > 0 ? asked : (audio_s > 0 ? audio_s : GUESS_AUDIO_S) * schema_num(params, "fps", 25);
    return frames > 1 ? frames : 1;
}

struct cost_guess cost_guess(const struct cost_model *m, const json_t *params, double audio_s)
{
    struct cost_guess g = {0};
    double pixels = pixels_of(params), frames = frames_of(params, audio_s);
    double more = frames > m->window ? frames - m->window : 0;
    double steps = (double)schema_int(params, "num_inference_steps", 50);
    if (pixels <= 0 || m->n < 1)
        return g;
    double gflop = worth_of(m, steps) * ceil(1 + m->slope * more) * between(m, pixels, offsetof(struct cost_row, step)) +
                   between(m, pixels, offsetof(struct cost_row, once)) +
                   more * between(m, pixels, offsetof(struct cost_row, once_frame));
    double bytes = between(m, pixels, offsetof(struct cost_row, bytes)) +
                   more * between(m, pixels, offsetof(struct cost_row, bytes_frame));
    g.frames = (int64_t)frames;
    g.gflop = isfinite(gflop) ? gflop : 0;
    g.bytes = isfinite(bytes) && bytes < 9e18 ? (int64_t)bytes : 0;
    return g;
}
