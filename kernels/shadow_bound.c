#include "kernels/shadow_bound.h"

#include <math.h>

#include "kernels/cpu/ref.h"

static double element(struct tensor t, int64_t i)
{
    float v;
    dtype_read_f32(&v, (const char *)t.data + ref_element(t, i) * (int64_t)dtype_bytes(t.dtype), t.dtype, 1,
                   t.scale ? t.scale[0] : 1);
    return (double)v;
}

/* Largest |plus + element|; none where t is none. */
static double largest(struct tensor t, double plus, double none)
{
    double most = 0;
    if (tensor_is_none(t))
        return none;
    for (int64_t i = 0; i < tensor_count(t); i++)
        most = fmax(most, fabs(plus + element(t, i)));
    return most;
}

/* ---- sums of products ---- */

/* A rounding is anywhere within +-2^-24 of the partial sum it is of: 0.42 of that as a root mean square. When one term is
 * larger than all others and comes first, every partial sum is as large as the result: 0.42 sqrt(terms) in one sum, six
 * times as much among many. The result and its magnitude are both in the yardstick, so half of that is needed. */
static double units_of_sum(int64_t terms)
{
    return 6 * 0.42 / 2 * sqrt((double)terms);
}

struct shadow_bound shadow_bound(enum tolerance_op op, const struct tensor *t, const struct device *d)
{
    const struct tolerance *by = &tolerance_of[op];
    bool is_linear = op == TOLERANCE_linear || op == TOLERANCE_linear_add;
    bool is_sum = is_linear || op == TOLERANCE_conv; /* t[1] by the weight t[2] */
    int64_t terms = is_sum && t[2].shape[0] > 0 ? tensor_count(t[2]) / t[2].shape[0] : 0;
    struct tolerance_room room = tolerance_room(by, d, is_sum ? t[2].dtype : DTYPE_F32);
    struct shadow_bound b = {.units = by->units + units_of_sum(terms), .rounded = room.rounded};
    if (is_sum && room.steps > 0) {
        double x = largest(t[1], 0, 0), gate = op == TOLERANCE_linear_add ? largest(t[4], 0, 1) : 1;
        x = t[2].dtype == DTYPE_F16 && x < 1 ? 1 : x; /* those steps do not shrink with x */
        b.floor = room.steps * (double)terms * x * largest(t[2], 0, 0) * gate;
    }
    return b;
}

/* ---- attention ---- */

static double norm(const float *p, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)p[i] * (double)p[i];
    return sqrt(sum);
}

/* The longest key that a head of a batch sees. */
static double longest(struct tensor k, int64_t batch, int64_t head)
{
    double most = 0;
    for (int64_t i = 0; i < k.shape[1]; i++)
        most = fmax(most, norm(ref_at4(k, batch, i, head, 0), k.shape[3]));
    return most;
}

/* Scores are at most scale |q| |k| (Cauchy and Schwarz), and a score's rounding, of its sum and then of its distance to the
 * largest, moves its weight by as much of itself. Tokens that are alike (padding, silence) make equal addends, whose
 * roundings all go one way: half a unit a key at worst.
 * In bf16 q and k are off by 2^-8 each in every term: at random their sum is off by 5 / sqrt(terms) of the worst (six
 * deviations), never by more than the worst; weights and v are rounded once more. In e4m3 2^-4 in place of 2^-8. */
static void attention_rows(const struct tensor *t, const struct attn *a, const struct device *d,
                           struct shadow_bound same, struct shadow_bound *rows)
{
    struct tensor q = t[1], k = t[2];
    int64_t heads = q.shape[2], width = q.shape[3];
    double step = d->precision == DEVICE_FP8 ? 0x1p-4 : 0x1p-8;
    for (int64_t b = 0; b < q.shape[0]; b++) {
        for (int64_t h = 0; h < heads; h++) {
            double key = longest(k, b, h / (heads / k.shape[2]));
            for (int64_t i = 0; i < q.shape[1]; i++) {
                double score = fabs((double)a->scale) * key * norm(ref_at4(q, b, i, h, 0), width);
                struct shadow_bound *row = &rows[(b * q.shape[1] + i) * heads + h];
                *row = same;
                row->units += 2 * units_of_sum(width) * score + (double)k.shape[1] / 2;
                if (d->precision != DEVICE_F32 && !d->is_host)
                    row->rounded = step * (3 + 2 * fmin(2, 5 / sqrt((double)width)) * score);
            }
        }
    }
}

/* ---- norms: x - mean is off by a rounding of the mean ---- */

struct moments {
    double n, sum, squares;
};

static void take(struct moments *m, const float *p, int64_t n)
{
    m->n += (double)n;
    for (int64_t i = 0; i < n; i++) {
        m->sum += (double)p[i];
        m->squares += (double)p[i] * (double)p[i];
    }
}

/* |mean| / sqrt(var + eps) */
static double lift(const struct moments *m, float eps)
{
    double mean = m->sum / m->n;
    return fabs(mean) / sqrt(fmax(m->squares / m->n - mean * mean, 0) + (double)eps);
}

static void layer_rows(struct tensor x, double steep, float eps, struct shadow_bound same, struct shadow_bound *rows)
{
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        struct moments m = {0};
        take(&m, ref_row(x, i), tensor_dim(x, -1));
        rows[i] = same;
        rows[i].more = steep * lift(&m, eps);
    }
}

/* The group that is lifted most, for all rows. Of x alone, also where the statistics are of more than it. */
static void group_rows(struct tensor x, int64_t groups, double steep, float eps, struct shadow_bound same,
                       struct shadow_bound *rows)
{
    int64_t n = x.shape[3] / groups;
    double most = 0;
    for (int64_t g = 0; g < groups; g++) {
        struct moments m = {0};
        for (int64_t i = 0; i < tensor_rows(x); i++)
            take(&m, ref_row(x, i) + g * n, n);
        most = fmax(most, lift(&m, eps));
    }
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        rows[i] = same;
        rows[i].more = steep * most;
    }
}

bool shadow_bound_rows(enum tolerance_op op, const struct tensor *t, const struct shadow_arg *args, const struct device *d,
                       struct shadow_bound same, struct shadow_bound *rows)
{
    switch (op) {
    case TOLERANCE_attention:
        attention_rows(t, args[4].value, d, same, rows);
        return true;
    case TOLERANCE_layer_norm:
        layer_rows(t[1], largest(t[2], 0, 1), *(const float *)args[4].value, same, rows);
        return true;
    case TOLERANCE_layer_norm_mod:
        layer_rows(t[1], largest(t[3], 1, 1), *(const float *)args[4].value, same, rows);
        return true;
    case TOLERANCE_group_norm:
        group_rows(t[1], *(const int *)args[4].value, largest(t[2], 0, 1), *(const float *)args[5].value, same, rows);
        return true;
    case TOLERANCE_group_apply:
        group_rows(t[1], tensor_dim(t[2], -2), largest(t[3], 0, 1), *(const float *)args[5].value, same, rows);
        return true;
    default:
        return false;
    }
}
