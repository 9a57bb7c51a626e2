/* attention.c -- attention in tiles: scores of QUERIES queries and KEYS keys at a time, softmax as it goes.
 *
 * For every query a running maximum m, sum l and weighted sum o are kept; when a block of keys brings a
 * larger score all three are brought down to the new maximum (Milakov and Gimelshein, "Online normalizer
 * calculation for softmax", 2018; Dao et al., "FlashAttention", 2022). The scores of a tile never leave the
 * cache, and no S x S matrix exists. Exponents are taken to base 2: the queries carry scale * log2(e).
 *
 * k and v are first packed for the product (isa.h), once a call: [panel of keys][d][key] and [panel of
 * d][key][d]. A task is one tile of queries of one head; a query's blocks of keys are taken in order by one
 * thread, so results depend on neither the cut nor the threads.
 */
#include <omp.h>

#include "kernels/cpu/isa_math.h"
#include "kernels/cpu/ref.h"

#define KEYS ISA_KC
#define QUERIES (8 * ISA_MR)
#define WIDE 256 /* heads wider than this take half as many queries, to fit the scratch */
#define D_MAX 1024
#define LEAST (-1e30f) /* below every score; finite, so that differences are */

struct job {
    struct tensor y, q, k, v;
    struct attn a;
    int64_t sq, sk, d;
    int64_t d_pad;   /* d in whole panels */
    int64_t sk_pad;  /* sk in whole panels */
    float *kp, *vp;  /* packed, [B][Hk] of the above */
    int64_t queries; /* in a task */
    int64_t share;   /* query heads a key head serves */
};

struct tile {
    int64_t b, h, first, n;   /* queries [first, first + n) of head h */
    const float *kp, *vp;     /* of this head */
    float *q, *p, *o, *m, *l; /* scratch */
    int64_t o_pitch;
};

#define P_FLOATS (QUERIES * ISA_PITCH)
#define Q_FLOATS (QUERIES / 2 * ISA_PITCH * (D_MAX / ISA_KC))
#define O_FLOATS (QUERIES / 2 * (D_MAX + 16))
_Static_assert(sizeof(float) * (P_FLOATS + Q_FLOATS + O_FLOATS + 2 * QUERIES) <= CPU_THREAD_BYTES,
               "a task fits its scratch");
_Static_assert(Q_FLOATS >= P_FLOATS && O_FLOATS >= QUERIES * (WIDE + 16),
               "narrow heads fit with all queries");

/* ---- packing ---- */

static void pack_keys(const struct job *j, float *dst, struct tensor k)
{
    for (int64_t first = 0; first < j->sk; first += ISA_NR, dst += j->d * ISA_NR) {
        int64_t n = j->sk - first < ISA_NR ? j->sk - first : ISA_NR;
        const float *row = (const float *)k.data + first * k.stride[0];
        for (int64_t c = 0; c < j->d; c++) {
            for (int64_t i = 0; i < n; i++)
                dst[c * ISA_NR + i] = row[i * k.stride[0] + c];
            for (int64_t i = n; i < ISA_NR; i++)
                dst[c * ISA_NR + i] = 0;
        }
    }
}

static void pack_values(const struct job *j, float *dst, struct tensor v)
{
    for (int64_t first = 0; first < j->d; first += ISA_NR) {
        int64_t n = j->d - first < ISA_NR ? j->d - first : ISA_NR;
        for (int64_t i = 0; i < j->sk; i++, dst += ISA_NR) {
            memcpy(dst, (const float *)v.data + i * v.stride[0] + first, (size_t)n * sizeof *dst);
            memset(dst + n, 0, (size_t)(ISA_NR - n) * sizeof *dst);
        }
    }
}

