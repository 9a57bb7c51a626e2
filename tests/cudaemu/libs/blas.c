/* blas.c -- cuBLASLt's contract, as far as kernels/cuda/lib_blas.c uses it, in plain loops over "device" memory. It has no
 * algorithm for products with k = 97, so that the way back is taken too, and an algorithm fits the call that it was asked
 * for and no other: a cache that confuses two shapes is found.
 */
#include <cublasLt.h>

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/dtype.h"

#define WITHOUT 97

static int opened;

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h)
{
    opened++;
    *h = (cublasLtHandle_t)(void *)&opened;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    return (void *)h == &opened && opened-- > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

const char *cublasLtGetStatusString(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_SUCCESS ? "success" : s == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported" : "emulated: refused";
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t d, cublasComputeType_t compute, cudaDataType_t scale)
{
    *d = (cublasLtMatmulDescOpaque_t){.epilogue = CUBLASLT_EPILOGUE_DEFAULT};
    return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

static cublasStatus_t take(void *dst, size_t want, const void *value, size_t size)
{
    if (size != want)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(dst, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, const void *value,
                                              size_t size)
{
    switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return take(&d->turned, sizeof d->turned, value, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return take(&d->epilogue, sizeof d->epilogue, value, size);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return take(&d->bias, sizeof d->bias, value, size);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t l, cudaDataType_t type, uint64_t rows, uint64_t cols,
                                        int64_t ld)
{
    *l = (cublasLtMatrixLayoutOpaque_t){type, rows, cols, ld};
    return ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t p)
{
    *p = (cublasLtMatmulPreferenceOpaque_t){.align = {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t size)
{
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return take(&p->workspace, sizeof p->workspace, value, size);
    if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        return take(&p->schemes, sizeof p->schemes, value, size);
    return take(&p->align[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], sizeof p->align[0], value, size);
}

/* What an algorithm depends on, but for alignments. */
static void stamp(uint64_t data[8], const cublasLtMatmulDescOpaque_t *d, const cublasLtMatrixLayoutOpaque_t *a,
                  const cublasLtMatrixLayoutOpaque_t *b, const cublasLtMatrixLayoutOpaque_t *y)
{
    data[0] = (uint64_t)d->epilogue << 32 | (uint64_t)a->type;
    data[1] = a->rows;
    data[2] = a->cols;
    data[3] = b->cols;
    data[4] = (uint64_t)b->ld;
    data[5] = (uint64_t)y->ld;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
                                              cublasLtMatmulPreference_t p, int wanted, cublasLtMatmulHeuristicResult_t *ret,
                                              int *ret_n)
{
    uint32_t least = 256;
    for (int i = 0; i < 4; i++)
        least = p->align[i] < least ? p->align[i] : least;
    if ((void *)h != &opened || wanted < 1 || c != y || p->schemes != 2)
        return CUBLAS_STATUS_INVALID_VALUE;
    *ret_n = 0;
    if (a->rows == WITHOUT)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    stamp(ret->algo.data, d, a, b, y);
    for (int i = 0; i < 4; i++)
        ret->algo.data[6] = ret->algo.data[6] << 16 | p->align[i];
    ret->algo.data[7] = least;
    ret->state = CUBLAS_STATUS_SUCCESS;
    *ret_n = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static float element(const void *p, cudaDataType_t type, int64_t i)
{
    float v = 0;
    bool wide = type == CUDA_R_32F;
    dtype_read_f32(&v, (const char *)p + i * (wide ? 4 : 2), wide ? DTYPE_F32 : DTYPE_BF16, 1, 1);
    return v;
}

static bool aligned(const void *p, uint64_t bytes)
{
    return (uintptr_t)p % bytes == 0;
}

/* Element (i, j) of a^T b, summed in double. */
static double dot(const void *a, const cublasLtMatrixLayoutOpaque_t *la, const void *b, const cublasLtMatrixLayoutOpaque_t *lb,
                  int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t k = 0; k < (int64_t)la->rows; k++)
        sum += (double)element(a, la->type, i * la->ld + k) * (double)element(b, lb->type, j * lb->ld + k);
    return sum;
}

static double finish(const cublasLtMatmulDescOpaque_t *d, double sum, int64_t i)
{
    if (d->epilogue & CUBLASLT_EPILOGUE_BIAS)
        sum += (double)((const float *)d->bias)[i];
    if (d->epilogue & CUBLASLT_EPILOGUE_GELU)
        sum = sum / 2 * (1 + tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
    return sum;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *y, cublasLtMatrixLayout_t ly,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes, cudaStream_t s)
{
    uint64_t now[8] = {0}, align = algo->data[6];
    float by, keep;
    (void)s;
    stamp(now, d, la, lb, ly);
    memcpy(&by, alpha, sizeof by);
    memcpy(&keep, beta, sizeof keep);
    bool fits = (void *)h == &opened && memcmp(now, algo->data, 6 * sizeof *now) == 0 && d->turned == CUBLAS_OP_T;
    fits = fits && c == y && lc == ly && la->rows == lb->rows && la->cols == ly->rows && lb->cols == ly->cols;
    if (!fits || !aligned(a, align >> 48) || !aligned(b, align >> 32 & 0xffff) || !aligned(y, align & 0xffff))
        return CUBLAS_STATUS_INVALID_VALUE;
    memset(workspace, 0xff, workspace_bytes < 4096 ? workspace_bytes : 4096); /* it is the library's */
    for (int64_t i = 0; i < (int64_t)(ly->rows * ly->cols); i++) {
        int64_t row = i % (int64_t)ly->rows, column = i / (int64_t)ly->rows;
        float *dst = (float *)y + column * ly->ld + row;
        double sum = (double)by * dot(a, la, b, lb, row, column);
        *dst = (float)finish(d, keep != 0 ? sum + (double)keep * (double)*dst : sum, row);
    }
    return CUBLAS_STATUS_SUCCESS;
}
