#include "worker/media/mp4.h"

#include <errno.h>
#include <fcntl.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "common/blob.h"
#include "common/mem.h"
#include "common/str.h"
#include "worker/media/resample.h"

#define X264_THREADS                                                                                         \
    4 /* fixed: its output depends on the number, and the number must not depend on the machine */

struct track {
    AVCodecContext *codec;
    AVStream *stream;
    AVFrame *frame;
};

struct mp4 {
    char path[1024];
    AVFormatContext *format;
    struct track video, sound;
    AVPacket *packet;
    int64_t n_frames;
    float *samples; /* owned: [channels][n_samples], until finish */
    int64_t n_samples;
    int channels, rate;
    double fps;
    bool header_written;
};

static int fail(struct err *err, const char *what, int av)
{
    char why[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(av, why, sizeof why);
    return err_set(err, av == AVERROR(ENOMEM) ? ERR_NOMEM : ERR_IO, "video: %s: %s", what, why);
}

/* The file cannot be written: full, read-only, ... have one wording everywhere. */
static int fail_write(struct err *err, const char *path, int av)
{
    static const int known[] = {ENOSPC, EDQUOT, EROFS, EACCES, EPERM, EIO, EFBIG};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (av == AVERROR(known[i]))
            return blob_errno(err, known[i], "write", path);
    }
    return fail(err, path, av);
}

static void track_done(struct track *t)
{
    avcodec_free_context(&t->codec);
    av_frame_free(&t->frame);
}

void mp4_abort(struct mp4 *m)
{
    if (!m)
        return;
    track_done(&m->video);
    track_done(&m->sound);
    av_packet_free(&m->packet);
    if (m->format)
        avio_closep(&m->format->pb);
    avformat_free_context(m->format);
    mem_free(m->samples);
    mem_free(m);
}

/* ---- tracks ---- */

static int track_open(struct mp4 *m, struct track *t, const char *encoder, struct err *err)
{
    const AVCodec *codec = avcodec_find_encoder_by_name(encoder);
    if (!codec)
        return err_set(err, ERR_UNSUPPORTED, "video: this libav has no %s encoder", encoder);
    t->codec = avcodec_alloc_context3(codec);
    t->stream = avformat_new_stream(m->format, NULL);
    t->frame = av_frame_alloc();
    if (!t->codec || !t->stream || !t->frame)
        return err_set(err, ERR_NOMEM, "video: no memory for an encoder");
    t->codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER | AV_CODEC_FLAG_BITEXACT;
    return 0;
}

static int track_start(struct track *t, struct err *err)
{
    int rc = avcodec_open2(t->codec, t->codec->codec, NULL);
    if (rc >= 0)
        rc = avcodec_parameters_from_context(t->stream->codecpar, t->codec);
    t->stream->time_base = t->codec->time_base;
    return rc < 0 ? fail(err, "the encoder does not start", rc) : 0;
}

/* The AVX-512 code of x264 (0.164 of Debian 12) reads memory that was never written, and its choices follow it: the same
 * frames gave other bytes from one job to the next. Its AVX2 code does not, and gives what the older ones give. */
static void same_code_everywhere(AVCodecContext *c)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        av_opt_set(c->priv_data, "x264-params", "asm=avx2", 0);
#else
    (void)c;
#endif
}

static int open_video(struct mp4 *m, const struct mp4_options *o, struct err *err)
{
    if (o->width % 2 || o->height % 2)
        return err_set(err, ERR_INVALID, "video: %d x %d: the width and height must be even", o->width, o->height);
    int rc = track_open(m, &m->video, "libx264", err);
    if (rc < 0)
        return rc;
    AVCodecContext *c = m->video.codec;
    c->width = m->video.frame->width = o->width;
    c->height = m->video.frame->height = o->height;
    c->pix_fmt = AV_PIX_FMT_YUV420P;
    m->video.frame->format = c->pix_fmt;
    c->time_base = (AVRational){1000, (int)lround(o->fps * 1000)};
    av_reduce(&c->time_base.num, &c->time_base.den, c->time_base.num, c->time_base.den, 1 << 30);
    c->framerate = av_inv_q(c->time_base);
    c->colorspace = AVCOL_SPC_BT709;
    c->color_primaries = AVCOL_PRI_BT709;
    c->color_trc = AVCOL_TRC_BT709;
    c->color_range = AVCOL_RANGE_MPEG;
    c->chroma_sample_location = AVCHROMA_LOC_CENTER; /* a player takes "left" where nothing is said */
    c->thread_count = X264_THREADS;
    av_opt_set(c->priv_data, "preset", o->preset ? o->preset : "medium", 0);
    av_opt_set(c->priv_data, "profile", "high", 0);
    av_opt_set_int(c->priv_data, "crf", o->crf, 0);
    same_code_everywhere(c);
    if ((rc = track_start(&m->video, err)) < 0)
        return rc;
    if (av_frame_get_buffer(m->video.frame, 0) < 0)
        return err_set(err, ERR_NOMEM, "video: no memory for a frame");
    return 0;
}

