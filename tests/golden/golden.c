#include "tests/golden/golden.h"

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "tests/golden/report.h"

/* ---- inputs ------------------------------------------------------------------------------------------ */

bool golden_has(struct golden *g, const char *name)
{
    return g->file && !tensor_is_none(ckpt_find(g->file, name));
}

struct tensor golden_host(struct golden *g, const char *name)
{
    struct tensor t = g->file ? ckpt_find(g->file, name) : TENSOR_NONE;
    if (tensor_is_none(t))
        golden_fail(g, "%s is not stored", name);
    return t;
}

static bool is_float(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F64 || t == DTYPE_F16 || t == DTYPE_BF16 || t == DTYPE_F8E4M3;
}

/* Element i of a contiguous tensor; integers up to 2^53 exactly. */
static double element(struct tensor t, int64_t i)
{
    const char *p = (const char *)t.data + (size_t)i * dtype_bytes(t.dtype);
    float f = 0;
    int64_t v = 0;
    double d = 0;
    if (t.dtype == DTYPE_F64) {
        memcpy(&d, p, sizeof d);
        return d;
    }
    if (t.dtype == DTYPE_I64) {
        memcpy(&v, p, sizeof v);
        return (double)v;
    }
    if (t.dtype == DTYPE_I32) {
        int32_t w;
        memcpy(&w, p, sizeof w);
        return w;
    }
    dtype_read_f32(&f, p, t.dtype, 1, 1);
    return f;
}

struct tensor golden_in(struct golden *g, const char *name)
{
    struct tensor t = golden_host(g, name);
    if (tensor_is_none(t))
        return t;
    int64_t n = tensor_count(t);
    bool real = is_float(t.dtype);
    void *copy = mem_calloc((size_t)n + 1, 4);
    if (!copy) {
        golden_fail(g, "out of memory");
        return TENSOR_NONE;
    }
    for (int64_t i = 0; i < n; i++) {
        if (real)
            ((float *)copy)[i] = (float)element(t, i);
        else
            ((int32_t *)copy)[i] = (int32_t)element(t, i);
    }
    t = run_write(g->run, copy, real ? DTYPE_F32 : DTYPE_I32, t.n_dims, t.shape);
    mem_free(copy);
    return t;
}

json_t *golden_param_json(struct golden *g, const char *key)
{
    json_t *v = json_object_get(json_object_get(g->twin, "params"), key);
    return v ? v : json_object_get(g->twin, key);
}

double golden_param(struct golden *g, const char *key, double otherwise)
{
    json_t *v = golden_param_json(g, key);
    return json_is_number(v) ? json_number_value(v) : json_is_boolean(v) ? json_is_true(v) : otherwise;
}

struct ckpt *golden_other(struct golden *g, const char *relative_stem)
{
    char path[2048];
    struct ckpt *c = NULL;
    if (g->report->n_others == GOLDEN_MAX_OTHERS) {
        golden_fail(g, "more than %d other files", GOLDEN_MAX_OTHERS);
        return NULL;
    }
    if (str_format(path, sizeof path, "%s/../%s.safetensors", g->dir, relative_stem) < 0 ||
        ckpt_open(&c, path, &g->err) < 0)
        return NULL;
    g->report->others[g->report->n_others++] = c;
    return c;
}

int golden_pool(struct golden *g, struct ckpt *c, golden_bind_fn *bind, const void *arg)
{
    struct ckpt_place *place = ckpt_place(c);
    struct pool *shapes = NULL;
    const bool is_streamed = g->weights == AVATAR_STREAMED;
    if (g->weights == AVATAR_RESIDENT)
        return 0;
    int rc = pool_new(&shapes, NULL, 0, false, &g->err);
    *place = (struct ckpt_place){.pool = shapes, .is_streamed = is_streamed};
    if (rc == 0)
        bind(g, c, arg);
    if (rc == 0)
        rc = pool_new(&g->pool, g->device, place->bytes, true, &g->err);
    *place = (struct ckpt_place){.pool = g->pool, .is_streamed = is_streamed};
    pool_free(shapes);
    return g->err.code < 0 ? g->err.code : rc;
}

void golden_pool_free(struct golden *g)
{
    pool_free(g->pool);
    g->pool = NULL;
}

