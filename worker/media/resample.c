#include "worker/media/resample.h"

#include <soxr.h>
#include <string.h>

#include "common/mem.h"

int resample_to(const float *x, int64_t n, int rate, int to, float **ret, int64_t *ret_n, struct err *err)
{
    int64_t want = (n * to + rate - 1) / rate;
    float *y = mem_calloc((size_t)want, sizeof *y);
    size_t used = 0, made = 0;
    if (!y)
        return err_set(err, ERR_NOMEM, "audio: no memory for %lld samples", (long long)want);
    if (rate == to) {
        memcpy(y, x, (size_t)n * sizeof *y);
    } else if (n > 0) {
        soxr_quality_spec_t q = soxr_quality_spec(SOXR_HQ, 0);
        soxr_error_t e =
            soxr_oneshot(rate, to, 1, x, (size_t)n, &used, y, (size_t)want, &made, NULL, &q, NULL);
        if (e) {
            mem_free(y);
            return err_set(err, ERR_MEDIA, "audio: resampling from %d Hz to %d Hz: %s", rate, to, e);
        }
    }
    *ret = y;
    *ret_n = want;
    return 0;
}

int resample_16k(const float *x, int64_t n, int rate, float **ret, int64_t *ret_n, struct err *err)
{
    return resample_to(x, n, rate, RESAMPLE_RATE, ret, ret_n, err);
}