static void pack(const struct job *j)
{
    int64_t hk = j->k.shape[2], n = j->k.shape[0] * hk;
#pragma omp parallel for schedule(dynamic) if (n * j->sk * j->d > 50000)
    for (int64_t i = 0; i < 2 * n; i++) {
        int64_t at = i / 2;
        struct tensor t = tensor_at(tensor_at(i % 2 ? j->v : j->k, 2, at % hk), 0, at / hk);
        if (i % 2)
            pack_values(j, j->vp + at * j->sk * j->d_pad, t);
        else
            pack_keys(j, j->kp + at * j->sk_pad * j->d, t);
    }
}

/* ---- one tile ---- */

/* The tile's queries, scaled, in blocks of ISA_KC of d: [block][n][ISA_PITCH]. */
static void load_queries(const struct job *j, const struct tile *t)
{
    float scale = j->a.scale * 1.44269504f;
    for (int64_t k = 0; k < j->d; k += ISA_KC) {
        int64_t n = j->d - k < ISA_KC ? j->d - k : ISA_KC;
        for (int64_t i = 0; i < t->n; i++) {
            const float *src = ref_at4(j->q, t->b, t->first + i, t->h, k);
            float *dst = t->q + (k / ISA_KC * j->queries + i) * ISA_PITCH;
#pragma omp simd
            for (int64_t c = 0; c < n; c++)
                dst[c] = src[c] * scale;
        }
    }
}

/* Query i sees keys [0, end). */
static int64_t end_of(const struct job *j, int64_t i)
{
    int64_t end = j->sk;
    if (j->a.kind == ATTN_CAUSAL)
        end = i + j->sk - j->sq + 1;
    if (j->a.kind == ATTN_BLOCK_CAUSAL)
        end = (i / j->a.block + 1) * j->a.block;
    return end < j->sk ? end : j->sk;
}

/* p = q k^T for keys [key, key + n). */
static void scores(const struct job *j, const struct tile *t, int64_t key, int64_t n)
{
    for (int64_t at = 0; at < n; at += ISA_NR) {
        const float *panel = t->kp + (key + at) * j->d;
        for (int64_t k = 0; k < j->d; k += ISA_KC) {
            int64_t kc = j->d - k < ISA_KC ? j->d - k : ISA_KC;
            isa_product(t->n, t->p + at, ISA_PITCH, t->q + k / ISA_KC * j->queries * ISA_PITCH,
                        panel + k * ISA_NR, kc, k == 0);
        }
    }
}

/* Scores p[n] to weights; returns what the sums so far are to be multiplied by. */
static float soften(float *p, int64_t n, float *m, float *l)
{
    float top = *m, sum = 0;
    int64_t k = 0;
    isa_vec tops = (isa_vec){0} + top;
    for (; k + ISA_LANES <= n; k += ISA_LANES)
        tops = isa_max(tops, isa_load(p + k));
    for (int i = 0; i < ISA_LANES; i++)
        top = tops[i] > top ? tops[i] : top;
    for (; k < n; k++)
        top = p[k] > top ? p[k] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) {
        p[c] = isa_exp2(p[c] - top);
        sum += p[c];
    }
    float down = *m == top ? 1 : isa_exp2(*m - top);
    *m = top;
    *l = *l * down + sum;
    return down;
}

static void hide(const struct job *j, float *p, int64_t query, int64_t key, int64_t n)
{
    const uint8_t *seen = (const uint8_t *)j->a.mask.data + query * j->a.mask.stride[0] + key;
    for (int64_t c = 0; c < n; c++)
        p[c] = seen[c] ? p[c] : -__builtin_inff();
}

static void soften_tile(const struct job *j, const struct tile *t, int64_t key, int64_t n)
{
    for (int64_t i = 0; i < t->n; i++) {
        float *p = t->p + i * ISA_PITCH, *o = t->o + i * t->o_pitch;
        int64_t seen = end_of(j, t->first + i) - key;
        seen = seen < 0 ? 0 : seen < n ? seen : n;
        if (j->a.kind == ATTN_MASK)
            hide(j, p, t->first + i, key, seen);
        float down = seen ? soften(p, seen, &t->m[i], &t->l[i]) : 1;
        for (int64_t c = seen; c < n; c++)
            p[c] = 0;
        if (down == 1)
            continue;
#pragma omp simd
        for (int64_t c = 0; c < j->d_pad; c++)
            o[c] *= down;
    }
}

