/* norm.c -- norms row by row, and the group norm in two passes over memory. Sums are in double, as in the
 * reference. */
#include <math.h>

#include "kernels/cpu/isa_rows.h"

struct moments {
    double mean, m2; /* sum of squared distances to the mean */
};

static struct moments row_moments(const float *p, int64_t n)
{
    double sum = 0, m2 = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; k++)
        sum += (double)p[k];
    double mean = sum / (double)n;
#pragma omp simd reduction(+ : m2)
    for (int64_t k = 0; k < n; k++) {
        double d = (double)p[k] - mean;
        m2 += d * d;
    }
    return (struct moments){mean, m2};
}

/* mul, add: NULL where left out. */
static void normalised(struct tensor y, struct tensor x, const float *mul, float plus, const float *add,
                       float eps)
{
    int64_t n = tensor_dim(x, -1), n_rows = tensor_rows(x);
#pragma omp parallel for if (n * n_rows >= ROWS_MANY)
    for (int64_t i = 0; i < n_rows; i++) {
        const float *p = ref_row(x, i);
        float *q = ref_row(y, i);
        struct moments m = row_moments(p, n);
        float mean = (float)m.mean, inv = (float)(1 / sqrt(m.m2 / (double)n + (double)eps));
        if (mul && add) {
#pragma omp simd
            for (int64_t k = 0; k < n; k++)
                q[k] = (p[k] - mean) * inv * (plus + mul[k]) + add[k];
            continue;
        }
        for (int64_t k = 0; k < n; k++)
            q[k] = (p[k] - mean) * inv * (mul ? plus + mul[k] : 1) + (add ? add[k] : 0);
    }
}

int ISA_FN(layer_norm)(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                       float eps)
{
    cpu_begin(r);
    int64_t n = tensor_dim(x, -1);
    const float *mul = tensor_is_none(w) ? NULL : cpu_vector(r, CPU_GATE, w, n, 1);
    const float *add = tensor_is_none(b) ? NULL : cpu_vector(r, CPU_BIAS, b, n, 0);
    if (run_failed(r))
        return r->err.code;
    normalised(y, x, mul, 0, add, eps);
    return 0;
}

int ISA_FN(layer_norm_mod)(struct run *r, struct tensor y, struct tensor x, struct tensor shift,
                           struct tensor scale, float eps)
{
    cpu_begin(r);
    normalised(y, x, scale.data, 1, shift.data, eps);
    return 0;
}

static double square_sum(const float *p, int64_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; k++)
        sum += (double)p[k] * (double)p[k];
    return sum;
}

int ISA_FN(rms_norm)(struct run *r, struct tensor y, struct tensor x, struct tensor w, float eps)
{
    cpu_begin(r);
    int64_t n = tensor_dim(x, -1), n_rows = tensor_rows(x);
    const float *mul = cpu_vector(r, CPU_GATE, w, n, 1);
    if (!mul)
        return r->err.code;
#pragma omp parallel for if (n * n_rows >= ROWS_MANY)
    for (int64_t i = 0; i < n_rows; i++) {
        const float *p = ref_row(x, i);
        float *q = ref_row(y, i);
        float inv = (float)(1 / sqrt(square_sum(p, n) / (double)n + (double)eps));
#pragma omp simd
        for (int64_t k = 0; k < n; k++)
            q[k] = p[k] * inv * mul[k];
    }
    return 0;
}

/* ---- group norm
 * -------------------------------------------------------------------------------------------- Rows are taken
 * in chunks of a fixed size that stay in the cache between the two sums of a chunk; the chunks' moments are
 * then joined (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
 * variances", 1979). The cut depends on the shape alone, so threads do not change a bit. */

#define CHUNK 16384 /* elements: 64 KiB */
#define CHANNELS_MAX 2048

struct group_job {
    struct tensor y, x;
    const float *w, *b;
    struct moments *chunks;                    /* [n_chunks][groups] */
    int64_t c, groups, n_rows, rows, n_chunks; /* rows: in a chunk */
    enum act act;
};

static int64_t rows_in(const struct group_job *j, int64_t chunk)
{
    int64_t left = j->n_rows - chunk * j->rows;
    return left < j->rows ? left : j->rows;
}

