/* linear.c -- linear layers: few rows straight over the stored weights, many rows over packed ones.
 *
 * Up to FEW rows: the weights are read once, as stored (bf16 is widened in registers); memory is the limit.
 * More: w is packed once into panels of ISA_NR columns, [panel][k][ISA_NR], and kept. A task is a block of
 * rows and a group of panels: for each ISA_KC of k it copies its rows of x beside each other, multiplies, and
 * at the end finishes the rows (bias, activation, gate) on their way out, while they are in the cache.
 */
#include <omp.h>

#include "common/mem.h"
#include "kernels/cpu/isa_math.h"
#include "kernels/cpu/ref.h"

#define FEW 8
#define GROUP 16 /* panels in a task */
#define SUM_PITCH (GROUP * ISA_NR + 16)
#define ROWS_MAX (8 * ISA_MR)
#define PACK_K 64

struct job {
    struct tensor y, x, w;
    const float *panels; /* packed w; half: floats hold pairs of bf16 */
    bool half;           /* x is rounded to bf16 too */
    int64_t n_k;         /* packed floats of a column: n_in, or pairs */
    const float *bias;
    const float *gate; /* NULL: none */
    bool add;          /* y += gate * value; otherwise y = act(value) */
    enum act act;
    int64_t n_in, n_out, n_rows;
};

_Static_assert(sizeof(float) * (ROWS_MAX * (ISA_PITCH + SUM_PITCH)) <= CPU_THREAD_BYTES,
               "a task fits its scratch");

/* y[n] += gate * (s + bias); gate NULL: 1. */
static void add_row(float *y, const float *s, const float *bias, const float *gate, int64_t n)
{
    if (gate) {
#pragma omp simd
        for (int64_t k = 0; k < n; k++)
            y[k] += gate[k] * (s[k] + bias[k]);
        return;
    }
#pragma omp simd
    for (int64_t k = 0; k < n; k++)
        y[k] += s[k] + bias[k];
}

/* s[n] to columns [first, first + n) of row i of y. */
static void finish(const struct job *j, int64_t i, int64_t first, int64_t n, const float *s)
{
    float *y = ref_row(j->y, i) + first;
    const float *bias = j->bias + first;
    if (j->add) {
        add_row(y, s, bias, j->gate ? j->gate + first : NULL, n);
        return;
    }
#pragma omp simd
    for (int64_t k = 0; k < n; k++)
        y[k] = s[k] + bias[k];
    isa_act_row(y, n, j->act);
}

/* Row i of x from packed float k on: kc of them. */
static void load_row(const struct job *j, float *dst, int64_t i, int64_t k, int64_t kc)
{
    const float *src = ref_row(j->x, i);
    if (!j->half) {
        memcpy(dst, src + k, (size_t)kc * sizeof *dst);
        return;
    }
    int64_t n = j->n_in - 2 * k < 2 * kc ? j->n_in - 2 * k : 2 * kc;
    uint16_t pairs[2 * ISA_KC];
    pairs[2 * kc - 1] = 0;
#pragma omp simd
    for (int64_t c = 0; c < n; c++)
        pairs[c] = isa_to_bf16(src[2 * k + c]);
    memcpy(dst, pairs, (size_t)kc * sizeof *dst);
}

#if defined __AVX512BF16__
static void product_half(int64_t n, float *c, int64_t c_pitch, const float *a, const float *b, int64_t kc,
                         bool first)
{
    isa_rows(n, c, c_pitch, a, b, kc, first, true);
}
#else
#define product_half isa_product /* never called: cpu_open refuses bf16 */
#endif

static void task(const struct job *j, int64_t row, int64_t n_rows, int64_t panel, float *scratch)
{
    int64_t first = panel * ISA_NR, width = j->n_out - first;
    width = width < GROUP * ISA_NR ? width : GROUP * ISA_NR;
    float *a = scratch, *sum = scratch + ROWS_MAX * ISA_PITCH;
    for (int64_t k = 0; k < j->n_k; k += ISA_KC) {
        int64_t kc = j->n_k - k < ISA_KC ? j->n_k - k : ISA_KC;
        for (int64_t i = 0; i < n_rows; i++)
            load_row(j, a + i * ISA_PITCH, row + i, k, kc);
        for (int64_t p = 0; p * ISA_NR < width; p++) {
            const float *b = j->panels + ((panel + p) * j->n_k + k) * ISA_NR;
            if (j->half)
                product_half(n_rows, sum + p * ISA_NR, SUM_PITCH, a, b, kc, k == 0);
            else
                isa_product(n_rows, sum + p * ISA_NR, SUM_PITCH, a, b, kc, k == 0);
        }
    }
    for (int64_t i = 0; i < n_rows; i++)
        finish(j, row + i, first, width, sum + i * SUM_PITCH);
}