/* ---- bounds ------------------------------------------------------------------------------------------ */

void golden_bound(struct golden *g, double atol, double rtol)
{
    g->report->bound_set = true;
    g->report->atol = atol;
    g->report->rtol = rtol;
}

/* The first number of a phrase that is not a part of a word ("f32: max abs 5e-5" -> 5e-5); "exact" is 0. */
static bool phrase_number(const char *s, double *ret)
{
    if (strstr(s, "exact")) {
        *ret = 0;
        return true;
    }
    for (const char *p = s; *p; p++) {
        char word[32];
        if (!isdigit((unsigned char)*p) || (p > s && !isspace((unsigned char)p[-1])))
            continue;
        size_t n = strspn(p, "0123456789.e+-");
        if (n < sizeof word && !isalnum((unsigned char)p[n]) &&
            str_format(word, sizeof word, "%.*s", (int)n, p) == 0 &&
            str_parse_f64(word, 0, DBL_MAX, ret) == 0)
            return true;
    }
    return false;
}

/* Whether a phrase speaks of this tensor: its first word, without a plural ending, is in the tensor's name.
 */
static bool phrase_names(const char *s, const char *name)
{
    char word[32];
    s += strspn(s, " ");
    size_t n = strcspn(s, " :");
    if (n < 3 || str_format(word, sizeof word, "%.*s", (int)n, s) < 0)
        return false;
    if (strstr(name, word))
        return true;
    for (int cut = 1; cut <= 2 && n >= 4; cut++) {
        if (word[n - 1] == 's')
            word[n - (size_t)cut] = 0;
        if (strstr(name, word))
            return true;
    }
    return false;
}

/* Tolerances written as a sentence: phrases with one number each, the one that names the tensor or else the
 * first. */
static bool parse_bound(const char *text, const char *name, double *atol, double *rtol)
{
    char copy[512];
    bool found = false;
    if (str_copy(copy, sizeof copy, text) < 0)
        return false;
    for (char *p = copy; p;) {
        char *next = strpbrk(p, ";,");
        double v = 0;
        if (next)
            *next++ = 0;
        if ((!found || phrase_names(p, name)) && phrase_number(p, &v)) {
            *atol = v;
            *rtol = strstr(p, "max(1") ? v : 0;
            found = true;
            if (phrase_names(p, name))
                return true;
        }
        p = next;
    }
    return found;
}

static bool find_bound(struct golden *g, const char *name, double *atol, double *rtol)
{
    json_t *t = json_object_get(g->twin, "tolerance");
    if (g->report->bound_set) {
        *atol = g->report->atol;
        *rtol = g->report->rtol;
        return true;
    }
    if (json_is_object(t)) {
        *atol = json_number_value(json_object_get(t, "atol"));
        *rtol = json_number_value(json_object_get(t, "rtol"));
        return *atol > 0 || *rtol > 0;
    }
    return json_is_string(t) && parse_bound(json_string_value(t), name, atol, rtol);
}

/* ---- results ----------------------------------------------------------------------------------------- */

void golden_fail(struct golden *g, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_set(&g->err, ERR_INTERNAL, "%s", text);
}

void golden_note(struct golden *g, const char *what, double share)
{
    struct golden_report *r = g->report;
    for (size_t i = 0; g->file && i < ckpt_count(g->file); i++)
        if (strcmp(ckpt_name(g->file, i), what) == 0)
            r->checked[i] = 1;
    if (r->verbose)
        printf("       %-40s %.4g\n", what, share);
    r->n_checks++;
    if (!(share <= r->worst) || r->n_checks == 1) {
        r->worst = isnan(share) ? INFINITY : share;
        str_copy(r->worst_name, sizeof r->worst_name, what);
    }
}

/* Kept by the rank that was alone, compared by those that share the case. Results only: between them a rank has its own rows,
 * and the stored ones in the place of the others. */
