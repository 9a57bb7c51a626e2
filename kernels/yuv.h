/* yuv.h -- BT.709 in integers: what op_to_yuv420 computes on every device, bit for bit the same.
 *
 * r, g, b: fixed-point 0 .. YUV_ONE of a pixel (luma), or their sums over 2 x 2 pixels (chroma). Coefficients are the
 * standard's (0.2126, 0.7152, 0.0722; 1.8556, 1.5748) times the code range (219 and 224), rounded such that black, white and
 * all greys come out exact; what is left is below 0.01 of a code value. Nothing leaves 31 bits.
 * Source: Rec. ITU-R BT.709-6, items 3 and 4.
 */
#ifndef KERNELS_YUV_H
#define KERNELS_YUV_H

#define YUV_ONE 16384 /* 1.0 */
#define YUV_HALF (1 << 22)

/* 16 .. 235, 16 .. 240, 16 .. 240 */
#define YUV_Y(r, g, b) ((uint8_t)((23838 * (r) + 80194 * (g) + 8096 * (b) + (16 << 23) + YUV_HALF) >> 23))
#define YUV_U(r, g, b) ((uint8_t)((14336 * (b) - 3285 * (r) - 11051 * (g) + (128 << 23) + YUV_HALF) >> 23))
#define YUV_V(r, g, b) ((uint8_t)((14336 * (r) - 13021 * (g) - 1315 * (b) + (128 << 23) + YUV_HALF) >> 23))

#endif