static void many_rows(const struct cpu *s, const struct job *j)
{
    int64_t n_groups = (j->n_out + GROUP * ISA_NR - 1) / (GROUP * ISA_NR), rows = ROWS_MAX;
    while (rows > 2 * ISA_MR && (j->n_rows + rows - 1) / rows * n_groups < 6 * s->n_threads)
        rows -= ISA_MR;
    int64_t n_tasks = (j->n_rows + rows - 1) / rows * n_groups;
    bool small = j->n_rows * j->n_in * j->n_out < 1000000;
#pragma omp parallel for schedule(dynamic) if (!small)
    for (int64_t t = 0; t < n_tasks; t++) {
        int64_t row = t / n_groups * rows, n = j->n_rows - row < rows ? j->n_rows - row : rows;
        task(j, row, n, t % n_groups * GROUP, cpu_scratch(s, omp_get_thread_num()));
    }
}

static float scale_of(struct tensor w)
{
    return w.dtype == DTYPE_F8E4M3 && w.scale ? w.scale[0] : 1;
}

/* Rows [first, first + ISA_NR) of w[n_out][n_in] as one panel; rows past the end are zeros. */
static void pack_panel(float *dst, struct tensor w, int64_t first, bool half)
{
    int64_t n_out = w.shape[0], n_in = w.shape[1], size = (int64_t)dtype_bytes(w.dtype);
    float part[ISA_NR][PACK_K];
    for (int64_t k = 0; k < n_in; k += PACK_K) {
        int64_t n = n_in - k < PACK_K ? n_in - k : PACK_K;
        memset(part, 0, sizeof part);
        for (int64_t i = 0; i < ISA_NR && first + i < n_out; i++) {
            const char *src = (const char *)w.data + ((first + i) * n_in + k) * size;
            dtype_read_f32(part[i], src, w.dtype, n, scale_of(w));
        }
        for (int64_t c = 0; c < n && !half; c++, dst += ISA_NR) {
            for (int i = 0; i < ISA_NR; i++)
                dst[i] = part[i][c];
        }
        for (int64_t c = 0; c < n && half; c += 2, dst += ISA_NR) {
            for (int i = 0; i < ISA_NR; i++) {
                uint16_t pair[2] = {isa_to_bf16(part[i][c]), isa_to_bf16(part[i][c + 1])};
                memcpy(dst + i, pair, sizeof pair);
            }
        }
    }
}

static void pack(float *dst, struct tensor w, bool half)
{
    int64_t n_panels = (w.shape[0] + ISA_NR - 1) / ISA_NR, n_k = half ? (w.shape[1] + 1) / 2 : w.shape[1];
#pragma omp parallel for schedule(static) if (tensor_count(w) > 20000)
    for (int64_t p = 0; p < n_panels; p++)
        pack_panel(dst + p * n_k * ISA_NR, w, p * ISA_NR, half);
}

static const float *packed(struct run *r, struct cpu *s, const struct job *j)
{
    struct tensor w = j->w;
    int64_t n_panels = (j->n_out + ISA_NR - 1) / ISA_NR;
    size_t bytes = (size_t)(n_panels * ISA_NR * j->n_k) * sizeof(float);
    if (!cpu_is_lasting(r, w)) {
        float *p = cpu_slot(r, CPU_PACK, bytes);
        if (p)
            pack(p, w, j->half);
        return p;
    }
    struct cpu_key key = {
        .data = w.data, .kind = CPU_PACKED_LINEAR, .number = {w.dtype, w.shape[0], w.shape[1]}};
    float *p = cpu_find(s, &key);
    if (p)
        return p;
    p = mem_aligned(64, bytes);
    if (p)
        pack(p, w, j->half);
    if (!p || cpu_keep(s, &key, p, mem_free) < 0) {
        run_fail(r, ERR_NOMEM, "no memory for %zu bytes of packed weights", bytes);
        return NULL;
    }
    return p;
}

/* ISA_LANES elements of a stored row. */
ISA_INLINE isa_vec widen(const void *w, int64_t k, bool bf16)
{
    typedef uint16_t half __attribute__((vector_size(2 * ISA_LANES), aligned(2), may_alias));
    typedef uint32_t whole __attribute__((vector_size(4 * ISA_LANES)));
    if (!bf16)
        return isa_load((const float *)w + k);
    return (isa_vec)(__builtin_convertvector(*(const half *)((const uint16_t *)w + k), whole) << 16);
}

