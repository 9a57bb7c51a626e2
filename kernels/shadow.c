/* shadow.c -- one op: copies of its tensors, three calls (device, cpu_ref, cpu_ref for the magnitude), the comparison. */
#include "kernels/shadow.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/cpu/ref.h"
#include "kernels/shadow_bound.h"

#define ARGS 10

enum call { CALL_DEVICE, CALL_REFERENCE, CALL_MAGNITUDE, CALL_NONE };

/* A tensor of the op, as it lies: from its first to its last element, gaps between rows included. */
struct copy {
    struct tensor given; /* none: the argument is no tensor, or none */
    size_t span;         /* bytes */
    char *now;  /* owned: before the op; of a result then what cpu_ref makes of it */
    char *size; /* owned: the same for the magnitude; NULL: now is right for it */
};

struct shadow {
    struct device *device, *reference; /* borrowed, owned */
    struct run run;                    /* of the reference */
    size_t max_bytes;

    /* the op at work */
    struct run *r;
    const struct tolerance *by;
    enum tolerance_op op;
    const struct shadow_arg *args;
    struct copy copies[ARGS];
    struct conv conv; /* without its activation */
    enum call call;
    bool is_copied;
    int rc;

    struct shadow_report report;
};

int shadow_open(struct shadow **ret, struct device *d, size_t max_bytes, struct err *err)
{
    if (strcmp(d->kind, "cpu_ref") == 0)
        return err_set(err, ERR_INVALID, "shadow: cpu_ref is what others are compared with: use --device cpu or cuda");
    struct shadow *s = mem_zalloc(sizeof(*s));
    int rc = s ? device_open(&s->reference, "cpu_ref", NULL, err) : err_set(err, ERR_NOMEM, "shadow: no memory");
    if (rc == 0)
        rc = run_init(&s->run, s->reference, 0, err);
    if (rc < 0) {
        shadow_close(s);
        return rc;
    }
    s->device = d;
    s->max_bytes = max_bytes;
    d->shadow = *ret = s;
    return 0;
}

void shadow_close(struct shadow *s)
{
    if (!s)
        return;
    if (s->device)
        s->device->shadow = NULL;
    run_done(&s->run);
    device_close(s->reference);
    mem_free(s);
}

void shadow_report(struct shadow *s, struct shadow_report *ret)
{
    *ret = s->report;
    s->report = (struct shadow_report){0};
}

/* ---- copies ---- */

static struct tensor given(const struct shadow_arg *a)
{
    return a->kind == SHADOW_TENSOR ? *(const struct tensor *)a->value
           : a->kind == SHADOW_ATTN ? ((const struct attn *)a->value)->mask
                                    : TENSOR_NONE;
}

static size_t span_of(struct tensor t)
{
    int64_t last = 0;
    for (int i = 0; i < t.n_dims; i++)
        last += (t.shape[i] - 1) * t.stride[i];
    return tensor_is_none(t) || tensor_count(t) == 0 ? 0 : (size_t)(last + 1) * dtype_bytes(t.dtype);
}

static bool is_written(const struct shadow *s, int i)
{
    return s->by->args[i] == 'y' || s->by->args[i] == 'x';
}

static bool has_size(const struct shadow *s, int i)
{
    return s->by->flags & TOLERANCE_MAGNITUDE && strchr("yx|-2", s->by->args[i]);
}

/* Of all floating types the highest bit of an element is its sign. */
static void set_signs(struct tensor t, char *p, size_t span, bool minus)
{
    size_t n = dtype_bytes(t.dtype);
    bool is_float = t.dtype <= DTYPE_F8E4M3;
    for (size_t i = n - 1; is_float && i < span; i += n)
        p[i] = (char)(minus ? p[i] | 0x80 : p[i] & 0x7f);
}

static struct tensor on_host(const struct copy *c, char *data)
{
    struct tensor t = c->given;
    t.data = data;
    return t;
}

