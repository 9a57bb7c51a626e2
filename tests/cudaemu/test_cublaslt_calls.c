/* test_cublaslt_calls.c -- the real cuBLASLt, without a GPU: does it take the descriptions that kernels/cuda/lib_blas.c
 * makes, attributes of the right size, and does it keep what was meant? It gives an algorithm only where a device is.
 *
 * The file is included, not linked: its functions are static.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/lib_blas.c"

static int passed, failed;

/* What the file calls when it computes. */
static int nothing(struct run *r)
{
    return run_fail(r, ERR_INTERNAL, "nothing is computed here");
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

int cuda_copy(struct run *r, struct tensor dst, struct tensor x)
{
    (void)dst, (void)x;
    return nothing(r);
}

int cuda_fill(struct run *r, struct tensor x, float value)
{
    (void)x, (void)value;
    return nothing(r);
}

int cuda_add_gated(struct run *r, struct tensor x, struct tensor y, struct tensor gate)
{
    (void)x, (void)y, (void)gate;
    return nothing(r);
}

struct cuda_rows cuda_rows_of(struct tensor t)
{
    (void)t;
    return (struct cuda_rows){0};
}

int lib_blas_f16(struct run *r, struct tensor dst, struct tensor x)
{
    return cuda_copy(r, dst, x);
}

int lib_blas_finish(struct run *r, struct tensor y, struct tensor b, enum act act)
{
    (void)act;
    return cuda_copy(r, y, b);
}

int e4m3_rows(struct run *r, struct tensor dst, struct tensor x, struct tensor less, struct tensor scale, bool each_row)
{
    (void)less, (void)scale, (void)each_row;
    return cuda_copy(r, dst, x);
}

static void check(bool fine, const char *what, int32_t type)
{
    fine ? passed++ : failed++;
    if (!fine)
        printf("FAIL %s, type %d\n", what, (int)type);
}

/* The attribute is there, as long as value, and equal to it. */
static bool kept(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, const void *value, size_t size)
{
    unsigned char got[16] = {0};
    size_t n = 0;
    return cublasLtMatmulDescGetAttribute(d, what, NULL, 0, &n) == CUBLAS_STATUS_SUCCESS && n == size &&
           cublasLtMatmulDescGetAttribute(d, what, got, size, &n) == CUBLAS_STATUS_SUCCESS && memcmp(got, value, size) == 0;
}

static void check_type(enum dtype type, int epilogue, bool each_row)
{
    static const float numbers[4];
    const void *bias = epilogue & CUBLASLT_EPILOGUE_BIAS ? numbers : NULL;
    const struct blas_operand w = {NULL, type == DTYPE_F8E4M3 ? numbers + 1 : NULL, 64},
                              x = {NULL, type == DTYPE_F8E4M3 ? numbers + 2 : NULL, 64};
    const struct blas_key key = {.m = 100, .n = 48, .k = 64, .ldx = 64, .ldy = 52, .type = library_type(type),
                                 .epilogue = epilogue, .each_row = each_row, .align_x = 16, .align_w = 256, .align_y = 32};
    const int32_t mode = each_row ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F : CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F,
                  bias_type = type == DTYPE_F8E4M3 && bias ? CUDA_R_16BF : -1;
    struct blas_call call;
    cublasLtMatmulPreferenceOpaque_t preference;
    check(describe(&call, &key, w, x, bias) == CUBLAS_STATUS_SUCCESS, "the description", key.type);
    check(prefer(&preference, &key) == CUBLAS_STATUS_SUCCESS, "the preference", key.type);
    cublasLtMatmulDesc_t d = &call.product;
    check(kept(d, CUBLASLT_MATMUL_DESC_EPILOGUE, &key.epilogue, sizeof key.epilogue), "the epilogue", key.type);
    check(kept(d, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(const void *)), "the bias", key.type);
    check(kept(d, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type), "the bias' type", key.type);
    check(kept(d, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &w.scale, sizeof w.scale), "the scale of w", key.type);
    check(kept(d, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x.scale, sizeof x.scale), "the scale of x", key.type);
    check(kept(d, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode), "the mode of w", key.type);
    check(kept(d, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode), "the mode of x", key.type);
}

int main(void)
{
    check_type(DTYPE_F32, CUBLASLT_EPILOGUE_BIAS, false);
    check_type(DTYPE_BF16, CUBLASLT_EPILOGUE_GELU_BIAS, false);
    check_type(DTYPE_BF16, CUBLASLT_EPILOGUE_DEFAULT, false);
    check_type(DTYPE_F16, CUBLASLT_EPILOGUE_GELU_BIAS, false);
    check_type(DTYPE_F8E4M3, CUBLASLT_EPILOGUE_GELU_BIAS, false);
    check_type(DTYPE_F8E4M3, CUBLASLT_EPILOGUE_GELU, true);
    check_type(DTYPE_F8E4M3, CUBLASLT_EPILOGUE_BIAS, true);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
