#include "worker/media/claim.h"

#include <string.h>

struct bytes {
    const uint8_t *data;
    size_t n;
    bool big; /* endian */
};

/* The `width`-byte number at `at`, 0 beyond the end. */
static uint64_t number(struct bytes b, size_t at, size_t width)
{
    uint64_t v = 0;
    if (at > b.n || b.n - at < width)
        return 0;
    for (size_t i = 0; i < width; i++)
        v |= (uint64_t)b.data[at + i] << 8 * (b.big ? width - 1 - i : i);
    return v;
}

static void size_png(struct bytes b, uint64_t *w, uint64_t *h)
{
    b.big = true;
    *w = number(b, 16, 4);
    *h = number(b, 20, 4);
}

static void size_gif(struct bytes b, uint64_t *w, uint64_t *h)
{
    *w = number(b, 6, 2);
    *h = number(b, 8, 2);
}

static void size_bmp(struct bytes b, uint64_t *w, uint64_t *h)
{
    if (number(b, 14, 4) == 12) {
        *w = number(b, 18, 2);
        *h = number(b, 20, 2);
        return;
    }
    int64_t high = (int32_t)number(b, 22, 4); /* negative: rows from the top */
    *w = number(b, 18, 4);
    *h = (uint64_t)(high < 0 ? -high : high);
}

static void size_webp(struct bytes b, uint64_t *w, uint64_t *h)
{
    if (b.n < 30)
        return;
    const uint8_t *name = b.data + 12;
    if (memcmp(name, "VP8X", 4) == 0) {
        *w = number(b, 24, 3) + 1;
        *h = number(b, 27, 3) + 1;
    } else if (memcmp(name, "VP8L", 4) == 0) {
        *w = (number(b, 21, 4) & 0x3fff) + 1;
        *h = (number(b, 21, 4) >> 14 & 0x3fff) + 1;
    } else if (memcmp(name, "VP8 ", 4) == 0) {
        *w = number(b, 26, 2) & 0x3fff;
        *h = number(b, 28, 2) & 0x3fff;
    }
}

/* The next JPEG marker from *at on, 0 at the end. *ret_body is behind it; *at goes behind its segment, if it
 * has one. */
static uint8_t next_mark(struct bytes b, size_t *at, size_t *ret_body)
{
    for (size_t i = *at; i + 4 <= b.n; i++) {
        uint8_t mark = b.data[i + 1];
        if (b.data[i] != 0xff || mark == 0xff || mark == 0)
            continue;
        bool alone = mark == 1 || (mark >= 0xd0 && mark <= 0xd9);
        *ret_body = i + 2;
        *at = i + 2 + (alone ? 0 : number(b, i + 2, 2));
        return mark;
    }
    return 0;
}

/* Frame headers are SOF0..SOF15 without DHT (c4), JPG (c8) and DAC (cc). The largest counts. */
static void size_jpeg(struct bytes b, uint64_t *w, uint64_t *h)
{
    size_t at = 2, body;
    b.big = true;
    for (uint8_t mark; (mark = next_mark(b, &at, &body)) != 0;) {
        bool is_frame = mark >= 0xc0 && mark <= 0xcf && mark != 0xc4 && mark != 0xc8 && mark != 0xcc;
        if (is_frame && number(b, body + 3, 2) * number(b, body + 5, 2) >= *w * *h) {
            *h = number(b, body + 3, 2);
            *w = number(b, body + 5, 2);
        }
    }
}

/* Width and height are tags 256 and 257 of the first directory, 16 bit (type 3) or 32. */
static void size_tiff(struct bytes b, uint64_t *w, uint64_t *h)
{
    b.big = b.data[0] == 'M';
    size_t at = number(b, 4, 4);
    uint64_t n = number(b, at, 2);
    for (uint64_t i = 0; i < n && at + 2 + 12 * (i + 1) <= b.n; i++) {
        size_t entry = at + 2 + 12 * i;
        uint64_t tag = number(b, entry, 2), v = number(b, entry + 8, number(b, entry + 2, 2) == 3 ? 2 : 4);
        if (tag == 256)
            *w = v;
        if (tag == 257)
            *h = v;
    }
}

enum claim_kind claim_kind_of(const uint8_t *data, size_t n)
{
    static const struct {
        enum claim_kind kind;
        size_t at, len;
        const char *magic;
    } row[] = {
        {CLAIM_PNG, 0, 8, "\x89PNG\r\n\x1a\n"},
        {CLAIM_JPEG, 0, 3, "\xff\xd8\xff"},
        {CLAIM_WEBP, 8, 4, "WEBP"},
        {CLAIM_GIF, 0, 4, "GIF8"},
        {CLAIM_BMP, 0, 2, "BM"},
        {CLAIM_TIFF, 0, 4, "II*\0"},
        {CLAIM_TIFF, 0, 4, "MM\0*"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (n >= row[i].at + row[i].len && memcmp(data + row[i].at, row[i].magic, row[i].len) == 0)
            return row[i].kind;
    }
    return CLAIM_KINDS;
}

void claim_size(const uint8_t *data, size_t n, uint64_t *ret_w, uint64_t *ret_h)
{
    static void (*const size_of[CLAIM_KINDS])(struct bytes b, uint64_t * w, uint64_t * h) = {
        [CLAIM_PNG] = size_png, [CLAIM_JPEG] = size_jpeg, [CLAIM_WEBP] = size_webp,
        [CLAIM_GIF] = size_gif, [CLAIM_BMP] = size_bmp,   [CLAIM_TIFF] = size_tiff,
    };
    enum claim_kind kind = claim_kind_of(data, n);
    *ret_w = *ret_h = 0;
    if (kind != CLAIM_KINDS)
        size_of[kind]((struct bytes){data, n, false}, ret_w, ret_h);
}

bool claim_is_cut(const uint8_t *data, size_t n)
{
    struct bytes b = {data, n, true};
    size_t at = 2, body;
    uint8_t mark = 0;
    if (claim_kind_of(data, n) != CLAIM_JPEG)
        return false;
    while ((mark = next_mark(b, &at, &body)) != 0 && mark != 0xda)
        ;
    return mark == 0 || !memmem(data + body, n - body, "\xff\xd9", 2);
}
