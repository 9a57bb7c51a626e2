#include "worker/media/image_in.h"

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/media/image_rgb.h"

/* By the first bytes: libav is never left to guess. */
static const char *demuxer_of(const unsigned char *p, size_t n)
{
    static const struct {
        size_t at, len;
        const char *magic, *demuxer;
    } row[] = {
        {0, 8, "\x89PNG\r\n\x1a\n", "png_pipe"}, {0, 3, "\xff\xd8\xff", "jpeg_pipe"}, {8, 4, "WEBP", "webp_pipe"},
        {0, 4, "GIF8", "gif"},                   {0, 2, "BM", "bmp_pipe"},            {0, 4, "II*\0", "tiff_pipe"},
        {0, 4, "MM\0*", "tiff_pipe"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (n >= row[i].at + row[i].len && memcmp(p + row[i].at, row[i].magic, row[i].len) == 0)
            return row[i].demuxer;
    }
    return NULL;
}

static int sniff(const char *path, const char **ret_demuxer, struct err *err)
{
    unsigned char head[16] = {0};
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "image: %s: %s", path, strerror(errno));
    size_t n = fread(head, 1, sizeof head, f);
    int rc = fseek(f, 0, SEEK_END);
    long size = ftell(f);
    fclose(f);
    if (rc != 0 || size < 0)
        return err_set(err, ERR_IO, "image: %s cannot be read", path);
    if (n == 0)
        return err_set(err, ERR_MEDIA, "image: the file is empty (0 bytes): send a PNG, JPEG, WebP, GIF, BMP or TIFF");
    if (size > IMAGE_IN_MAX_BYTES)
        return err_set(err, ERR_TOOBIG, "image: %ld bytes, the limit is %d: send a smaller picture", size,
                       IMAGE_IN_MAX_BYTES);
    *ret_demuxer = demuxer_of(head, n);
    if (!*ret_demuxer)
        return err_set(err, ERR_MEDIA, "image: not a picture (first bytes %02x %02x %02x %02x): send a PNG, JPEG, WebP, "
                       "GIF, BMP or TIFF", head[0], head[1], head[2], head[3]);
    return 0;
}

struct decoding {
    AVFormatContext *format;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
};

static void decoding_done(struct decoding *d)
{
    av_frame_free(&d->frame);
    av_packet_free(&d->packet);
    avcodec_free_context(&d->codec);
    avformat_close_input(&d->format);
}