static void chunk_moments(const struct group_job *j, int64_t chunk)
{
    double sum[CHANNELS_MAX], mean[CHANNELS_MAX];
    int64_t n = rows_in(j, chunk), per = j->c / j->groups;
    struct moments *m = j->chunks + chunk * j->groups;
    memset(sum, 0, (size_t)j->c * sizeof *sum);
    for (int64_t i = 0; i < n; i++) {
        const float *p = ref_row(j->x, chunk * j->rows + i);
#pragma omp simd
        for (int64_t k = 0; k < j->c; k++)
            sum[k] += (double)p[k];
    }
    for (int64_t g = 0; g < j->groups; g++) {
        double all = 0;
        for (int64_t k = g * per; k < (g + 1) * per; k++)
            all += sum[k];
        m[g].mean = all / (double)(n * per);
        for (int64_t k = g * per; k < (g + 1) * per; k++)
            mean[k] = m[g].mean;
    }
    memset(sum, 0, (size_t)j->c * sizeof *sum);
    for (int64_t i = 0; i < n; i++) {
        const float *p = ref_row(j->x, chunk * j->rows + i);
#pragma omp simd
        for (int64_t k = 0; k < j->c; k++) {
            double d = (double)p[k] - mean[k];
            sum[k] += d * d;
        }
    }
    for (int64_t g = 0; g < j->groups; g++) {
        m[g].m2 = 0;
        for (int64_t k = g * per; k < (g + 1) * per; k++)
            m[g].m2 += sum[k];
    }
}

/* What op_group_stats says of group g. */
struct group {
    float count, mean, var;
};

static struct group join(const struct group_job *j, int64_t g)
{
    double per = (double)(j->c / j->groups), mean = 0, m2 = 0;
    for (int64_t i = 0; i < j->n_chunks; i++)
        mean += j->chunks[i * j->groups + g].mean * (double)rows_in(j, i);
    mean /= (double)j->n_rows;
    for (int64_t i = 0; i < j->n_chunks; i++) {
        struct moments m = j->chunks[i * j->groups + g];
        m2 += m.m2 + per * (double)rows_in(j, i) * (m.mean - mean) * (m.mean - mean);
    }
    return (struct group){(float)j->n_rows, (float)mean, (float)(m2 / ((double)j->n_rows * per))};
}

/* n pieces, from one such list [n][groups], as one tensor. */
static struct group join_pieces(const struct group *list, int64_t n, int64_t groups, int64_t g)
{
    double count = 0, mean = 0, var = 0;
    for (const struct group *p = list + g; p < list + n * groups; p += groups) {
        count += (double)p->count;
        mean += (double)p->count * (double)p->mean;
    }
    mean /= count;
    for (const struct group *p = list + g; p < list + n * groups; p += groups)
        var += (double)p->count * ((double)p->var + ((double)p->mean - mean) * ((double)p->mean - mean));
    return (struct group){(float)count, (float)mean, (float)(var / count)};
}

/* y = act((x - mean) mul + b) for a chunk. */
static void chunk_apply(const struct group_job *j, int64_t chunk, const float *mean, const float *mul)
{
    int64_t n = rows_in(j, chunk), first = chunk * j->rows;
    bool whole = tensor_is_contiguous(j->y);
    for (int64_t i = 0; i < n; i++) {
        const float *p = ref_row(j->x, first + i);
        float *q = ref_row(j->y, first + i);
#pragma omp simd
        for (int64_t k = 0; k < j->c; k++)
            q[k] = (p[k] - mean[k]) * mul[k] + j->b[k];
        if (!whole)
            isa_act_row(q, j->c, j->act);
    }
    if (whole)
        isa_act_row(ref_row(j->y, first), n * j->c, j->act);
}

static void group_stats(const struct group_job *j, struct group *ret)
{
#pragma omp parallel for schedule(static) if (j->c * j->n_rows >= ROWS_MANY)
    for (int64_t i = 0; i < j->n_chunks; i++)
        chunk_moments(j, i);
    for (int64_t g = 0; g < j->groups; g++)
        ret[g] = join(j, g);
}

static void group_apply(const struct group_job *j, const struct group *list, int64_t n, float eps)
{
    float mean[CHANNELS_MAX], mul[CHANNELS_MAX];
    int64_t per = j->c / j->groups;
    for (int64_t g = 0; g < j->groups; g++) {
        struct group s = join_pieces(list, n, j->groups, g);
        double inv = 1 / sqrt((double)s.var + (double)eps);
        for (int64_t k = g * per; k < (g + 1) * per; k++) {
            mean[k] = s.mean;
            mul[k] = (float)(inv * (double)j->w[k]);
        }
    }
#pragma omp parallel for schedule(static) if (j->c * j->n_rows >= ROWS_MANY)
    for (int64_t i = 0; i < j->n_chunks; i++)
        chunk_apply(j, i, mean, mul);
}

