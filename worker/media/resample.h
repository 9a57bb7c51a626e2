/* resample.h -- mono sound to 16 kHz with soxr's HQ quality (20 bit, linear phase): the library the
 * reference's own loader uses. Output length ceil(n * 16000 / rate); nothing is done at 16 kHz. */
#ifndef WORKER_MEDIA_RESAMPLE_H
#define WORKER_MEDIA_RESAMPLE_H

#include <stdint.h>

#include "common/err.h"

#define RESAMPLE_RATE 16000

/* *ret is new (mem_free), f32. ERR_NOMEM, ERR_MEDIA. */
int resample_16k(const float *x, int64_t n, int rate, float **ret, int64_t *ret_n, struct err *err);
/* The same to any rate. */
int resample_to(const float *x, int64_t n, int rate, int to, float **ret, int64_t *ret_n, struct err *err);

#endif