int mp4_open(struct mp4 **ret, const char *path, const struct mp4_options *o, struct err *err)
{
    struct mp4 *m = mem_zalloc(sizeof *m);
    av_log_set_level(AV_LOG_QUIET);
    if (!m)
        return err_set(err, ERR_NOMEM, "video: no memory");
    m->fps = o->fps;
    m->packet = av_packet_alloc();
    int rc = str_copy(m->path, sizeof m->path, path);
    if (rc == 0 && (!m->packet || avformat_alloc_output_context2(&m->format, NULL, "mp4", path) < 0))
        rc = ERR_NOMEM;
    if (rc < 0) {
        err_set(err, rc, "video: %s: %s", path, err_text(rc));
    } else {
        m->format->flags |= AVFMT_FLAG_BITEXACT;
        rc = avio_open(&m->format->pb, path, AVIO_FLAG_WRITE);
        rc = rc < 0 ? fail_write(err, path, rc) : open_video(m, o, err);
    }
    if (rc < 0) {
        mp4_abort(m);
        return rc;
    }
    *ret = m;
    return 0;
}

int64_t mp4_count(const struct mp4 *m)
{
    return m->n_frames;
}

/* ---- sound ---- */

static int aac_rate(int rate)
{
    static const int known[] = {96000, 88200, 64000, 48000, 44100, 32000,
                                24000, 22050, 16000, 12000, 11025, 8000};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i] == rate)
            return rate;
    }
    return rate > 48000 ? 48000 : rate < 8000 ? 16000 : 44100;
}

/* Channel c of s, at rate `to`, into its plane. */
static int plane_of(struct mp4 *m, const struct sound *s, int c, struct err *err)
{
    float *one = mem_alloc((size_t)s->n * sizeof *one), *out = NULL;
    int64_t n = 0;
    if (!one)
        return err_set(err, ERR_NOMEM, "video: no memory for the sound");
    for (int64_t i = 0; i < s->n; i++)
        one[i] = s->samples[i * s->channels + c];
    int rc = resample_to(one, s->n, s->rate, m->rate, &out, &n, err);
    mem_free(one);
    if (rc < 0)
        return rc;
    if (!m->samples) {
        m->samples = mem_calloc((size_t)n * (size_t)m->channels, sizeof *m->samples);
        m->n_samples = n;
    }
    if (m->samples)
        memcpy(m->samples + c * n, out, (size_t)n * sizeof *out);
    mem_free(out);
    return m->samples ? 0 : err_set(err, ERR_NOMEM, "video: no memory for the sound");
}

int mp4_sound(struct mp4 *m, const struct sound *s, struct err *err)
{
    int rc = 0;
    if (s->n == 0 || m->samples || m->header_written)
        return err_set(err, ERR_INTERNAL, "video: sound is given once, before the first frame");
    m->rate = aac_rate(s->rate);
    m->channels = s->channels;
    for (int c = 0; c < s->channels && rc == 0; c++)
        rc = plane_of(m, s, c, err);
    if (rc == 0)
        rc = track_open(m, &m->sound, "aac", err);
    if (rc < 0)
        return rc;
    AVCodecContext *c = m->sound.codec;
    c->sample_fmt = AV_SAMPLE_FMT_FLTP;
    c->sample_rate = m->rate;
    c->bit_rate = m->channels * (m->rate >= 32000 ? 96000 : 64000);
    c->time_base = (AVRational){1, m->rate};
    av_channel_layout_default(&c->ch_layout, m->channels);
    return track_start(&m->sound, err);
}

/* ---- writing ---- */