/* |v1| + 2 |v0|: what op_euler's v0 + g (v1 - v0) must see to give |v0| + g (|v0| + |v1|). */
static void add_twice(const struct copy *v1, const struct copy *v0)
{
    if (tensor_is_none(v1->given))
        return;
    struct tensor to = on_host(v1, v1->size), from = on_host(v0, v0->size);
    for (int64_t i = 0; i < tensor_count(to); i++)
        ((float *)to.data)[ref_element(to, i)] += 2 * ((const float *)from.data)[ref_element(from, i)];
}

static int read_back(const struct shadow *s, struct tensor t, size_t span, char *to)
{
    const struct device_hooks *hooks = s->device->hooks;
    if (span > 0 && hooks->read)
        return hooks->read(s->device, to, t.data, span);
    if (span > 0)
        memcpy(to, t.data, span);
    return 0;
}

static int copy_one(struct shadow *s, int i)
{
    struct copy *c = &s->copies[i];
    c->now = mem_alloc(c->span + 1);
    c->size = has_size(s, i) ? mem_alloc(c->span + 1) : NULL;
    if (!c->now || (has_size(s, i) && !c->size))
        return run_fail(s->r, ERR_NOMEM, "shadow: no memory for a copy of %zu bytes", c->span);
    int rc = read_back(s, c->given, c->span, c->now);
    if (rc < 0)
        return run_fail(s->r, rc, "shadow: %zu bytes could not be read back", c->span);
    if (c->size) {
        memcpy(c->size, c->now, c->span);
        set_signs(c->given, c->size, c->span, s->by->args[i] == '-');
    }
    if (s->by->args[i] == '2')
        add_twice(c, c - 1);
    return 0;
}

/* 1: they are there. 0: too much. */
static int copy_all(struct shadow *s)
{
    size_t bytes = 0;
    int rc = 1;
    for (int i = 0; s->by->args[i]; i++) {
        struct copy *c = &s->copies[i];
        *c = (struct copy){.given = given(&s->args[i])};
        c->span = span_of(c->given);
        bytes += c->span * (size_t)(1 + has_size(s, i) + is_written(s, i));
    }
    if (bytes > s->max_bytes) {
        s->report.n_skipped++;
        return 0;
    }
    for (int i = 0; s->by->args[i] && rc == 1; i++)
        rc = !tensor_is_none(s->copies[i].given) && copy_one(s, i) < 0 ? s->r->err.code : 1;
    return rc;
}

static void drop_all(struct shadow *s)
{
    for (int i = 0; s->by->args[i]; i++) {
        mem_free(s->copies[i].now);
        mem_free(s->copies[i].size);
        s->copies[i].now = s->copies[i].size = NULL;
    }
}

/* ---- comparing ---- */

/* One result. */
struct result {
    struct tensor want, got, size; /* size none: no magnitude */
    const char *name;
    struct shadow_bound same, *rows; /* rows NULL: same for all */
    double peak;
    bool is_exact;
};

static double number(struct tensor t, int64_t at)
{
    float v;
    if (t.dtype == DTYPE_F32)
        return (double)((const float *)t.data)[at];
    dtype_read_f32(&v, (const char *)t.data + at * (int64_t)dtype_bytes(t.dtype), t.dtype, 1, 1);
    return (double)v;
}

static double bound_at(const struct result *v, int64_t i, double want, int64_t at)
{
    struct shadow_bound b = v->rows ? v->rows[i / tensor_dim(v->want, -1)] : v->same;
    double size = tensor_is_none(v->size) ? 0 : fabs(number(v->size, at));
    return v->is_exact ? 0 : b.units * 0x1p-24 * (fabs(want) + v->peak + size + b.more) + b.rounded * size + b.floor + 1e-37;
}

/* "[3, 17]" */
static const char *format_index(struct tensor t, int64_t i, char *dst, size_t size)
{
    int64_t at[TENSOR_MAX_DIMS];
    size_t len = 0;
    for (int d = t.n_dims - 1; d >= 0; d--) {
        at[d] = i % t.shape[d];
        i /= t.shape[d];
    }
    for (int d = 0; d < t.n_dims && len < size; d++)
        len += (size_t)snprintf(dst + len, size - len, "%s%lld%s", d ? ", " : "[", (long long)at[d],
                                d + 1 < t.n_dims ? "" : "]");
    return dst;
}