static void keep_or_compare(struct golden *g, const char *name, struct tensor got)
{
    struct golden_report *r = g->report;
    const int64_t n = tensor_count(got);
    if (!str_starts(name, "out."))
        return;
    for (int i = 0; r->kept && i < r->kept->n; i++) {
        const struct golden_kept_one *k = &r->kept->one[i];
        for (int64_t e = 0; strcmp(k->name, name) == 0 && n == k->n && e < n; e++) {
            const double d = fabs(element(got, e) - k->value[e]);
            if (!(d <= r->apart)) {
                r->apart = d;
                str_copy(r->apart_name, sizeof r->apart_name, name);
            }
        }
    }
    if (!r->keep || r->keep->n == GOLDEN_MAX_KEPT)
        return;
    struct golden_kept_one *k = &r->keep->one[r->keep->n];
    k->value = mem_calloc((size_t)n + 1, sizeof *k->value);
    if (!k->value)
        return;
    r->keep->n++;
    k->n = n;
    str_copy(k->name, sizeof k->name, name);
    for (int64_t e = 0; e < n; e++)
        k->value[e] = element(got, e);
}

static void compare_rms(struct golden *g, const char *name, struct tensor want, struct tensor got)
{
    double off = 0, all = 1e-30;
    for (int64_t i = 0; i < tensor_count(want); i++) {
        double a = element(want, i), d = a - element(got, i);
        off += d * d;
        all += a * a;
    }
    double share = sqrt(off / all) / g->report->rms;
    golden_note(g, name, share);
    if (!(share <= 1))
        golden_fail(g, "%s: root mean square of the difference %.3g, allowed %.3g", name, sqrt(off / all), g->report->rms);
}

static void compare(struct golden *g, const char *name, struct tensor want, struct tensor got)
{
    double atol = 0, rtol = 0, worst = 0;
    int64_t n = tensor_count(want), at = 0;
    if (n != tensor_count(got)) {
        golden_fail(g, "%s: %lld values made, %lld stored", name, (long long)tensor_count(got), (long long)n);
        return;
    }
    if (g->report->rms > 0) {
        compare_rms(g, name, want, got);
        return;
    }
    if (!find_bound(g, name, &atol, &rtol)) {
        golden_fail(g, "%s: the twin states no tolerance for it", name);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        double a = element(want, i), b = element(got, i), d = fabs(a - b), bound = atol + rtol * fabs(a);
        double share =
            isfinite(a) && isfinite(b) ? (d > 0 ? d / bound : 0) : INFINITY; /* bound 0: infinite */
        if (share > worst) {
            worst = share;
            at = i;
        }
    }
    golden_note(g, name, worst);
    keep_or_compare(g, name, got);
    if (worst > 1)
        golden_fail(g, "%s[%lld]: %.9g made, %.9g stored, bound %g + %g |x|", name, (long long)at,
                    element(got, at), element(want, at), atol, rtol);
}

void golden_check_host(struct golden *g, const char *name, const float *values, int64_t n)
{
    struct tensor want = golden_host(g, name);
    if (!tensor_is_none(want))
        compare(g, name, want, tensor_of((void *)(uintptr_t)values, DTYPE_F32, 1, SHAPE(n)));
}

void golden_check_exact(struct golden *g, const char *name, const int64_t *values, int64_t n)
{
    struct tensor want = golden_host(g, name);
    if (tensor_is_none(want))
        return;
    if (n != tensor_count(want)) {
        golden_fail(g, "%s: %lld values made, %lld stored", name, (long long)n,
                    (long long)tensor_count(want));
        return;
    }
    int64_t wrong = 0, at = -1;
    for (int64_t i = 0; i < n; i++) {
        if (element(want, i) != (double)values[i]) {
            wrong++;
            at = at < 0 ? i : at;
        }
    }
    golden_note(g, name, (double)wrong);
    if (wrong)
        golden_fail(g, "%s[%lld]: %lld made, %.17g stored (%lld of %lld differ)", name, (long long)at,
                    (long long)values[at], element(want, at), (long long)wrong, (long long)n);
}

void golden_check(struct golden *g, const char *name, struct tensor t)
{
    struct tensor want = golden_host(g, name);
    if (tensor_is_none(want) || run_failed(g->run))
        return;
    if (tensor_is_none(t)) {
        golden_fail(g, "%s: nothing was made", name);
        return;
    }
    void *host = mem_aligned(64, tensor_bytes(t) + 64);
    if (!host) {
        golden_fail(g, "out of memory");
        return;
    }
    if (run_read(g->run, t, host) == 0)
        compare(g, name, want, tensor_of(host, t.dtype, t.n_dims, t.shape));
    mem_free(host);
}
