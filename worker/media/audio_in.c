#include "worker/media/audio_in.h"

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "worker/media/resample.h"

void sound_done(struct sound *s)
{
    mem_free(s->samples);
    *s = (struct sound){0};
}

#define IO_BYTES (64 << 10)

/* Demuxers that sound comes in; none of those that read further files or take commands from the file. */
static const char containers[] =
    "wav,w64,mp3,flac,ogg,mov,matroska,webm,aac,aiff,au,caf,amr,asf,avi,mpegts,mpeg,flv,"
    "ac3,eac3,wv,ape,tta,dts,mpc,mpc8";

struct decoding {
    int fd;
    AVIOContext *io;
    AVFormatContext *format;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    int stream;
    const struct audio_limit *limit;
    struct sound *out;
    int64_t cap; /* samples per channel that fit out */
};

static void decoding_done(struct decoding *d)
{
    av_frame_free(&d->frame);
    av_packet_free(&d->packet);
    avcodec_free_context(&d->codec);
    avformat_close_input(&d->format);
    if (d->io)
        av_freep(&d->io->buffer);
    avio_context_free(&d->io);
}

static int fail(struct err *err, int code, const char *what, int av)
{
    char why[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(av, why, sizeof why);
    return err_set(err, code, "audio: %s (%s): send WAV, MP3, FLAC, OGG, Opus, M4A or a video with sound",
                   what, why);
}

static int too_long(struct err *err, double seconds, const struct audio_limit *l)
{
    return err_set(err, ERR_INVALID, "audio: %.1f s is longer than the limit of %.1f s: cut it into parts",
                   seconds, l->max_s);
}

static int open_codec(struct decoding *d, struct err *err)
{
    const AVCodec *codec = NULL;
    int rc = av_find_best_stream(d->format, AVMEDIA_TYPE_AUDIO, -1, -1, &codec, 0);
    if (rc == AVERROR_STREAM_NOT_FOUND)
        return err_set(err, ERR_MEDIA,
                       "audio: the file has no audio stream: send a sound file or a video with sound");
    if (rc < 0)
        return fail(err, ERR_MEDIA, "no decoder for this sound", rc);
    d->stream = rc;
    d->codec = avcodec_alloc_context3(codec);
    d->packet = av_packet_alloc();
    d->frame = av_frame_alloc();
    if (!d->codec || !d->packet || !d->frame)
        return err_set(err, ERR_NOMEM, "audio: no memory for a decoder");
    rc = avcodec_parameters_to_context(d->codec, d->format->streams[d->stream]->codecpar);
    d->codec->pkt_timebase = d->format->streams[d->stream]->time_base;
    d->codec->thread_count = 1;
    if (rc >= 0)
        rc = avcodec_open2(d->codec, codec, NULL);
    return rc < 0 ? fail(err, ERR_MEDIA, "the decoder refuses this sound", rc) : 0;
}

static int io_read(void *opaque, uint8_t *dst, int n)
{
    const struct decoding *d = opaque;
    ssize_t got;
    do
        got = read(d->fd, dst, (size_t)n);
    while (got < 0 && errno == EINTR);
    return got < 0 ? AVERROR(errno) : got == 0 ? AVERROR_EOF : (int)got;
}

static int64_t io_seek(void *opaque, int64_t at, int whence)
{
    const struct decoding *d = opaque;
    struct stat st;
    if (whence & AVSEEK_SIZE)
        return fstat(d->fd, &st) < 0 ? AVERROR(errno) : st.st_size;
    off_t got = lseek(d->fd, at, whence & ~AVSEEK_FORCE);
    return got < 0 ? AVERROR(errno) : got;
}

/* Playlists and containers that name other files get none. */
static int io_refuse(AVFormatContext *s, AVIOContext **pb, const char *url, int flags, AVDictionary **options)
{
    (void)s, (void)pb, (void)url, (void)flags, (void)options;
    return AVERROR(EACCES);
}

static int open_format(struct decoding *d, struct err *err)
{
    uint8_t *buffer = av_malloc(IO_BYTES);
    d->io = buffer ? avio_alloc_context(buffer, IO_BYTES, 0, d, io_read, NULL, io_seek) : NULL;
    d->format = avformat_alloc_context();
    if (!d->io)
        av_free(buffer);
    if (!d->io || !d->format)
        return err_set(err, ERR_NOMEM, "audio: no memory for a decoder");
    AVDictionary *options = NULL;
    av_dict_set(&options, "format_whitelist", containers, 0);
    av_dict_set(&options, "protocol_whitelist", "none", 0);
    d->format->pb = d->io;
    d->format->io_open = io_refuse;
    int rc = avformat_open_input(&d->format, NULL, NULL, &options); /* frees d->format when it fails */
    av_dict_free(&options);
    return rc < 0 ? fail(err, ERR_MEDIA, "not a sound file that can be read", rc) : 0;
}

static int open_file(struct decoding *d, struct err *err)
{
    int rc = open_format(d, err);
    if (rc < 0)
        return rc;
    if ((rc = avformat_find_stream_info(d->format, NULL)) < 0)
        return fail(err, ERR_MEDIA, "no streams can be found in the file", rc);
    if ((rc = open_codec(d, err)) < 0)
        return rc;
    if (d->format->duration > 0 && (double)d->format->duration / AV_TIME_BASE > d->limit->max_s)
        return too_long(err, (double)d->format->duration / AV_TIME_BASE, d->limit);
    return 0;
}

/* Sample i of channel c as f32, whatever the decoder's format. */
static float sample_of(const AVFrame *f, int64_t i, int c, int channels)
{
    int planar = av_sample_fmt_is_planar(f->format);
    const uint8_t *p = f->extended_data[planar ? c : 0];
    int64_t k = planar ? i : i * channels + c;
    switch (av_get_packed_sample_fmt(f->format)) {
    case AV_SAMPLE_FMT_U8:
        return (float)(p[k] - 128) / 128.0f;
    case AV_SAMPLE_FMT_S16:
        return (float)((const int16_t *)(const void *)p)[k] / 32768.0f;
    case AV_SAMPLE_FMT_S32:
        return (float)((const int32_t *)(const void *)p)[k] / 2147483648.0f;
    case AV_SAMPLE_FMT_FLT:
        return ((const float *)(const void *)p)[k];
    case AV_SAMPLE_FMT_DBL:
        return (float)((const double *)(const void *)p)[k];
    case AV_SAMPLE_FMT_S64:
        return (float)((double)((const int64_t *)(const void *)p)[k] / 9223372036854775808.0);
    default:
        return NAN;
    }
}

static int grow(struct decoding *d, int64_t more)
{
    struct sound *s = d->out;
    if (s->n + more <= d->cap)
        return 0;
    int64_t cap = d->cap ? d->cap * 2 : 65536;
    while (cap < s->n + more)
        cap *= 2;
    float *p = mem_realloc(s->samples, (size_t)cap * (size_t)s->channels * sizeof *p);
    if (!p)
        return ERR_NOMEM;
    s->samples = p;
    d->cap = cap;
    return 0;
}

static int append(struct decoding *d, struct err *err)
{
    struct sound *s = d->out;
    int channels = d->frame->ch_layout.nb_channels;
    if (s->rate == 0) {
        s->rate = d->frame->sample_rate;
        s->channels = channels > 2 ? 1 : channels;
    }
    if (d->frame->sample_rate != s->rate || channels < 1 || (channels > 2 ? 1 : channels) != s->channels)
        return err_set(err, ERR_MEDIA,
                       "audio: the rate or the channels change inside the file: convert it to WAV");
    if (grow(d, d->frame->nb_samples) < 0)
        return err_set(err, ERR_NOMEM, "audio: no memory for the samples");
    for (int64_t i = 0; i < d->frame->nb_samples; i++) {
        float sum = 0;
        for (int c = 0; c < channels; c++) {
            float v = sample_of(d->frame, i, c, channels);
            if (!isfinite(v))
                return err_set(err, ERR_MEDIA,
                               "audio: sample %lld is not a finite number: export the sound again",
                               (long long)s->n);
            sum += v;
            if (channels <= 2)
                s->samples[s->n * channels + c] = v;
        }
        if (channels > 2)
            s->samples[s->n] = sum / (float)channels;
        s->n++;
    }
    if ((double)s->n > d->limit->max_s * s->rate)
        return err_set(err, ERR_INVALID, "audio: it is longer than the limit of %.1f s: cut it into parts",
                       d->limit->max_s); /* the file does not say how long it is */
    return 0;
}

/* All frames the decoder has now. A packet it cannot decode is skipped, as players do. */
static int drain(struct decoding *d, struct err *err)
{
    for (;;) {
        int rc = avcodec_receive_frame(d->codec, d->frame);
        if (rc == AVERROR(EAGAIN) || rc == AVERROR_EOF || rc < 0)
            return 0;
        rc = append(d, err);
        av_frame_unref(d->frame);
        if (rc < 0)
            return rc;
    }
}

static int decode_all(struct decoding *d, struct err *err)
{
    int rc = 0, av;
    while (rc == 0 && (av = av_read_frame(d->format, d->packet)) >= 0) {
        if (d->packet->stream_index == d->stream && avcodec_send_packet(d->codec, d->packet) >= 0)
            rc = drain(d, err);
        av_packet_unref(d->packet);
    }
    if (rc == 0 && avcodec_send_packet(d->codec, NULL) >= 0)
        rc = drain(d, err);
    return rc;
}

int audio_in_fd(int fd, const struct audio_limit *limit, struct sound *ret, struct err *err)
{
    struct sound s = {0};
    struct decoding d = {.fd = fd, .limit = limit, .out = &s};
    av_log_set_level(AV_LOG_QUIET);
    int rc =
        lseek(fd, 0, SEEK_SET) < 0 ? err_set(err, ERR_IO, "audio: %s", strerror(errno)) : open_file(&d, err);
    if (rc == 0)
        rc = decode_all(&d, err);
    decoding_done(&d);
    if (rc == 0 && s.n == 0)
        rc = err_set(err, ERR_MEDIA, "audio: the file holds no samples (0 s): at least %.2f s are needed",
                     limit->min_s);
    if (rc == 0 && (double)s.n < limit->min_s * s.rate)
        rc = err_set(err, ERR_INVALID, "audio: %.2f s is too short: at least %.2f s are needed",
                     (double)s.n / s.rate, limit->min_s);
    if (rc < 0)
        sound_done(&s);
    else
        *ret = s;
    return rc;
}

int audio_in_open(const char *path, const struct audio_limit *limit, struct sound *ret, struct err *err)
{
    int fd;
    int rc = media_open("audio", path, &fd, err);
    if (rc < 0)
        return rc;
    rc = audio_in_fd(fd, limit, ret, err);
    close(fd);
    return rc;
}

int audio_in_wave(const struct sound *s, struct wave *ret, struct err *err)
{
    float *mono = mem_alloc((size_t)s->n * sizeof *mono);
    struct wave w = {.rate = RESAMPLE_RATE};
    if (!mono)
        return err_set(err, ERR_NOMEM, "audio: no memory for %lld samples", (long long)s->n);
    for (int64_t i = 0; i < s->n; i++)
        mono[i] = s->channels == 2 ? (s->samples[2 * i] + s->samples[2 * i + 1]) / 2 : s->samples[i];
    int rc = resample_16k(mono, s->n, s->rate, &w.samples, &w.n, err);
    mem_free(mono);
    if (rc == 0)
        *ret = w;
    return rc;
}

int audio_in_read(const char *path, struct wave *ret, struct err *err)
{
    static const struct audio_limit any = {0, 1e9};
    struct sound s = {0};
    int rc = audio_in_open(path, &any, &s, err);
    if (rc == 0)
        rc = audio_in_wave(&s, ret, err);
    sound_done(&s);
    return rc;
}
