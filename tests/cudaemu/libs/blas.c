/* blas.c -- cuBLASLt's contract, as far as kernels/cuda/lib_blas.c uses it, in plain loops over "device" memory. It has no
 * algorithm for products with some k, so that the ways back are taken too, and an algorithm fits the call that it was asked
 * for and no other: a cache that confuses two shapes is found. e4m3 is held to what the documentation asks for.
 */
#include <cublasLt.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"

/* Values of k without an algorithm: none; none with an epilogue; none with GELU; none in e4m3; none with scales of rows; in
 * e4m3 one that is refused when it is to compute. */
enum {
    WITHOUT = 97,
    WITHOUT_EPILOGUE = 176,
    WITHOUT_GELU = 208,
    WITHOUT_E4M3 = 224,
    WITHOUT_EACH_ROW = 240,
    REFUSED = 272
};

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
    *d = (cublasLtMatmulDescOpaque_t){.epilogue = CUBLASLT_EPILOGUE_DEFAULT, .bias_type = -1};
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
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return take(&d->bias_type, sizeof d->bias_type, value, size);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        return take(&d->scale[what - CUBLASLT_MATMUL_DESC_A_SCALE_POINTER], sizeof d->scale[0], value, size);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
        return take(&d->scales[what - CUBLASLT_MATMUL_DESC_A_SCALE_MODE], sizeof d->scales[0], value, size);
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
    data[0] = (uint64_t)d->epilogue << 32 | (uint64_t)d->scales[0] << 16 | (uint64_t)a->type;
    data[1] = a->rows;
    data[2] = a->cols;
    data[3] = b->cols;
    data[4] = (uint64_t)b->ld;
    data[5] = (uint64_t)y->ld;
}

static bool has_algorithm(const cublasLtMatmulDescOpaque_t *d, const cublasLtMatrixLayoutOpaque_t *a)
{
    const char *sm = getenv("CUDAEMU_SM");
    bool each_row = d->scales[0] != 0, fp8 = a->type == CUDA_R_8F_E4M3;
    if (fp8 && (!sm || atoi(sm) < 89 || (each_row && atoi(sm) != 90)))
        return false;
    switch (a->rows) {
    case WITHOUT:
        return false;
    case WITHOUT_EPILOGUE:
        return d->epilogue == CUBLASLT_EPILOGUE_DEFAULT;
    case WITHOUT_GELU:
        return !(d->epilogue & CUBLASLT_EPILOGUE_GELU);
    case WITHOUT_E4M3:
        return !fp8;
    case WITHOUT_EACH_ROW:
        return !each_row;
    default:
        return true;
    }
}

static bool has_bias(const cublasLtMatmulDescOpaque_t *d)
{
    return d->epilogue & CUBLASLT_EPILOGUE_BIAS;
}

/* What the documentation asks for beside e4m3 operands, and forbids beside others. */
static bool scales_fit(const cublasLtMatmulDescOpaque_t *d, const cublasLtMatrixLayoutOpaque_t *a,
                       const cublasLtMatrixLayoutOpaque_t *b, const cublasLtMatrixLayoutOpaque_t *y)
{
    if (a->type != CUDA_R_8F_E4M3)
        return !d->scale[0] && !d->scale[1] && !d->scales[0] && !d->scales[1] && d->bias_type == -1;
    bool each = d->scales[0] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, has = d->scale[0] && d->scale[1];
    if (d->scales[0] != d->scales[1] || (each && !has) || (has_bias(d) && d->bias_type != CUDA_R_16BF))
        return false;
    return (a->rows | (uint64_t)a->ld | (uint64_t)b->ld) % 16 == 0 && (y->rows | (uint64_t)y->ld) % 4 == 0;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
                                              cublasLtMatmulPreference_t p, int wanted, cublasLtMatmulHeuristicResult_t *ret,
                                              int *ret_n)
{
    uintptr_t bias = has_bias(d) ? (uintptr_t)d->bias : 256;
    if ((void *)h != &opened || wanted < 1 || c != y || p->schemes != 2)
        __builtin_trap();
    *ret_n = 0;
    if (!scales_fit(d, a, b, y))
        __builtin_trap();
    if (!has_algorithm(d, a))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    stamp(ret->algo.data, d, a, b, y);
    for (int i = 0; i < 4; i++)
        ret->algo.data[6] = ret->algo.data[6] << 16 | p->align[i];
    ret->algo.data[7] = bias % 256 ? bias & (~bias + 1) : 256; /* it looks at where the bias lies */
    ret->state = CUBLAS_STATUS_SUCCESS;
    *ret_n = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static float element(const void *p, cudaDataType_t type, int64_t i)
{
    float v = 0;
    enum dtype t = type == CUDA_R_32F ? DTYPE_F32 : type == CUDA_R_16F ? DTYPE_F16 : type == CUDA_R_16BF ? DTYPE_BF16
                                                                                                         : DTYPE_F8E4M3;
    dtype_read_f32(&v, (const char *)p + i * (int64_t)dtype_bytes(t), t, 1, 1);
    return v;
}

static bool aligned(const void *p, uint64_t bytes)
{
    return (uintptr_t)p % bytes == 0;
}

/* Element (i, j) of a^T b, summed in double. */
static double dot(const void *a, const cublasLtMatrixLayoutOpaque_t *la, const void *b,
                  const cublasLtMatrixLayoutOpaque_t *lb, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t k = 0; k < (int64_t)la->rows; k++)
        sum += (double)element(a, la->type, i * la->ld + k) * (double)element(b, lb->type, j * lb->ld + k);
    return sum;
}