/* dst[m] = x[m] . w for mr rows of x. */
ISA_INLINE void dots(const int mr, float *dst, const float *const *x, const void *w, bool bf16, int64_t n)
{
    isa_vec s[FEW][2];
    int64_t k = 0;
#pragma GCC unroll 8
    for (int m = 0; m < mr; m++)
        s[m][0] = s[m][1] = (isa_vec){0};
    for (; k + 2 * ISA_LANES <= n; k += 2 * ISA_LANES) {
        isa_vec w0 = widen(w, k, bf16), w1 = widen(w, k + ISA_LANES, bf16);
#pragma GCC unroll 8
        for (int m = 0; m < mr; m++) {
            s[m][0] += isa_load(x[m] + k) * w0;
            s[m][1] += isa_load(x[m] + k + ISA_LANES) * w1;
        }
    }
    for (int m = 0; m < mr; m++) {
        float sum = isa_sum(s[m][0] + s[m][1]);
        for (int64_t i = k; i < n; i++)
            sum += x[m][i] * (bf16 ? dtype_bf16_to_f32(((const uint16_t *)w)[i]) : ((const float *)w)[i]);
        dst[m] = sum;
    }
}

static void dots_any(int mr, float *dst, const float *const *x, const void *w, bool bf16, int64_t n)
{
    static const int step[] = {8, 4, 2, 1};
    for (int i = 0; i < 4; i++) {
        if (!(mr & step[i]))
            continue;
        switch (step[i] + bf16 * 16) {
        case 8:
            dots(8, dst, x, w, false, n);
            break;
        case 4:
            dots(4, dst, x, w, false, n);
            break;
        case 2:
            dots(2, dst, x, w, false, n);
            break;
        case 1:
            dots(1, dst, x, w, false, n);
            break;
        case 24:
            dots(8, dst, x, w, true, n);
            break;
        case 20:
            dots(4, dst, x, w, true, n);
            break;
        case 18:
            dots(2, dst, x, w, true, n);
            break;
        default:
            dots(1, dst, x, w, true, n);
            break;
        }
        dst += step[i];
        x += step[i];
    }
}

static void few_rows(const struct cpu *s, const struct job *j)
{
    int mr = (int)j->n_rows;
    const float *x[FEW];
    for (int m = 0; m < mr; m++)
        x[m] = ref_row(j->x, m);
    bool bf16 = j->w.dtype == DTYPE_BF16, direct = bf16 || j->w.dtype == DTYPE_F32;
    int64_t n_in = j->n_in, size = (int64_t)dtype_bytes(j->w.dtype),
            n_groups = (j->n_out + ISA_NR - 1) / ISA_NR;
    bool wide = n_in * (int64_t)sizeof(float) >
                (int64_t)CPU_THREAD_BYTES; /* such rows are of f32 or bf16, see linear */
#pragma omp parallel for schedule(static) if (n_in * j->n_out > 50000)
    for (int64_t g = 0; g < n_groups; g++) {
        float out[ISA_NR][FEW], row[ISA_NR], *widened = wide ? NULL : cpu_scratch(s, omp_get_thread_num());
        int64_t first = g * ISA_NR, n = j->n_out - first < ISA_NR ? j->n_out - first : ISA_NR;
        for (int64_t i = 0; i < n; i++) {
            const void *w = (const char *)j->w.data + (first + i) * n_in * size;
            if (!direct) {
                dtype_read_f32(widened, w, j->w.dtype, n_in, scale_of(j->w));
                w = widened;
            }
            dots_any(mr, out[i], x, w, bf16, n_in);
        }
        for (int m = 0; m < mr; m++) {
            for (int64_t i = 0; i < n; i++)
                row[i] = out[i][m];
            finish(j, m, first, n, row);
        }
    }
}

static int product(struct run *r, struct job *j, struct tensor b, struct tensor gate)
{
    struct cpu *s = cpu_begin(r);
    j->n_rows = tensor_rows(j->x);
    j->n_out = j->w.shape[0];
    j->n_in = j->w.shape[1];
    if (j->n_rows == 0 || j->n_out == 0)
        return 0;
    j->bias = cpu_vector(r, CPU_BIAS, b, j->n_out, 0);
    if (!j->bias)
        return r->err.code;
    if (!tensor_is_none(gate) && !(j->gate = cpu_vector(r, CPU_GATE, gate, j->n_out, 1)))
        return r->err.code;
    bool fits =
        j->w.dtype == DTYPE_F32 || j->w.dtype == DTYPE_BF16 || j->n_in * 4 <= (int64_t)CPU_THREAD_BYTES;
    if (j->n_rows <= FEW && fits) {
        few_rows(s, j);
        return 0;
    }
    j->half = s->bf16;
    j->n_k = j->half ? (j->n_in + 1) / 2 : j->n_in;
    j->panels = packed(r, s, j);
    if (!j->panels)
        return r->err.code;
    many_rows(s, j);
    return 0;
}

int ISA_FN(linear)(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                   enum act act)
{
    struct job j = {.y = y, .x = x, .w = w, .act = act};
    return product(r, &j, b, TENSOR_NONE);
}

int ISA_FN(linear_add)(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b,
                       struct tensor gate)
{
    struct job j = {.y = x, .x = h, .w = w, .add = true};
    return product(r, &j, b, gate);
}
