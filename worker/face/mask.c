#include "worker/face/mask.h"

#include <math.h>

#include "common/mem.h"
#include "kernels/ops.h"

/* Begin and end of one axis, as slice indices. Values are kept where int can hold them. */
static void enlarge(double at, double len, double area, int limit, int *ret_a, int *ret_b)
{
    double half = floor(floor(len * area) / 2), centre = floor((at + at + len) / 2);
    double a = centre - half, b = centre + half;
    a = a > 0 ? a : 0;
    b = b < limit ? b : limit;
    if (b < 0)
        b = b + limit > 0 ? b + limit : 0;
    *ret_a = a < limit ? (int)a : limit;
    *ret_b = (int)b;
}

void mask_rect(double x, double y, double w, double h, double area, int width, int height, int rect[4])
{
    enlarge(x, w, area, width, &rect[0], &rect[2]);
    enlarge(y, h, area, height, &rect[1], &rect[3]);
    if (rect[0] >= rect[2] || rect[1] >= rect[3])
        rect[0] = rect[1] = rect[2] = rect[3] = 0;
}

struct tensor mask_latent(struct run *r, const int rect[4], int width, int height)
{
    size_t n = (size_t)width * (size_t)height;
    float *m = mem_calloc(n, sizeof *m);
    if (!m) {
        run_fail(r, ERR_NOMEM, "face mask: out of memory");
        return TENSOR_NONE;
    }
    for (int y = rect[1]; y < rect[3]; y++)
        for (int x = rect[0]; x < rect[2]; x++)
            m[(size_t)y * (size_t)width + (size_t)x] = 1;
    struct tensor t = run_write(r, m, DTYPE_F32, 2, SHAPE(height, width));
    mem_free(m);
    return op_mask_down(r, t);
}
