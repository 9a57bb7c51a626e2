#include "worker/media/size.h"

#include <math.h>
#include <stddef.h>

double size_area(int size)
{
    static const int row[][2] = {{704, 1216}, {512, 768}, {384, 576}, {256, 384}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (row[i][0] == size)
            return (double)size * row[i][1];
    }
    return size * (1.5 * size);
}

/* rint rounds halves to even in the default rounding mode, as Python's round does. */
void size_rule(int width, int height, int size, int *ret_w, int *ret_h)
{
    double w = width, h = height;
    double s = size / fmin(w, h);
    double nw = rint(w * s / 64) * 64, nh = rint(h * s / 64) * 64;
    double area = size_area(size);
    if (nw * nh > area) {
        s = sqrt(area / w / h);
        nw = rint(w * s / 64) * 64;
        nh = rint(h * s / 64) * 64;
    }
    *ret_w = (int)nw;
    *ret_h = (int)nh;
}
