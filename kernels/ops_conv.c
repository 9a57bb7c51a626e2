/* ops_conv.c -- checks of convolution and pictures. */
#include "kernels/ops_check.h"

/* Size after a window of k over n with padding; 0 when it does not fit once. */
static int64_t windows(int64_t n, int64_t pad, int64_t k, int64_t stride)
{
    return n > 0 && n + pad >= k ? (n + pad - k) / stride + 1 : 0;
}

static bool check_conv(struct run *r, struct tensor x, struct tensor w, struct tensor b, const struct conv *c)
{
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 4) || !op_check_weight(r, "w", w, false))
        return false;
    if (!op_check_dims(r, "w", w, 5) || !op_check_vector(r, "b", b, w.shape[0], true))
        return false;
    int groups = c->groups ? c->groups : 1;
    if (groups < 1 || w.shape[0] % groups || w.shape[1] * groups != x.shape[3])
        return op_misfit(r, "x", x, "w", w, "the channels do not match (w holds channels / groups)");
    for (int i = 0; i < 3; i++) {
        if (c->stride[i] < 0 || c->pad_before[i] < 0 || c->pad_after[i] < 0)
            return op_misfit(r, "x", x, "w", w, "a stride or padding is negative");
    }
    return op_check_act(r, c->act);
}

/* The checked convolution with nothing left to default, and its result's shape. */
static bool conv_shape(struct run *r, struct tensor x, struct tensor w, struct tensor b, const struct conv *c,
                       struct conv *ret, int64_t shape[4])
{
    if (!check_conv(r, x, w, b, c))
        return false;
    *ret = *c;
    ret->groups = c->groups ? c->groups : 1;
    shape[3] = w.shape[0];
    for (int i = 0; i < 3; i++) {
        ret->stride[i] = c->stride[i] ? c->stride[i] : 1;
        shape[i] = windows(x.shape[i], c->pad_before[i] + c->pad_after[i], w.shape[2 + i], ret->stride[i]);
        if (shape[i] < 1)
            return op_misfit(r, "x", x, "w", w, "the kernel is larger than the padded input");
    }
    return true;
}

struct tensor op_conv(struct run *r, struct tensor x, struct tensor w, struct tensor b, const struct conv *c)
{
    struct conv full;
    int64_t shape[4];
    op_begin(r, "op_conv");
    if (!conv_shape(r, x, w, b, c, &full, shape))
        return TENSOR_NONE;
    struct tensor y = run_new(r, DTYPE_F32, 4, shape);
    op_count(r, 2.0 * (double)tensor_rows(y) * (double)tensor_count(w), 4, x, w, b, y);
    OP_CALL(r, conv, y, x, w, b, &full);
    return y;
}

void op_conv_into(struct run *r, struct tensor dst, struct tensor x, struct tensor w, struct tensor b, const struct conv *c)
{
    struct conv full;
    int64_t shape[4];
    op_begin(r, "op_conv_into");
    if (!op_check_f32(r, "dst", dst) || !conv_shape(r, x, w, b, c, &full, shape))
        return;
    if (!tensor_same_shape(dst, tensor_of(NULL, DTYPE_F32, 4, shape)) || !tensor_is_contiguous(dst)) {
        op_misfit(r, "dst", dst, "x", x, "it is not contiguous, or not as large as the convolution's result");
        return;
    }
    op_count(r, 2.0 * (double)tensor_rows(dst) * (double)tensor_count(w), 4, x, w, b, dst);
    OP_CALL(r, conv, dst, x, w, b, &full);
}

/* PyTorch's ceil_mode: the last window may hang over the end but must start inside the input or its front
 * padding. */
static int64_t pooled(int64_t n, int k, int stride, int pad, bool ceil)
{
    int64_t m = windows(n, 2 * pad, k, stride);
    if (ceil && n > 0 && n + 2 * pad >= k) {
        m = (n + 2 * pad - k + stride - 1) / stride + 1;
        if ((m - 1) * stride >= n + pad)
            m--;
    }
    return m;
}