static int fail(struct err *err, const char *what, int av)
{
    char why[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(av, why, sizeof why);
    return err_set(err, ERR_MEDIA, "image: %s (%s): the file is damaged or of a kind that is not supported; send a PNG or "
                   "JPEG", what, why);
}

static int open_codec(struct decoding *d, struct err *err)
{
    const AVCodecParameters *p = d->format->nb_streams ? d->format->streams[0]->codecpar : NULL;
    const AVCodec *codec = p ? avcodec_find_decoder(p->codec_id) : NULL;
    if (!codec)
        return fail(err, "no picture in the file", AVERROR_INVALIDDATA);
    d->codec = avcodec_alloc_context3(codec);
    d->packet = av_packet_alloc();
    d->frame = av_frame_alloc();
    if (!d->codec || !d->packet || !d->frame)
        return err_set(err, ERR_NOMEM, "image: no memory for a decoder");
    d->codec->max_pixels = IMAGE_IN_MAX_PIXELS;
    d->codec->thread_count = 1;
    d->codec->err_recognition = AV_EF_EXPLODE;
    d->codec->idct_algo = FF_IDCT_INT; /* libjpeg's own, so that JPEGs come out as in Pillow */
    int rc = avcodec_parameters_to_context(d->codec, p);
    if (rc >= 0)
        rc = avcodec_open2(d->codec, codec, NULL);
    return rc < 0 ? fail(err, "the decoder refuses it", rc) : 0;
}

/* Width and height that a PNG or GIF header claims, checked before the decoder sees the file. */
static int check_claim(const AVPacket *p, struct err *err)
{
    const uint8_t *b = p->data;
    uint64_t w = 0, h = 0;
    if (p->size >= 24 && memcmp(b, "\x89PNG", 4) == 0) {
        w = (uint64_t)b[16] << 24 | b[17] << 16 | b[18] << 8 | b[19];
        h = (uint64_t)b[20] << 24 | b[21] << 16 | b[22] << 8 | b[23];
    }
    if (w * h > IMAGE_IN_MAX_PIXELS)
        return err_set(err, ERR_TOOBIG, "image: %llux%llu pixels, the limit is %d megapixels: send a smaller picture",
                       (unsigned long long)w, (unsigned long long)h, IMAGE_IN_MAX_PIXELS / 1000000);
    return 0;
}

static uint32_t le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Payload of the first chunk called name in [at, end), NULL if there is none. */
static uint8_t *riff_chunk(uint8_t *at, uint8_t *end, const char *name, uint8_t **ret_end)
{
    while (end - at >= 8) {
        uint32_t n = le32(at + 4);
        if (n > end - at - 8)
            return NULL;
        if (memcmp(at, name, 4) == 0) {
            *ret_end = at + 8 + n;
            return at + 8;
        }
        at += 8 + n + (n & 1);
        if (at > end)
            return NULL;
    }
    return NULL;
}

/* libav does not know animated WebP: the first frame's picture chunk is moved to the front, so that the packet is the
 * still WebP of that frame ("RIFF" size "WEBP" chunk). Anything else stays as it is. */
static void first_webp_frame(AVPacket *p)
{
    uint8_t *end = p->data + p->size, *frame, *frame_end, *bits = NULL, *bits_end = NULL;
    if (p->size < 20 || memcmp(p->data + 8, "WEBP", 4) != 0)
        return;
    frame = riff_chunk(p->data + 12, end, "ANMF", &frame_end);
    if (!frame || frame_end - frame < 24)
        return;
    bits = riff_chunk(frame + 16, frame_end, "VP8 ", &bits_end);
    if (!bits)
        bits = riff_chunk(frame + 16, frame_end, "VP8L", &bits_end);
    if (!bits)
        return;
    uint32_t n = (uint32_t)(bits_end - bits) + 8;
    memmove(p->data + 12, bits - 8, n);
    for (int i = 0; i < 4; i++)
        p->data[4 + i] = (uint8_t)((n + 4) >> (8 * i));
    av_shrink_packet(p, (int)n + 12);
}

static int decode_first(struct decoding *d, struct err *err)
{
    int rc = av_read_frame(d->format, d->packet), code;
    if (rc < 0)
        return fail(err, "the file ends before the picture", rc);
    if ((code = check_claim(d->packet, err)) < 0)
        return code;
    if (av_packet_make_writable(d->packet) < 0)
        return err_set(err, ERR_NOMEM, "image: no memory for the file");
    first_webp_frame(d->packet);
    rc = avcodec_send_packet(d->codec, d->packet);
    if (rc >= 0)
        rc = avcodec_send_packet(d->codec, NULL);
    if (rc >= 0)
        rc = avcodec_receive_frame(d->codec, d->frame);
    if (rc < 0 && (int64_t)d->codec->width * d->codec->height > IMAGE_IN_MAX_PIXELS)
        return err_set(err, ERR_TOOBIG, "image: %dx%d pixels, the limit is %d megapixels: send a smaller picture",
                       d->codec->width, d->codec->height, IMAGE_IN_MAX_PIXELS / 1000000);
    return rc < 0 ? fail(err, "it cannot be decoded", rc) : 0;
}

static int open_and_decode(struct decoding *d, const char *path, const char *demuxer, struct err *err)
{
    AVDictionary *options = NULL;
    av_dict_set(&options, "protocol_whitelist", "file", 0);
    /* The whole file as one packet: the picture demuxers otherwise cut it into small pieces. */
    av_dict_set_int(&options, "frame_size", IMAGE_IN_MAX_BYTES, 0);
    int rc = avformat_open_input(&d->format, path, av_find_input_format(demuxer), &options);
    av_dict_free(&options);
    if (rc < 0)
        return fail(err, "it cannot be opened", rc);
    rc = open_codec(d, err);
    return rc < 0 ? rc : decode_first(d, err);
}

/* ---- EXIF: 1 as it is, 2..8 mirrored and turned ---------------------------------------------------------------- */

static int orientation_of(const AVFrame *f)
{
    const AVDictionaryEntry *e = av_dict_get(f->metadata, "Orientation", NULL, 0);
    int64_t v = 1;
    const char *s = e ? e->value : "1";
    while (*s == ' ' || *s == '\n')
        s++;
    return str_parse_i64(s, 1, 8, &v) == 0 ? (int)v : 1;
}

/* Where pixel (x, y) of the turned picture comes from. */
static int64_t source_of(int o, const struct image *src, int x, int y)
{
    int w = src->width - 1, h = src->height - 1;
    const int from[9][2] = {{x, y},         {x, y}, {w - x, y},     {w - x, h - y}, {x, h - y},
                            {y, x},         {y, h - x}, {w - y, h - x}, {w - y, x}};
    return ((int64_t)from[o][1] * src->width + from[o][0]) * 3;
}

static int turned(int o, struct image *im)
{
    struct image t = {.width = o > 4 ? im->height : im->width, .height = o > 4 ? im->width : im->height};
    if (o == 1)
        return 0;
    t.pixels = mem_alloc((size_t)t.width * (size_t)t.height * 3);
    if (!t.pixels)
        return ERR_NOMEM;
    for (int y = 0; y < t.height; y++) {
        for (int x = 0; x < t.width; x++)
            memcpy(t.pixels + ((int64_t)y * t.width + x) * 3, im->pixels + source_of(o, im, x, y), 3);
    }
    image_done(im);
    *im = t;
    return 0;
}

static int to_rgb(const AVFrame *f, bool turn, struct image *ret, struct err *err)
{
    struct image im = {.width = f->width, .height = f->height};
    if (f->width < IMAGE_IN_MIN_SIDE || f->height < IMAGE_IN_MIN_SIDE)
        return err_set(err, ERR_INVALID, "image: %dx%d pixels is too small: at least %dx%d are needed", f->width, f->height,
                       IMAGE_IN_MIN_SIDE, IMAGE_IN_MIN_SIDE);
    im.pixels = mem_alloc((size_t)f->width * (size_t)f->height * 3);
    int rc = im.pixels ? image_rgb_from(f, &im) : ERR_NOMEM;
    if (rc == 0 && turn)
        rc = turned(orientation_of(f), &im);
    if (rc < 0) {
        image_done(&im);
        return err_set(err, rc == ERR_UNSUPPORTED ? ERR_MEDIA : rc, rc == ERR_UNSUPPORTED
                       ? "image: its pixel format is not supported: save it as an 8-bit PNG or JPEG"
                       : "image: no memory for its pixels");
    }
    *ret = im;
    return 0;
}

int image_in_open(const char *path, bool turn, struct image *ret, struct err *err)
{
    struct decoding d = {0};
    const char *demuxer = NULL;
    av_log_set_level(AV_LOG_QUIET);
    int rc = sniff(path, &demuxer, err);
    if (rc == 0)
        rc = open_and_decode(&d, path, demuxer, err);
    if (rc == 0)
        rc = to_rgb(d.frame, turn, ret, err);
    decoding_done(&d);
    return rc;
}
