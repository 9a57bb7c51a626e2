#include "dispatcher/magic.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/str.h"

static const long long MAX_PIXELS = 40000000;

enum {
    JPEG_SEGMENTS = 512,  /* markers looked at before the frame header */
    ZEROS_BEFORE = 4096,  /* some encoders begin an MP3 with silence */
    WAV_CHUNKS = 64,      /* looked at before the sound */
    GUESS_BYTES_A_SECOND = 16000, /* 128 kbit/s */
};

struct kind {
    const char *type;
    size_t at;
    const char *bytes;
    size_t n;
    const char *also; /* four bytes at 8: RIFF's form, FORM's type */
};

#define BYTES(s) s, sizeof(s) - 1

static const struct kind pictures[] = {
    {"image/png", 0, BYTES("\x89PNG\r\n\x1a\n"), NULL},
    {"image/jpeg", 0, BYTES("\xff\xd8\xff"), NULL},
    {"image/gif", 0, BYTES("GIF87a"), NULL},
    {"image/gif", 0, BYTES("GIF89a"), NULL},
    {"image/webp", 0, BYTES("RIFF"), "WEBP"},
};

static const struct kind sounds[] = {
    {"audio/wav", 0, BYTES("RIFF"), "WAVE"},     {"audio/wav", 0, BYTES("RF64"), "WAVE"},
    {"video/x-msvideo", 0, BYTES("RIFF"), "AVI "},
    {"audio/wav", 0, BYTES("riff\x2e\x91\xcf\x11"), NULL},
    {"audio/flac", 0, BYTES("fLaC"), NULL},      {"audio/ogg", 0, BYTES("OggS"), NULL},
    {"audio/mpeg", 0, BYTES("ID3"), NULL},       {"video/mp4", 4, BYTES("ftyp"), NULL},
    {"video/quicktime", 4, BYTES("moov"), NULL}, {"video/quicktime", 4, BYTES("mdat"), NULL},
    {"video/quicktime", 4, BYTES("wide"), NULL}, {"video/quicktime", 4, BYTES("free"), NULL},
    {"video/webm", 0, BYTES("\x1a\x45\xdf\xa3"), NULL},
    {"audio/aiff", 0, BYTES("FORM"), "AIFF"},    {"audio/aiff", 0, BYTES("FORM"), "AIFC"},
    {"audio/basic", 0, BYTES(".snd"), NULL},     {"audio/x-caf", 0, BYTES("caff"), NULL},
    {"audio/amr", 0, BYTES("#!AMR"), NULL},      {"audio/x-ms-wma", 0, BYTES("\x30\x26\xb2\x75"), NULL},
    {"audio/aac", 0, BYTES("ADIF"), NULL},       {"audio/x-wavpack", 0, BYTES("wvpk"), NULL},
    {"audio/x-ape", 0, BYTES("MAC "), NULL},     {"audio/x-tta", 0, BYTES("TTA1"), NULL},
    {"audio/ac3", 0, BYTES("\x0b\x77"), NULL},   {"audio/x-dsf", 0, BYTES("DSD "), NULL},
    {"video/mpeg", 0, BYTES("\0\0\1\xba"), NULL}, {"video/x-flv", 0, BYTES("FLV\1"), NULL},
    {"video/mp2t", 0, BYTES("\x47\x40"), NULL},
};

static const char *find(const struct kind *list, size_t n_list, const unsigned char *b, size_t n)
{
    for (size_t i = 0; i < n_list; i++) {
        const struct kind *k = &list[i];
        if (n >= k->at + k->n && memcmp(b + k->at, k->bytes, k->n) == 0 &&
            (!k->also || (n >= 12 && memcmp(b + 8, k->also, 4) == 0)))
            return k->type;
    }
    return NULL;
}

static const char *find_picture(const unsigned char *b, size_t n)
{
    return find(pictures, sizeof pictures / sizeof *pictures, b, n);
}

