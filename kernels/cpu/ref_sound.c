/* ref_sound.c -- Whisper's log mel: a plain discrete Fourier transform of 400 samples, in double. */
#include <math.h>

#include "common/mem.h"
#include "kernels/cpu/ref.h"

#define FRAME 400
#define HOP 160
#define BINS (FRAME / 2 + 1)

struct mel {
    double window[FRAME]; /* Hann, periodic */
    double cos[FRAME], sin[FRAME];
    double frame[FRAME];
    double power[BINS];
};

static void tables(struct mel *m)
{
    for (int i = 0; i < FRAME; i++) {
        double angle = 2 * M_PI * i / FRAME;
        m->cos[i] = cos(angle);
        m->sin[i] = sin(angle);
        m->window[i] = 0.5 - 0.5 * m->cos[i];
    }
}

/* Sample i of the wave as if it went on mirrored at both ends (the end sample itself once). */
static double sample(const float *wave, int64_t n, int64_t i)
{
    if (i < 0)
        i = -i;
    if (i >= n)
        i = 2 * (n - 1) - i;
    return (double)wave[i];
}

static void spectrum(struct mel *m)
{
    for (int k = 0; k < BINS; k++) {
        double re = 0, im = 0;
        for (int i = 0, at = 0; i < FRAME; i++) {
            re += m->frame[i] * m->cos[at];
            im += m->frame[i] * m->sin[at];
            at += k;
            at -= at >= FRAME ? FRAME : 0;
        }
        m->power[k] = re * re + im * im;
    }
}

/* log10 of the mel powers of every frame; returns the largest. */
static double log_powers(struct mel *m, struct tensor y, struct tensor wave, struct tensor filters)
{
    double top = -INFINITY;
    for (int64_t f = 0; f < y.shape[0]; f++) {
        float *row = ref_row(y, f);
        for (int i = 0; i < FRAME; i++)
            m->frame[i] = m->window[i] * sample(wave.data, wave.shape[0], f * HOP - FRAME / 2 + i);
        spectrum(m);
        for (int64_t j = 0; j < y.shape[1]; j++) {
            const float *w = ref_row(filters, j);
            double sum = 0;
            for (int k = 0; k < BINS; k++)
                sum += (double)w[k] * m->power[k];
            sum = log10(sum > 1e-10 ? sum : 1e-10);
            row[j] = (float)sum;
            top = sum > top ? sum : top;
        }
    }
    return top;
}

int cpu_ref_log_mel(struct run *r, struct tensor y, struct tensor wave, struct tensor filters)
{
    struct mel *m = mem_alloc(sizeof *m);
    if (!m)
        return run_fail(r, ERR_NOMEM, "no memory for a spectrum");
    tables(m);
    double least = log_powers(m, y, wave, filters) - 8;
    float *p = y.data;
    for (int64_t i = 0; i < tensor_count(y); i++)
        p[i] = (float)((fmax((double)p[i], least) + 4) / 4);
    mem_free(m);
    return 0;
}