static const char *format_all(const struct shadow *s, char *dst, size_t size)
{
    char text[128];
    size_t len = 0;
    dst[0] = 0;
    for (int i = 0; s->by->args[i] && len < size; i++) {
        if (!tensor_is_none(s->copies[i].given))
            len += (size_t)snprintf(dst + len, size - len, "%s%s", len ? ", " : "",
                                    tensor_format(s->copies[i].given, text, sizeof(text)));
    }
    return dst;
}

static int differs(struct shadow *s, const struct result *v, int64_t i, double got, double want, double bound)
{
    char index[96], shapes[200];
    return run_fail(s->r, ERR_INTERNAL, "shadow: %s is %.9g on %s (%s), %.9g on cpu_ref: off by %.3g, allowed %.3g; %s",
                    format_index(v->want, i, index, sizeof(index)), got, s->device->kind,
                    device_precision_name(s->device->precision), want, fabs(got - want), bound,
                    format_all(s, shapes, sizeof(shapes)));
}

/* Both are not a number, or the same number. */
static bool is_same(double got, double want)
{
    return got == want || (got != got && want != want);
}

static void note_share(struct shadow *s, double share)
{
    if (share <= s->report.share)
        return;
    s->report.share = share;
    str_copy(s->report.op, sizeof(s->report.op), s->r->op ? s->r->op : s->by->op);
    str_copy(s->report.label, sizeof(s->report.label), s->r->label);
}

static int compare_elements(struct shadow *s, const struct result *v)
{
    double worst = 0;
    for (int64_t i = 0; i < tensor_count(v->want); i++) {
        int64_t at = ref_element(v->want, i);
        double want = number(v->want, at), got = number(v->got, at);
        if (is_same(got, want))
            continue;
        double bound = bound_at(v, i, want, at), error = fabs(got - want);
        if (!(error <= bound))
            return differs(s, v, i, got, want, bound);
        worst = fmax(worst, error / bound);
    }
    note_share(s, worst);
    return 0;
}

/* What lies between the elements of a view must be as before: got becomes want where they are, and then all is the same. */
static int compare_gaps(struct shadow *s, const struct result *v, size_t span)
{
    size_t n = dtype_bytes(v->want.dtype), at = 0;
    char shapes[200], *got = v->got.data;
    const char *want = v->want.data;
    if (tensor_is_contiguous(v->want))
        return 0;
    for (int64_t i = 0; i < tensor_count(v->want); i++) {
        size_t k = (size_t)ref_element(v->want, i) * n;
        memcpy(got + k, want + k, n);
    }
    while (at < span && got[at] == want[at])
        at++;
    return at == span ? 0
                      : run_fail(s->r, ERR_INTERNAL, "shadow: wrote beside its result on %s, %zu bytes from its start; %s",
                                 s->device->kind, at, format_all(s, shapes, sizeof(shapes)));
}

static double peak_of(struct tensor t)
{
    double most = 0;
    for (int64_t i = 0; i < tensor_count(t); i++) {
        double v = fabs(number(t, ref_element(t, i)));
        most = v > most ? v : most; /* what is no number is nobody's peak */
    }
    return most;
}

static int compare_one(struct shadow *s, int i)
{
    struct copy *c = &s->copies[i];
    struct result v = {.want = on_host(c, c->now), .is_exact = s->by->units == 0};
    struct tensor host[ARGS];
    for (int k = 0; s->by->args[k]; k++)
        host[k] = on_host(&s->copies[k], s->copies[k].now);
    char *got = mem_alloc(c->span + 1);
    int rc = got ? read_back(s, c->given, c->span, got) : ERR_NOMEM;
    v.got = on_host(c, got);
    if (rc == 0 && !v.is_exact) {
        v.same = shadow_bound(s->op, host, s->device);
        v.rows = mem_calloc((size_t)tensor_rows(v.want) + 1, sizeof(*v.rows));
        v.size = c->size ? on_host(c, c->size) : TENSOR_NONE;
        v.peak = s->by->flags & TOLERANCE_PEAK ? peak_of(v.want) : 0;
        rc = v.rows ? 0 : ERR_NOMEM;
    }
    if (rc < 0) {
        run_fail(s->r, rc, "shadow: a result of %zu bytes could not be read back", c->span);
    } else {
        struct shadow_bound *rows = v.rows;
        if (rows && !shadow_bound_rows(s->op, host, s->args, s->device, v.same, rows))
            v.rows = NULL;
        rc = compare_elements(s, &v);
        if (rc == 0)
            rc = compare_gaps(s, &v, c->span);
        v.rows = rows;
    }
    mem_free(v.rows);
    mem_free(got);
    return rc;
}