static void tile(const struct job *j, const struct tile *t)
{
    int64_t end = end_of(j, t->first + t->n - 1);
    load_queries(j, t);
    for (int64_t i = 0; i < t->n; i++) {
        t->m[i] = LEAST;
        t->l[i] = 0;
        memset(t->o + i * t->o_pitch, 0, (size_t)j->d_pad * sizeof *t->o);
    }
    for (int64_t key = 0; key < end; key += KEYS) {
        int64_t n = end - key < KEYS ? end - key : KEYS;
        scores(j, t, key, n);
        soften_tile(j, t, key, n);
        for (int64_t c = 0; c < j->d_pad; c += ISA_NR)
            isa_product(t->n, t->o + c, t->o_pitch, t->p, t->vp + c * j->sk + key * ISA_NR, n, false);
    }
    for (int64_t i = 0; i < t->n; i++) {
        float *y = ref_at4(j->y, t->b, t->first + i, t->h, 0), *o = t->o + i * t->o_pitch, by = 1 / t->l[i];
#pragma omp simd
        for (int64_t c = 0; c < j->d; c++)
            y[c] = o[c] * by;
    }
}

static void tiles(const struct cpu *s, const struct job *j)
{
    int64_t heads = j->q.shape[2], n_tiles = (j->sq + j->queries - 1) / j->queries,
            n = j->q.shape[0] * heads * n_tiles;
    bool small = tensor_count(j->q) * j->sk < 500000;
#pragma omp parallel for schedule(dynamic) if (!small)
    for (int64_t i = 0; i < n; i++) {
        float *scratch = cpu_scratch(s, omp_get_thread_num());
        int64_t at = n_tiles - 1 - i % n_tiles; /* causal kinds: the long ones first */
        struct tile t = {.b = i / n_tiles / heads, .h = i / n_tiles % heads, .first = at * j->queries};
        int64_t head = t.b * j->k.shape[2] + t.h / j->share;
        t.n = j->sq - t.first < j->queries ? j->sq - t.first : j->queries;
        t.kp = j->kp + head * j->sk_pad * j->d;
        t.vp = j->vp + head * j->sk * j->d_pad;
        t.p = scratch;
        t.q = t.p + P_FLOATS;
        t.o = t.q + Q_FLOATS;
        t.m = t.o + O_FLOATS;
        t.l = t.m + QUERIES;
        t.o_pitch = j->d_pad + 16;
        tile(j, &t);
    }
}

int ISA_FN(attention)(struct run *r, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                      struct attn a)
{
    struct cpu *s = cpu_begin(r);
    struct job j = {
        .y = y, .q = q, .k = k, .v = v, .a = a, .sq = q.shape[1], .sk = k.shape[1], .d = q.shape[3]};
    if (tensor_count(y) == 0)
        return 0;
    j.d_pad = (j.d + ISA_NR - 1) / ISA_NR * ISA_NR;
    j.sk_pad = (j.sk + ISA_NR - 1) / ISA_NR * ISA_NR;
    j.queries = j.d > WIDE ? QUERIES / 2 : QUERIES;
    j.share = q.shape[2] / k.shape[2];
    int64_t heads = k.shape[0] * k.shape[2];
    j.kp = cpu_slot(r, CPU_PACK, (size_t)(heads * (j.sk_pad * j.d + j.sk * j.d_pad)) * sizeof(float));
    if (!j.kp)
        return r->err.code;
    j.vp = j.kp + heads * j.sk_pad * j.d;
    pack(&j);
    tiles(s, &j);
    return 0;
}
