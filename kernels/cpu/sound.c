/* sound.c -- Whisper's log mel, eight frames at a time.
 *
 * A frame is real, so bin k needs only x[i] + x[400-i] against the cosine and x[i] - x[400-i] against the
 * sine: half the products of the plain transform. The tables are 0.6 MiB; eight frames share each read of
 * them, one a vector lane. In double throughout, as the reference.
 */
#include <math.h>
#include <omp.h>

#include "common/mem.h"
#include "kernels/cpu/isa_rows.h"

#define FRAME 400
#define HALF (FRAME / 2)
#define HOP 160
#define BINS (HALF + 1)
#define LANES 8

struct tables {
    double window[FRAME];
    double cos[BINS][HALF + 1]; /* against even[0..HALF] */
    double sin[BINS][HALF + 1]; /* against odd[1..HALF-1]; 0 elsewhere */
};

struct frames {
    double even[HALF + 1][LANES], odd[HALF + 1][LANES], power[BINS][LANES];
};

static void tables_fill(struct tables *t)
{
    double c[FRAME], s[FRAME];
    for (int i = 0; i < FRAME; i++) {
        c[i] = cos(2 * M_PI * i / FRAME);
        s[i] = sin(2 * M_PI * i / FRAME);
        t->window[i] = 0.5 - 0.5 * c[i];
    }
    for (int k = 0; k < BINS; k++) {
        for (int i = 0; i <= HALF; i++) {
            t->cos[k][i] = c[k * i % FRAME];
            t->sin[k][i] = i == 0 || i == HALF ? 0 : s[k * i % FRAME];
        }
    }
}

/* The wave goes on mirrored at both ends (the end sample itself once). */
static double sample(const float *wave, int64_t n, int64_t i)
{
    i = i < 0 ? -i : i;
    return (double)wave[i >= n ? 2 * (n - 1) - i : i];
}

static void fold(struct frames *f, const struct tables *t, const float *wave, int64_t n, int64_t first,
                 int64_t count)
{
    memset(f, 0, sizeof *f);
    for (int64_t j = 0; j < count; j++) {
        int64_t at = (first + j) * HOP - HALF;
        for (int i = 0; i <= HALF; i++) {
            double a = t->window[i] * sample(wave, n, at + i), b = 0;
            if (i > 0 && i < HALF)
                b = t->window[FRAME - i] * sample(wave, n, at + FRAME - i);
            f->even[i][j] = a + b;
            f->odd[i][j] = a - b;
        }
    }
}

static void powers(struct frames *f, const struct tables *t)
{
    for (int k = 0; k < BINS; k++) {
        double re[LANES] = {0}, im[LANES] = {0};
        for (int i = 0; i <= HALF; i++) {
            double c = t->cos[k][i], s = t->sin[k][i];
#pragma omp simd
            for (int j = 0; j < LANES; j++) {
                re[j] += c * f->even[i][j];
                im[j] += s * f->odd[i][j];
            }
        }
        for (int j = 0; j < LANES; j++)
            f->power[k][j] = re[j] * re[j] + im[j] * im[j];
    }
}

/* A mel filter is a triangle: bins [first, end) of it are not zero. */
static void span(const float *w, int *ret_first, int *ret_end)
{
    int first = 0, end = BINS;
    while (first < BINS && w[first] == 0)
        first++;
    while (end > first && w[end - 1] == 0)
        end--;
    *ret_first = first;
    *ret_end = end;
}

static void mels(struct tensor y, struct tensor filters, const struct frames *f, int64_t first, int64_t count)
{
    for (int64_t m = 0; m < y.shape[1]; m++) {
        const float *w = ref_row(filters, m);
        double sum[LANES] = {0};
        int from, end;
        span(w, &from, &end);
        for (int k = from; k < end; k++) {
#pragma omp simd
            for (int j = 0; j < LANES; j++)
                sum[j] += (double)w[k] * f->power[k][j];
        }
        for (int64_t j = 0; j < count; j++)
            ref_row(y, first + j)[m] = (float)log10(sum[j] > 1e-10 ? sum[j] : 1e-10);
    }
}

int ISA_FN(log_mel)(struct run *r, struct tensor y, struct tensor wave, struct tensor filters)
{
    struct cpu *s = cpu_begin(r);
    struct tables *t = mem_alloc(sizeof *t);
    if (!t)
        return run_fail(r, ERR_NOMEM, "no memory for the tables of a spectrum");
    tables_fill(t);
    int64_t n = y.shape[0], count = tensor_count(y);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < (n + LANES - 1) / LANES; i++) {
        struct frames *f = cpu_scratch(s, omp_get_thread_num());
        int64_t first = i * LANES, of = n - first < LANES ? n - first : LANES;
        fold(f, t, wave.data, wave.shape[0], first, of);
        powers(f, t);
        mels(y, filters, f, first, of);
    }
    mem_free(t);
    float *p = y.data, top = -INFINITY;
    for (int64_t i = 0; i < count; i++)
        top = p[i] > top ? p[i] : top;
    double least = (double)top - 8;
    for (int64_t i = 0; i < count; i++)
        p[i] = (float)((fmax((double)p[i], least) + 4) / 4);
    return 0;
}