static int compare(struct shadow *s)
{
    int rc = 0;
    for (int i = 0; s->by->args[i] && rc == 0; i++) {
        if (is_written(s, i) && s->copies[i].span > 0)
            rc = compare_one(s, i);
    }
    s->report.n_checked += rc == 0;
    return rc;
}

/* ---- the three calls ---- */

void shadow_begin(struct shadow *s, struct run *r, enum tolerance_op op, const struct shadow_arg *args)
{
    r->unrepeatable = true; /* a recording would not be compared */
    s->r = r;
    s->op = op;
    s->by = &tolerance_of[op];
    s->args = args;
    s->call = CALL_DEVICE;
    s->rc = copy_all(s);
    s->is_copied = s->rc > 0;
    if (s->rc < 0)
        s->call = CALL_NONE;
}

bool shadow_next(struct shadow *s)
{
    return s->call != CALL_NONE;
}

const struct op_table *shadow_table(const struct shadow *s)
{
    return s->call == CALL_DEVICE ? s->r->table : s->run.table;
}

struct run *shadow_run(struct shadow *s)
{
    return s->call == CALL_DEVICE ? s->r : &s->run;
}

void shadow_take(struct shadow *s, int rc)
{
    bool sized = s->by->flags & TOLERANCE_MAGNITUDE;
    if (rc < 0 && s->call != CALL_DEVICE)
        rc = run_fail(s->r, rc, "shadow: cpu_ref refused: %s", s->run.err.code ? s->run.err.text : err_text(rc));
    s->rc = rc;
    if (rc < 0 || !s->is_copied)
        s->call = CALL_NONE;
    else if (s->call == CALL_DEVICE)
        s->call = CALL_REFERENCE;
    else if (s->call == CALL_REFERENCE && sized)
        s->call = CALL_MAGNITUDE;
    else {
        s->call = CALL_NONE;
        s->rc = compare(s);
    }
}

int shadow_end(struct shadow *s)
{
    drop_all(s);
    run_reset(&s->run);
    return s->rc;
}

/* ---- arguments ---- */

static char rule(const struct shadow *s, int i)
{
    return s->call == CALL_MAGNITUDE ? s->by->args[i] : '=';
}

struct tensor shadow_tensor(const struct shadow *s, int i)
{
    const struct copy *c = &s->copies[i];
    if (s->call == CALL_DEVICE || tensor_is_none(c->given))
        return c->given;
    return on_host(c, s->call == CALL_MAGNITUDE && c->size ? c->size : c->now);
}

struct attn shadow_attn(const struct shadow *s, int i)
{
    struct attn a = *(const struct attn *)s->args[i].value;
    a.mask = shadow_tensor(s, i);
    return a;
}

const struct conv *shadow_conv(struct shadow *s, int i)
{
    const struct conv *c = *(const struct conv *const *)s->args[i].value;
    if (rule(s, i) != '0')
        return c;
    s->conv = *c;
    s->conv.act = ACT_NONE;
    return &s->conv;
}

enum act shadow_act(const struct shadow *s, int i)
{
    return rule(s, i) == '0' ? ACT_NONE : *(const enum act *)s->args[i].value;
}

float shadow_float(const struct shadow *s, int i)
{
    float v = *(const float *)s->args[i].value;
    return rule(s, i) == '|' ? fabsf(v) : v;
}