struct tensor op_max_pool(struct run *r, struct tensor x, int k, int stride, int pad, bool ceil)
{
    op_begin(r, "op_max_pool");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 4))
        return TENSOR_NONE;
    if (k < 1 || stride < 1 || pad < 0 || pad > k / 2) {
        run_fail(r, ERR_SHAPE, "window %d, stride %d, padding %d: padding may be half the window at most", k,
                 stride, pad);
        return TENSOR_NONE;
    }
    int64_t h = pooled(x.shape[1], k, stride, pad, ceil), w = pooled(x.shape[2], k, stride, pad, ceil);
    if (h < 1 || w < 1) {
        op_refuse(r, "x", x, "the window is larger than the padded input");
        return TENSOR_NONE;
    }
    struct tensor y = run_new(r, DTYPE_F32, 4, SHAPE(x.shape[0], h, w, x.shape[3]));
    op_count(r, (double)tensor_count(y) * k * k, 2, x, y);
    OP_CALL(r, max_pool, y, x, k, stride, pad);
    return y;
}

struct tensor op_upsample(struct run *r, struct tensor x, int ft, int fh, int fw, bool first_once)
{
    op_begin(r, "op_upsample");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 4))
        return TENSOR_NONE;
    if (ft < 1 || fh < 1 || fw < 1) {
        run_fail(r, ERR_SHAPE, "factors %d, %d, %d: 1 or more is wanted", ft, fh, fw);
        return TENSOR_NONE;
    }
    int64_t t = first_once && x.shape[0] > 0 ? ft * (x.shape[0] - 1) + 1 : ft * x.shape[0];
    struct tensor y = run_new(r, DTYPE_F32, 4, SHAPE(t, x.shape[1] * fh, x.shape[2] * fw, x.shape[3]));
    op_count(r, 0, 2, x, y);
    OP_CALL(r, upsample, y, x, ft, fh, fw, first_once);
    return y;
}

struct tensor op_normalize(struct run *r, struct tensor x, float div, const float *mean, const float *std)
{
    op_begin(r, "op_normalize");
    if (!op_check_some(r, "x", x))
        return TENSOR_NONE;
    if (x.dtype != DTYPE_U8 || (tensor_dim(x, -1) > 1 && x.stride[x.n_dims - 1] != 1)) {
        op_refuse(r, "x", x, "u8 with contiguous channels is wanted");
        return TENSOR_NONE;
    }
    struct tensor y = run_new(r, DTYPE_F32, x.n_dims, x.shape);
    op_count(r, 3.0 * (double)tensor_count(x), 2, x, y);
    OP_CALL(r, normalize, y, x, div, mean, std);
    return y;
}

struct tensor op_to_u8(struct run *r, struct tensor x)
{
    op_begin(r, "op_to_u8");
    if (!op_check_f32(r, "x", x))
        return TENSOR_NONE;
    struct tensor y = run_new(r, DTYPE_U8, x.n_dims, x.shape);
    op_count(r, 5.0 * (double)tensor_count(x), 2, x, y);
    OP_CALL(r, to_u8, y, x);
    return y;
}

struct tensor op_to_yuv420(struct run *r, struct tensor x)
{
    op_begin(r, "op_to_yuv420");
    if (!op_check_f32(r, "x", x) || !op_check_dims(r, "x", x, 4))
        return TENSOR_NONE;
    if (x.shape[3] != 3 || x.shape[1] % 2 || x.shape[2] % 2) {
        op_refuse(r, "x", x, "frames of an even height and width and three channels are wanted");
        return TENSOR_NONE;
    }
    struct tensor y = run_new(r, DTYPE_U8, 3, SHAPE(x.shape[0], x.shape[1] / 2 * 3, x.shape[2]));
    op_count(r, 8.0 * (double)tensor_count(x), 2, x, y);
    OP_CALL(r, to_yuv420, y, x);
    return y;
}

struct tensor op_mask_down(struct run *r, struct tensor mask)
{
    op_begin(r, "op_mask_down");
    if (!op_check_f32(r, "mask", mask) || !op_check_dims(r, "mask", mask, 2))
        return TENSOR_NONE;
    if (mask.shape[0] % 8 || mask.shape[1] % 8) {
        op_refuse(r, "mask", mask, "multiples of 8 are wanted");
        return TENSOR_NONE;
    }
    struct tensor y = run_new(r, DTYPE_F32, 2, SHAPE(mask.shape[0] / 8, mask.shape[1] / 8));
    op_count(r, 4.0 * (double)tensor_count(y), 2, mask, y);
    OP_CALL(r, mask_down, y, mask);
    return y;
}
