#include "worker/model/window.h"

#include <stdbool.h>

int window_plan_init(struct window_plan *ret, int64_t n_frames, struct err *err)
{
    if (n_frames < 1 || n_frames > WINDOW_MAX_FRAMES)
        return err_set(err, ERR_INVALID, "a video of %lld frames: 1 to %d are possible", (long long)n_frames,
                       WINDOW_MAX_FRAMES);
    const int64_t n_audio = n_frames <= 129 ? 129 : n_frames + 5;
    const int64_t n_noise = (n_audio / 128 + 1) * 32 + 1;
    const bool single = n_audio == 129;
    const int64_t n_latents = single ? WINDOW_LATENTS : n_noise;
    *ret = (struct window_plan){
        .n_frames = n_frames,
        .n_audio = n_audio,
        .n_noise = n_noise,
        .n_latents = n_latents,
        .n_decoded = n_audio / 4 + 1,
        .n_windows = (int)((n_latents + WINDOW_LATENTS - 1) / WINDOW_LATENTS),
        .shift = single ? 0 : WINDOW_SHIFT,
    };
    return 0;
}

/* The remainder that is never negative. */
static int64_t wrap(int64_t i, int64_t n)
{
    return ((i % n) + n) % n;
}

int64_t window_start(const struct window_plan *p, int step, int k)
{
    const int64_t back = (int64_t)step * p->shift % WINDOW_LATENTS;
    return wrap((int64_t)k * WINDOW_LATENTS - back, p->n_latents);
}

void window_latents(const struct window_plan *p, int64_t start, int32_t ret[WINDOW_LATENTS])
{
    for (int j = 0; j < WINDOW_LATENTS; j++)
        ret[j] = (int32_t)wrap(start + j, p->n_latents);
}

void window_audio(const struct window_plan *p, int64_t start, int64_t n_real, int32_t ret[WINDOW_AUDIO])
{
    for (int slot = 0; slot < WINDOW_AUDIO; slot++) {
        const int64_t k = slot < 3 ? 0 : slot - 3;
        const int64_t frame = wrap(4 * start + k, 4 * p->n_latents);
        ret[slot] = (int32_t)(frame < n_real ? frame : n_real);
    }
}

int window_count(const struct window_plan *p, int step, int64_t f)
{
    int n = 0;
    for (int k = 0; k < p->n_windows; k++)
        n += wrap(f - window_start(p, step, k), p->n_latents) < WINDOW_LATENTS;
    return n;
}