/* The scales of row i of op(a) and column j of b. */
static double scale(const cublasLtMatmulDescOpaque_t *d, int64_t i, int64_t j)
{
    bool each = d->scales[0] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    double a = d->scale[0] ? (double)d->scale[0][each ? i : 0] : 1, b = d->scale[1] ? (double)d->scale[1][each ? j : 0] : 1;
    return a * b;
}

static double finish(const cublasLtMatmulDescOpaque_t *d, double sum, int64_t i)
{
    if (d->epilogue & CUBLASLT_EPILOGUE_BIAS)
        sum += (double)element(d->bias, d->bias_type < 0 ? CUDA_R_32F : (cudaDataType_t)d->bias_type, i);
    if (d->epilogue & CUBLASLT_EPILOGUE_GELU)
        sum = sum / 2 * (1 + tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
    return sum;
}

/* A product as the stream sees it when its turn comes. */
struct product {
    cublasLtMatmulDescOpaque_t d;
    cublasLtMatrixLayoutOpaque_t la, lb, ly;
    const void *a, *b;
    void *y, *workspace;
    float by, keep;
};

static void multiply(void *arg)
{
    const struct product *p = arg;
    memset(p->workspace, 0xff, 4096); /* it is the library's */
    for (int64_t i = 0; i < (int64_t)(p->ly.rows * p->ly.cols); i++) {
        int64_t row = i % (int64_t)p->ly.rows, column = i / (int64_t)p->ly.rows;
        float *dst = (float *)p->y + column * p->ly.ld + row;
        double sum = (double)p->by * scale(&p->d, row, column) * dot(p->a, &p->la, p->b, &p->lb, row, column);
        *dst = (float)finish(&p->d, p->keep != 0 ? sum + (double)p->keep * (double)*dst : sum, row);
    }
}

/* The algorithm is of this very product, and the operands lie as they must. */
static bool fits(const struct product *p, const cublasLtMatmulAlgo_t *algo)
{
    uint64_t now[8] = {0}, align = algo->data[6];
    stamp(now, &p->d, &p->la, &p->lb, &p->ly);
    if (memcmp(now, algo->data, 6 * sizeof *now) != 0 || p->d.turned != CUBLAS_OP_T ||
        !scales_fit(&p->d, &p->la, &p->lb, &p->ly))
        return false;
    if (p->la.rows != p->lb.rows || p->la.cols != p->ly.rows || p->lb.cols != p->ly.cols)
        return false;
    if (p->la.type == CUDA_R_8F_E4M3 && (!aligned(p->a, 16) || !aligned(p->b, 16)))
        return false;
    if (has_bias(&p->d) && !aligned(p->d.bias, algo->data[7]))
        return false;
    return aligned(p->a, align >> 48) && aligned(p->b, align >> 32 & 0xffff) && aligned(p->y, align & 0xffff);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *y, cublasLtMatrixLayout_t ly,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes, cudaStream_t s)
{
    struct product p = {*d, *la, *lb, *ly, a, b, y, workspace, 0, 0};
    memcpy(&p.by, alpha, sizeof p.by);
    memcpy(&p.keep, beta, sizeof p.keep);
    if ((void *)h != &opened || c != y || lc != ly || workspace_bytes < 4096 || !fits(&p, algo))
        __builtin_trap(); /* a mistake of the caller's, for which it must not take another way */
    if (p.la.type == CUDA_R_8F_E4M3 && p.la.rows == REFUSED)
        return CUBLAS_STATUS_INVALID_VALUE;
    return cudaemu_enqueue(s, multiply, &p, sizeof p) == 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