static const char *find_sound(const unsigned char *b, size_t n)
{
    const char *type = find(sounds, sizeof sounds / sizeof *sounds, b, n);
    if (!type && n >= 2 && b[0] == 0xff && (b[1] & 0xf6) == 0xf0)
        return "audio/aac"; /* ADTS: layer bits are 0 */
    if (!type && n >= 3 && b[0] == 0xff && (b[1] & 0xe0) == 0xe0 && (b[1] & 0x06) && (b[2] & 0xf0) != 0xf0)
        return "audio/mpeg";
    return type;
}

int magic_image_head(const char *field, const unsigned char *bytes, size_t n, struct err *err)
{
    if (n == 0)
        return err_set(err, ERR_MEDIA, "%s: the file is empty", field);
    if (!find_picture(bytes, n))
        return err_set(err, ERR_MEDIA, "%s: not a PNG, JPEG, WebP or GIF file; convert the picture to one of them",
                       field);
    return 0;
}

int magic_audio_head(const char *field, const unsigned char *bytes, size_t n, struct err *err)
{
    if (n == 0)
        return err_set(err, ERR_MEDIA, "%s: the file is empty", field);
    if (!find_sound(bytes, n) && bytes[0] != 0)
        return err_set(err, ERR_MEDIA,
                       "%s: not a sound file that is known here; WAV, MP3, FLAC, Ogg, Opus, M4A, AAC, WebM are", field);
    return 0;
}

const char *magic_type(const unsigned char *bytes, size_t n)
{
    const char *type = find_picture(bytes, n);
    if (!type)
        type = find_sound(bytes, n);
    return type ? type : "application/octet-stream";
}

static size_t read_at(int fd, off_t at, unsigned char *b, size_t n)
{
    ssize_t k = pread(fd, b, n, at);
    return k < 0 ? 0 : (size_t)k;
}

static int be16(const unsigned char *b)
{
    return b[0] << 8 | b[1];
}

static int le16(const unsigned char *b)
{
    return b[1] << 8 | b[0];
}

static long long be32(const unsigned char *b)
{
    return (long long)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}

/* Walks the marker segments to the frame header (SOF0..15 without DHT, JPG, DAC). */
static bool jpeg_size(int fd, long long *ret_w, long long *ret_h)
{
    unsigned char b[10];
    off_t at = 2;
    for (int i = 0; i < JPEG_SEGMENTS; i++) {
        if (read_at(fd, at, b, sizeof b) < 4 || b[0] != 0xff)
            return false;
        int m = b[1];
        if (m == 0xff) { /* a fill byte */
            at++;
            continue;
        }
        if (m >= 0xc0 && m <= 0xcf && m != 0xc4 && m != 0xc8 && m != 0xcc) {
            *ret_h = be16(b + 5);
            *ret_w = be16(b + 7);
            return read_at(fd, at, b, sizeof b) >= 9;
        }
        if (m == 0xda || m == 0xd9) /* the scan, the end: there was no frame header */
            return false;
        at += m == 0x01 || (m >= 0xd0 && m <= 0xd7) ? 2 : 2 + be16(b + 2);
    }
    return false;
}

static bool webp_size(const unsigned char *b, size_t n, long long *ret_w, long long *ret_h)
{
    if (n < 30)
        return false;
    if (memcmp(b + 12, "VP8 ", 4) == 0) {
        *ret_w = le16(b + 26) & 0x3fff;
        *ret_h = le16(b + 28) & 0x3fff;
        return true;
    }
    if (memcmp(b + 12, "VP8L", 4) == 0) {
        *ret_w = 1 + (b[21] | (b[22] & 0x3f) << 8);
        *ret_h = 1 + (b[22] >> 6 | b[23] << 2 | (b[24] & 0x0f) << 10);
        return true;
    }
    *ret_w = 1 + (b[24] | b[25] << 8 | b[26] << 16);
    *ret_h = 1 + (b[27] | b[28] << 8 | b[29] << 16);
    return memcmp(b + 12, "VP8X", 4) == 0;
}