static int write_packets(struct mp4 *m, struct track *t, const AVFrame *f, struct err *err)
{
    int rc = avcodec_send_frame(t->codec, f);
    while (rc >= 0) {
        rc = avcodec_receive_packet(t->codec, m->packet);
        if (rc == AVERROR(EAGAIN) || rc == AVERROR_EOF)
            return 0;
        if (rc < 0)
            break;
        if (t == &m->video)
            m->packet->duration = 1; /* x264 leaves it open, and the last frame would have none */
        av_packet_rescale_ts(m->packet, t->codec->time_base, t->stream->time_base);
        m->packet->stream_index = t->stream->index;
        rc = av_interleaved_write_frame(m->format, m->packet);
    }
    return fail_write(err, m->path, rc);
}

static int write_header(struct mp4 *m, struct err *err)
{
    AVDictionary *options = NULL;
    if (m->header_written)
        return 0;
    av_dict_set(&options, "movflags", "+faststart", 0);
    int rc = avformat_write_header(m->format, &options);
    av_dict_free(&options);
    m->header_written = rc >= 0;
    return rc < 0 ? fail_write(err, m->path, rc) : 0;
}

/* A packed plane into the frame's, whose rows are further apart. */
static const uint8_t *fill_plane(AVFrame *f, int plane, const uint8_t *from, int width, int height)
{
    for (int y = 0; y < height; y++, from += width)
        memcpy(f->data[plane] + (ptrdiff_t)y * f->linesize[plane], from, (size_t)width);
    return from;
}

int mp4_frames(struct mp4 *m, const uint8_t *yuv, int64_t n, struct err *err)
{
    int rc = write_header(m, err);
    for (int64_t i = 0; i < n && rc == 0; i++) {
        AVFrame *f = m->video.frame;
        if (av_frame_make_writable(f) < 0)
            return err_set(err, ERR_NOMEM, "video: no memory for a frame");
        yuv = fill_plane(f, 0, yuv, f->width, f->height);
        yuv = fill_plane(f, 1, yuv, f->width / 2, f->height / 2);
        yuv = fill_plane(f, 2, yuv, f->width / 2, f->height / 2);
        f->pts = m->n_frames++;
        rc = write_packets(m, &m->video, f, err);
    }
    return rc;
}

/* Samples that belong to the frames written: to the end of the last one, plus less than a frame. */
static int64_t samples_wanted(const struct mp4 *m)
{
    double end = (double)m->n_frames / m->fps * m->rate, frame = m->rate / m->fps;
    return m->n_samples < end + frame ? m->n_samples : (int64_t)llround(end);
}

static int write_sound(struct mp4 *m, struct err *err)
{
    struct track *t = &m->sound;
    int64_t n = m->samples ? samples_wanted(m) : 0, at = 0;
    int rc = 0;
    while (rc == 0 && at < n) {
        AVFrame *f = t->frame;
        int64_t step = n - at < t->codec->frame_size ? n - at : t->codec->frame_size;
        f->nb_samples = (int)step;
        f->format = t->codec->sample_fmt;
        f->sample_rate = m->rate;
        if (av_channel_layout_copy(&f->ch_layout, &t->codec->ch_layout) < 0 || av_frame_get_buffer(f, 0) < 0)
            return err_set(err, ERR_NOMEM, "video: no memory for the sound");
        for (int c = 0; c < m->channels; c++)
            memcpy(f->extended_data[c], m->samples + c * m->n_samples + at, (size_t)step * sizeof(float));
        f->pts = at;
        at += step;
        rc = write_packets(m, t, f, err);
        av_frame_unref(f);
    }
    return rc < 0 || !m->samples ? rc : write_packets(m, t, NULL, err);
}

static int sync_file(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);
    int why = errno;
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        return 0;
    return blob_errno(err, why, "write", path);
}

int mp4_finish(struct mp4 *m, struct err *err)
{
    int rc = m->n_frames ? 0 : err_set(err, ERR_INTERNAL, "video: no frames");
    char path[sizeof m->path];
    memcpy(path, m->path, sizeof path);
    if (rc == 0)
        rc = write_packets(m, &m->video, NULL, err);
    if (rc == 0)
        rc = write_sound(m, err);
    if (rc == 0) {
        int av = av_write_trailer(m->format);
        if (av >= 0)
            av = avio_closep(&m->format->pb);
        rc = av < 0 ? fail_write(err, path, av) : 0;
    }
    mp4_abort(m);
    return rc < 0 ? rc : sync_file(path, err);
}