static struct group_job group_job(struct tensor y, struct tensor x, int64_t groups, enum act act)
{
    struct group_job j = {.y = y, .x = x, .c = x.shape[3], .groups = groups, .n_rows = tensor_rows(x), .act = act};
    j.rows = CHUNK / j.c > 0 ? CHUNK / j.c : 1;
    j.n_chunks = (j.n_rows + j.rows - 1) / j.rows;
    return j;
}

int ISA_FN(group_stats)(struct run *r, struct tensor y, struct tensor x, int groups)
{
    cpu_begin(r);
    struct group_job j = group_job(TENSOR_NONE, x, groups, ACT_NONE);
    if (j.c > CHANNELS_MAX || j.n_rows == 0)
        return cpu_ref_group_stats(r, y, x, groups);
    j.chunks = cpu_slot(r, CPU_STATS, (size_t)(j.n_chunks * groups) * sizeof *j.chunks);
    if (run_failed(r))
        return r->err.code;
    group_stats(&j, (struct group *)y.data);
    return 0;
}

int ISA_FN(group_apply)(struct run *r, struct tensor y, struct tensor x, struct tensor stats, struct tensor w,
                        struct tensor b, float eps, enum act act)
{
    cpu_begin(r);
    int64_t groups = tensor_dim(stats, -2);
    struct group_job j = group_job(y, x, groups, act);
    if (j.c > CHANNELS_MAX || j.n_rows == 0)
        return cpu_ref_group_apply(r, y, x, stats, w, b, eps, act);
    j.w = cpu_vector(r, CPU_GATE, w, j.c, 1);
    j.b = cpu_vector(r, CPU_BIAS, b, j.c, 0);
    if (run_failed(r))
        return r->err.code;
    group_apply(&j, stats.data, tensor_rows(stats) / groups, eps);
    return 0;
}

int ISA_FN(group_norm)(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                       int groups, float eps, enum act act)
{
    cpu_begin(r);
    struct group_job j = group_job(y, x, groups, act);
    if (j.c > CHANNELS_MAX || j.n_rows == 0)
        return cpu_ref_group_norm(r, y, x, w, b, groups, eps, act);
    j.w = cpu_vector(r, CPU_GATE, w, j.c, 1);
    j.b = cpu_vector(r, CPU_BIAS, b, j.c, 0);
    j.chunks = cpu_slot(r, CPU_STATS, (size_t)(j.n_chunks * groups) * sizeof *j.chunks);
    struct group *list = cpu_slot(r, CPU_MEAN, (size_t)groups * sizeof *list);
    if (run_failed(r))
        return r->err.code;
    group_stats(&j, list);
    group_apply(&j, list, 1, eps);
    return 0;
}

int ISA_FN(batch_norm)(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                       struct tensor mean, struct tensor var, float eps, enum act act)
{
    cpu_begin(r);
    int64_t n = tensor_dim(x, -1), n_rows = tensor_rows(x);
    const float *m = cpu_vector(r, CPU_MEAN, mean, n, 0), *v = cpu_vector(r, CPU_VAR, var, n, 1);
    const float *gain = cpu_vector(r, CPU_GATE, w, n, 1), *add = cpu_vector(r, CPU_BIAS, b, n, 0);
    float *mul = cpu_slot(r, CPU_STATS, (size_t)n * sizeof *mul);
    if (run_failed(r))
        return r->err.code;
    for (int64_t k = 0; k < n; k++)
        mul[k] = (float)((double)gain[k] / sqrt((double)v[k] + (double)eps));
#pragma omp parallel for if (n * n_rows >= ROWS_MANY)
    for (int64_t i = 0; i < n_rows; i++) {
        const float *p = ref_row(x, i);
        float *q = (float *)y.data + i * n;
#pragma omp simd
        for (int64_t k = 0; k < n; k++)
            q[k] = (p[k] - m[k]) * mul[k] + add[k];
        isa_act_row(q, n, act);
    }
    return 0;
}