static bool picture_size(int fd, const char *type, const unsigned char *b, size_t n, long long *ret_w, long long *ret_h)
{
    if (strcmp(type, "image/png") == 0) {
        if (n < 24 || memcmp(b + 12, "IHDR", 4) != 0)
            return false;
        *ret_w = be32(b + 16);
        *ret_h = be32(b + 20);
        return true;
    }
    if (strcmp(type, "image/gif") == 0) {
        if (n < 10)
            return false;
        *ret_w = le16(b + 6);
        *ret_h = le16(b + 8);
        return true;
    }
    return strcmp(type, "image/webp") == 0 ? webp_size(b, n, ret_w, ret_h) : jpeg_size(fd, ret_w, ret_h);
}

int magic_image_file(const char *field, int fd, int *ret_w, int *ret_h, struct err *err)
{
    unsigned char b[MAGIC_HEAD];
    size_t n = read_at(fd, 0, b, sizeof b);
    long long w = 0, h = 0;
    int rc = magic_image_head(field, b, n, err);
    if (rc < 0)
        return rc;
    if (!picture_size(fd, find_picture(b, n), b, n, &w, &h))
        return err_set(err, ERR_MEDIA, "%s: the file is cut off or damaged: no picture size is in it", field);
    if (w < 1 || h < 1)
        return err_set(err, ERR_MEDIA, "%s: %lld x %lld pixels is not a picture", field, w, h);
    if (w * h > MAX_PIXELS)
        return err_set(err, ERR_MEDIA, "%s: %lld x %lld is %lld megapixels, at most %lld are allowed; scale it down",
                       field, w, h, w * h / 1000000, MAX_PIXELS / 1000000);
    if (ret_w)
        *ret_w = (int)w;
    if (ret_h)
        *ret_h = (int)h;
    return 0;
}

int magic_audio_file(const char *field, int fd, struct err *err)
{
    unsigned char b[ZEROS_BEFORE + MAGIC_HEAD];
    size_t n = read_at(fd, 0, b, sizeof b), zeros = 0;
    int rc = magic_audio_head(field, b, n, err);
    if (rc < 0 || find_sound(b, n))
        return rc;
    while (zeros < n && zeros < ZEROS_BEFORE && b[zeros] == 0)
        zeros++;
    b[0] = '?'; /* the zeros were no excuse unless a frame follows them */
    return find_sound(b + zeros, n - zeros) ? 0 : magic_audio_head(field, b, n, err);
}

static long long le32(const unsigned char *b)
{
    return le16(b) | (long long)le16(b + 2) << 16;
}

/* Bytes of sound over bytes a second ("fmt " says them); 0 when either is not there. */
static double wav_seconds(int fd, long long size)
{
    unsigned char b[24];
    long long at = 12, a_second = 0;
    for (int i = 0; i < WAV_CHUNKS && at + 8 <= size; i++) {
        size_t n = read_at(fd, (off_t)at, b, sizeof b);
        long long bytes = n >= 8 ? le32(b + 4) : 0;
        if (n >= 20 && memcmp(b, "fmt ", 4) == 0) {
            a_second = le32(b + 16);
        } else if (n >= 8 && memcmp(b, "data", 4) == 0) {
            long long left = size - at - 8;
            return a_second > 0 ? (double)(bytes > 0 && bytes < left ? bytes : left) / (double)a_second : 0;
        }
        at += 8 + bytes + (bytes & 1);
    }
    return 0;
}

double magic_audio_seconds(int fd)
{
    unsigned char b[MAGIC_HEAD];
    struct stat st = {0};
    size_t n = read_at(fd, 0, b, sizeof b);
    if (fstat(fd, &st) < 0)
        return 0;
    bool wav = n >= 12 && (memcmp(b, "RIFF", 4) == 0 || memcmp(b, "RF64", 4) == 0) && memcmp(b + 8, "WAVE", 4) == 0;
    double seconds = wav ? wav_seconds(fd, st.st_size) : 0;
    return seconds > 0 ? seconds : (double)st.st_size / GUESS_BYTES_A_SECOND;
}
