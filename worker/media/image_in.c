#include "worker/media/image_in.h"

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/media/claim.h"
#include "worker/media/image_rgb.h"

struct decoding {
    AVCodecContext *codec;
    AVPacket *packet; /* the whole file */
    AVFrame *frame;
};

static void decoding_done(struct decoding *d)
{
    av_frame_free(&d->frame);
    av_packet_free(&d->packet);
    avcodec_free_context(&d->codec);
}

static int fail(struct err *err, const char *what, int av)
{
    char why[AV_ERROR_MAX_STRING_SIZE] = "";
    if (av == AVERROR(ENOMEM))
        return err_set(err, ERR_NOMEM, "image: no memory to decode it");
    av_strerror(av, why, sizeof why);
    return err_set(err, ERR_MEDIA,
                   "image: %s (%s): the file is damaged or of a kind that is not supported; send a PNG or "
                   "JPEG",
                   what, why);
}

static int read_all(int fd, uint8_t *dst, int64_t n, struct err *err)
{
    for (int64_t at = 0; at < n;) {
        ssize_t got = pread(fd, dst + at, (size_t)(n - at), at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(err, ERR_IO, "image: %s", strerror(errno));
        if (got == 0)
            return err_set(err, ERR_IO, "image: the file became shorter while it was read");
        at += got;
    }
    return 0;
}

static int read_file(struct decoding *d, int fd, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_set(err, ERR_IO, "image: %s", strerror(errno));
    if (st.st_size == 0)
        return err_set(err, ERR_MEDIA,
                       "image: the file is empty (0 bytes): send a PNG, JPEG, WebP, GIF, BMP or TIFF");
    if (st.st_size > IMAGE_IN_MAX_BYTES)
        return err_set(err, ERR_TOOBIG, "image: %lld bytes, the limit is %d: send a smaller picture",
                       (long long)st.st_size, IMAGE_IN_MAX_BYTES);
    d->packet = av_packet_alloc();
    if (!d->packet || av_new_packet(d->packet, (int)st.st_size) < 0)
        return err_set(err, ERR_NOMEM, "image: no memory for the file");
    return read_all(fd, d->packet->data, st.st_size, err);
}

/* What the header says, checked before a decoder sees the file: libav is never left to guess. */
static int check_claim(const AVPacket *p, enum AVCodecID *ret_codec, struct err *err)
{
    static const enum AVCodecID codec[CLAIM_KINDS] = {
        [CLAIM_PNG] = AV_CODEC_ID_PNG, [CLAIM_JPEG] = AV_CODEC_ID_MJPEG, [CLAIM_WEBP] = AV_CODEC_ID_WEBP,
        [CLAIM_GIF] = AV_CODEC_ID_GIF, [CLAIM_BMP] = AV_CODEC_ID_BMP,    [CLAIM_TIFF] = AV_CODEC_ID_TIFF,
    };
    const uint8_t *b = p->data;
    enum claim_kind kind = claim_kind_of(b, (size_t)p->size);
    uint64_t w, h;
    if (kind == CLAIM_KINDS)
        return err_set(err, ERR_MEDIA,
                       "image: not a picture (first bytes %02x %02x %02x %02x): send a PNG, JPEG, WebP, "
                       "GIF, BMP or TIFF",
                       b[0], p->size > 1 ? b[1] : 0, p->size > 2 ? b[2] : 0, p->size > 3 ? b[3] : 0);
    claim_size(b, (size_t)p->size, &w, &h);
    if (h && w > IMAGE_IN_MAX_PIXELS / h)
        return err_set(err, ERR_TOOBIG,
                       "image: %llux%llu pixels, the limit is %d megapixels: send a smaller picture",
                       (unsigned long long)w, (unsigned long long)h, IMAGE_IN_MAX_PIXELS / 1000000);
    if (claim_is_cut(b, (size_t)p->size))
        return fail(err, "it ends before the picture does", AVERROR_INVALIDDATA);
    *ret_codec = codec[kind];
    return 0;
}

static int open_codec(struct decoding *d, enum AVCodecID id, struct err *err)
{
    const AVCodec *codec = avcodec_find_decoder(id);
    if (!codec)
        return err_set(err, ERR_UNSUPPORTED, "image: this libav has no decoder for %s: send a PNG or JPEG",
                       avcodec_get_name(id));
    d->codec = avcodec_alloc_context3(codec);
    d->frame = av_frame_alloc();
    if (!d->codec || !d->frame)
        return err_set(err, ERR_NOMEM, "image: no memory for a decoder");
    d->codec->max_pixels = IMAGE_IN_MAX_PIXELS;
    d->codec->thread_count = 1;
    if (id != AV_CODEC_ID_TIFF) /* there it refuses common tags, and cut files fail without it */
        d->codec->err_recognition = AV_EF_EXPLODE;
    d->codec->idct_algo = FF_IDCT_INT; /* libjpeg's own, so that JPEGs come out as in Pillow */
    int rc = avcodec_open2(d->codec, codec, NULL);
    return rc < 0 ? fail(err, "the decoder refuses it", rc) : 0;
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

/* libav does not know animated WebP: the first frame's picture chunk is moved to the front, so that the
 * packet is the still WebP of that frame ("RIFF" size "WEBP" chunk). Anything else stays as it is. */
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
    if (n & 1)
        p->data[12 + n++] = 0; /* chunks have even sizes; the frame's own header left room */
    for (int i = 0; i < 4; i++)
        p->data[4 + i] = (uint8_t)((n + 4) >> (8 * i));
    av_shrink_packet(p, (int)n + 12);
}

static int decode_first(struct decoding *d, int fd, struct err *err)
{
    enum AVCodecID id = AV_CODEC_ID_NONE;
    int rc = read_file(d, fd, err);
    if (rc == 0)
        rc = check_claim(d->packet, &id, err);
    if (rc == 0)
        rc = open_codec(d, id, err);
    if (rc < 0)
        return rc;
    first_webp_frame(d->packet);
    rc = avcodec_send_packet(d->codec, d->packet);
    if (rc >= 0)
        rc = avcodec_send_packet(d->codec, NULL);
    if (rc >= 0)
        rc = avcodec_receive_frame(d->codec, d->frame);
    return rc < 0 ? fail(err, "it cannot be decoded", rc) : 0;
}

/* ---- EXIF: 1 as it is, 2..8 mirrored and turned ---- */

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
    const int from[9][2] = {{x, y}, {x, y},     {w - x, y},     {w - x, h - y}, {x, h - y},
                            {y, x}, {y, h - x}, {w - y, h - x}, {w - y, x}};
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
        return err_set(err, ERR_INVALID, "image: %dx%d pixels is too small: at least %dx%d are needed",
                       f->width, f->height, IMAGE_IN_MIN_SIDE, IMAGE_IN_MIN_SIDE);
    im.pixels = mem_alloc((size_t)f->width * (size_t)f->height * 3);
    int rc = im.pixels ? image_rgb_from(f, &im) : ERR_NOMEM;
    if (rc == 0 && turn)
        rc = turned(orientation_of(f), &im);
    if (rc < 0) {
        image_done(&im);
        return err_set(err, rc == ERR_UNSUPPORTED ? ERR_MEDIA : rc,
                       rc == ERR_UNSUPPORTED
                           ? "image: its pixel format is not supported: save it as an 8-bit PNG or JPEG"
                           : "image: no memory for its pixels");
    }
    *ret = im;
    return 0;
}

int image_in_fd(int fd, bool turn, struct image *ret, struct err *err)
{
    struct decoding d = {0};
    av_log_set_level(AV_LOG_QUIET);
    int rc = decode_first(&d, fd, err);
    if (rc == 0)
        rc = to_rgb(d.frame, turn, ret, err);
    decoding_done(&d);
    return rc;
}

int image_in_open(const char *path, bool turn, struct image *ret, struct err *err)
{
    int fd;
    int rc = media_open("image", path, &fd, err);
    if (rc < 0)
        return rc;
    rc = image_in_fd(fd, turn, ret, err);
    close(fd);
    return rc;
}
