/* media_make.h -- pictures and sounds that the media tests write on the spot, without any library. */
#ifndef TESTS_UNIT_MEDIA_MAKE_H
#define TESTS_UNIT_MEDIA_MAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/* A folder for the files of one test program, and the path of a file in it (static, one at a time per slot
 * 0..3). */
int media_make_folder(void **state);
int media_drop_folder(void **state); /* with every file in it */
const char *media_path(int slot, const char *name);
void media_write(const char *path, const void *data, size_t n);
void media_read(const char *path, struct buf *ret); /* ret is initialised here */

/* ffmpeg with these words (a shell line), quietly. false where there is no ffmpeg. A failing one fails the
 * test. */
bool media_ffmpeg(const char *words);

struct png_want {
    int width, height;
    int color; /* PNG's numbers: 0 grey, 2 RGB, 3 palette, 4 grey+alpha, 6 RGBA */
    int depth;
    bool interlaced;
    bool has_trns; /* of grey and RGB: a transparent colour; of palettes: alphas */
};

void png_make(struct buf *b, const struct png_want *o); /* appends */
/* The colour Pillow's convert("RGB") gives for pixel (x, y) of that file. */
void png_expect(const struct png_want *o, int x, int y, uint8_t rgb[3]);
void png_chunk(struct buf *b, const char *name, const void *data, size_t n);

struct wav_want {
    int format; /* 1 integers, 3 floats */
    int bits, channels, rate;
    int64_t n;                      /* frames in the file */
    uint32_t more;                  /* bytes that the header claims beyond that */
    double (*at)(int64_t i, int c); /* in [-1, 1) */
};

void wav_make(struct buf *b, const struct wav_want *o); /* appends */
double wav_sine(int64_t i, int c);                      /* 0.5 sin, another phase for each channel */

#endif
