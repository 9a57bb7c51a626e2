/* test_mp4.c -- what is written is read back with libav: tags, times, order of the boxes, same bytes every
 * time. */
#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "common/mem.h"
#include "common/str.h"
#include "tests/unit/media_make.h"
#include "worker/media/audio_in.h"
#include "worker/media/mp4.h"

#define WIDTH 128
#define HEIGHT 64

/* A square that moves on a slope of colours. */
static uint8_t *painted(int64_t n)
{
    uint8_t *rgb = mem_alloc((size_t)n * WIDTH * HEIGHT * 3);
    assert_non_null(rgb);
    for (int64_t f = 0; f < n; f++) {
        for (int i = 0; i < WIDTH * HEIGHT; i++) {
            int x = i % WIDTH, y = i / WIDTH;
            bool inside = x > 10 + f && x < 30 + f && y > 20 && y < 44;
            uint8_t *p = rgb + (f * WIDTH * HEIGHT + i) * 3;
            p[0] = (uint8_t)(inside ? 230 : x * 2);
            p[1] = (uint8_t)(inside ? 40 : y * 4);
            p[2] = (uint8_t)(inside ? 40 : 128);
        }
    }
    return rgb;
}

/* I420 by the formula of BT.709, chroma of 2 x 2 averaged. Owned. */
static uint8_t *yuv_of(const uint8_t *rgb, int64_t n, int width, int height)
{
    int64_t area = (int64_t)width * height;
    uint8_t *yuv = mem_alloc((size_t)(n * area * 3 / 2));
    assert_non_null(yuv);
    for (int64_t i = 0; i < n * area / 4; i++) {
        int64_t f = i / (area / 4), x = i % (width / 2) * 2, y = i % (area / 4) / (width / 2) * 2;
        double sum[3] = {0}, luma = 0;
        for (int k = 0; k < 4; k++) {
            int64_t at = (y + k / 2) * width + x + k % 2;
            const uint8_t *p = rgb + (f * area + at) * 3;
            double l = (0.2126 * p[0] + 0.7152 * p[1] + 0.0722 * p[2]) / 255;
            yuv[f * area * 3 / 2 + at] = (uint8_t)lround(16 + 219 * l);
            luma += l / 4;
            for (int c = 0; c < 3; c++)
                sum[c] += p[c] / (4 * 255.0);
        }
        uint8_t *u = yuv + f * area * 3 / 2 + area + i % (area / 4);
        u[0] = (uint8_t)lround(128 + 224 * (sum[2] - luma) / 1.8556);
        u[area / 4] = (uint8_t)lround(128 + 224 * (sum[0] - luma) / 1.5748);
    }
    return yuv;
}

static struct sound tone(double seconds, int rate, int channels)
{
    struct sound s = {.n = (int64_t)llround(seconds * rate), .channels = channels, .rate = rate};
    s.samples = mem_alloc((size_t)s.n * (size_t)channels * sizeof *s.samples);
    assert_non_null(s.samples);
    for (int64_t i = 0; i < s.n * channels; i++)
        s.samples[i] = (float)(0.3 * sin(2 * M_PI * 300 * (double)(i / channels) / rate));
    return s;
}

static int write_mp4(const char *path, double fps, int64_t n, const struct sound *s, struct err *err)
{
    const struct mp4_options o = {WIDTH, HEIGHT, fps, 17, "veryfast"};
    struct mp4 *m = NULL;
    uint8_t *rgb = painted(n), *yuv = yuv_of(rgb, n, WIDTH, HEIGHT);
    int rc = mp4_open(&m, path, &o, err);
    if (rc == 0) {
        if (s)
            rc = mp4_sound(m, s, err);
        int64_t half = n / 2;
        if (rc == 0)
            rc = mp4_frames(m, yuv, half, err);
        if (rc == 0)
            rc = mp4_frames(m, yuv + half * WIDTH * HEIGHT * 3 / 2, n - half, err);
        if (rc == 0) {
            assert_int_equal(mp4_count(m), n);
            rc = mp4_finish(m, err);
        } else {
            mp4_abort(m);
        }
    }
    mem_free(rgb);
    mem_free(yuv);
    return rc;
}

struct seen {
    int64_t frames;
    double seconds[2]; /* of the video and the sound track */
    int n_streams;
    AVCodecParameters *video, *sound; /* of format */
    AVRational rate;
    AVFormatContext *format;
    double first_error[3]; /* of the first frame: mean of Y, U, V */
};

static void decode_first(struct seen *s, const AVPacket *p)
{
    AVCodecContext *c = avcodec_alloc_context3(avcodec_find_decoder(s->video->codec_id));
    AVFrame *f = av_frame_alloc();
    assert_int_equal(avcodec_parameters_to_context(c, s->video), 0);
    assert_int_equal(avcodec_open2(c, NULL, NULL), 0);
    assert_int_equal(avcodec_send_packet(c, p), 0);
    assert_int_equal(avcodec_send_packet(c, NULL), 0);
    assert_int_equal(avcodec_receive_frame(c, f), 0);
    assert_int_equal(f->chroma_location, AVCHROMA_LOC_CENTER);
    uint8_t *rgb = painted(1), *yuv = yuv_of(rgb, 1, WIDTH, HEIGHT);
    for (int k = 0; k < 3; k++) { /* what went in, plane by plane */
        int width = k ? WIDTH / 2 : WIDTH, height = k ? HEIGHT / 2 : HEIGHT;
        const uint8_t *want = yuv + (k > 0 ? WIDTH * HEIGHT : 0) + (k > 1 ? WIDTH * HEIGHT / 4 : 0);
        for (int i = 0; i < width * height; i++) {
            double d = fabs(f->data[k][i / width * f->linesize[k] + i % width] - (double)want[i]);
            s->first_error[k] += d / (width * height);
        }
    }
    mem_free(rgb);
    mem_free(yuv);
    av_frame_free(&f);
    avcodec_free_context(&c);
}

static void look(const char *path, struct seen *s)
{
    *s = (struct seen){0};
    assert_int_equal(avformat_open_input(&s->format, path, NULL, NULL), 0);
    assert_true(avformat_find_stream_info(s->format, NULL) >= 0);
    s->n_streams = (int)s->format->nb_streams;
    for (int i = 0; i < s->n_streams; i++) {
        AVStream *t = s->format->streams[i];
        bool is_video = t->codecpar->codec_type == AVMEDIA_TYPE_VIDEO;
        *(is_video ? &s->video : &s->sound) = t->codecpar;
        s->seconds[!is_video] = (double)t->duration * av_q2d(t->time_base);
        if (is_video)
            s->rate = t->avg_frame_rate;
    }
    AVPacket *p = av_packet_alloc();
    while (av_read_frame(s->format, p) >= 0) {
        if (s->format->streams[p->stream_index]->codecpar == s->video && s->frames++ == 0)
            decode_first(s, p);
        av_packet_unref(p);
    }
    av_packet_free(&p);
}

static void assert_seconds(double got, double want, double within)
{
    if (fabs(got - want) > within)
        fail_msg("%.4f s, want %.4f within %.4f", got, want, within);
}

static void check_video(const struct seen *s, int64_t frames, AVRational rate)
{
    assert_int_equal(s->frames, frames);
    assert_int_equal(av_cmp_q(s->rate, rate), 0);
    assert_seconds(s->seconds[0], (double)frames / av_q2d(rate), 0.001);
    assert_int_equal(s->video->codec_id, AV_CODEC_ID_H264);
    assert_int_equal(s->video->profile, FF_PROFILE_H264_HIGH);
    assert_int_equal(s->video->format, AV_PIX_FMT_YUV420P);
    assert_int_equal(s->video->width, WIDTH);
    assert_int_equal(s->video->height, HEIGHT);
    assert_int_equal(s->video->color_space, AVCOL_SPC_BT709);
    assert_int_equal(s->video->color_primaries, AVCOL_PRI_BT709);
    assert_int_equal(s->video->color_trc, AVCOL_TRC_BT709);
    assert_int_equal(s->video->color_range, AVCOL_RANGE_MPEG);
    for (int k = 0; k < 3; k++)
        assert_true(s->first_error[k] < 1); /* the planes are where they belong */
}

static void test_with_sound(void **state)
{
    (void)state;
    static const struct {
        double fps;
        AVRational rate;
    } row[] = {{25, {25, 1}}, {12.5, {25, 2}}};
    for (size_t i = 0; i < 2; i++) {
        struct err err = {0};
        struct sound s = tone(33 / row[i].fps, 44100, 2);
        struct seen seen;
        assert_int_equal(write_mp4(media_path(0, "x.mp4"), row[i].fps, 33, &s, &err), 0);
        look(media_path(0, "x.mp4"), &seen);
        check_video(&seen, 33, row[i].rate);
        assert_int_equal(seen.n_streams, 2);
        assert_int_equal(seen.sound->codec_id, AV_CODEC_ID_AAC);
        assert_int_equal(seen.sound->sample_rate, 44100);
        assert_int_equal(seen.sound->ch_layout.nb_channels, 2);
        assert_seconds(seen.seconds[1], 33 / row[i].fps, 0.05);
        avformat_close_input(&seen.format);
        sound_done(&s);
    }
}

static void test_mute(void **state)
{
    (void)state;
    struct err err = {0};
    struct seen seen;
    assert_int_equal(write_mp4(media_path(0, "x.mp4"), 25, 5, NULL, &err), 0);
    look(media_path(0, "x.mp4"), &seen);
    check_video(&seen, 5, (AVRational){25, 1});
    assert_int_equal(seen.n_streams, 1);
    avformat_close_input(&seen.format);
}

/* The index stands before the data, so that a player can start at once. */
static void test_faststart(void **state)
{
    (void)state;
    struct err err = {0};
    struct buf b;
    size_t moov = 0, mdat = 0;
    assert_int_equal(write_mp4(media_path(0, "x.mp4"), 25, 10, NULL, &err), 0);
    media_read(media_path(0, "x.mp4"), &b);
    for (size_t at = 0; at + 8 <= b.len;) {
        const uint8_t *p = (const uint8_t *)b.data + at;
        size_t n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        moov = memcmp(p + 4, "moov", 4) == 0 ? at : moov;
        mdat = memcmp(p + 4, "mdat", 4) == 0 ? at : mdat;
        assert_true(n >= 8);
        at += n;
    }
    assert_true(moov > 0 && mdat > moov);
    buf_done(&b);
}

static void test_same_bytes(void **state)
{
    (void)state;
    struct err err = {0};
    struct sound s = tone(2, 16000, 1);
    struct buf b[3];
    cpu_set_t all, one;
    for (int k = 0; k < 3; k++) {
        if (k == 2) { /* on one CPU */
            assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
            CPU_ZERO(&one);
            for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++) {
                if (CPU_ISSET(i, &all))
                    CPU_SET(i, &one);
            }
            assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
        }
        assert_int_equal(write_mp4(media_path(0, "x.mp4"), 25, 40, &s, &err), 0);
        media_read(media_path(0, "x.mp4"), &b[k]);
    }
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    for (int k = 1; k < 3; k++) {
        assert_int_equal(b[0].len, b[k].len);
        assert_memory_equal(b[0].data, b[k].data, b[0].len);
    }
    for (int k = 0; k < 3; k++)
        buf_done(&b[k]);
    sound_done(&s);
}

/* Nor do they follow what was in memory before: an encoder that reads what nobody wrote is found by what we write there. */
static void test_same_bytes_in_used_memory(void **state)
{
    enum { SIDE = 64, FRAMES = 9 };
    (void)state;
    const struct mp4_options o = {.width = SIDE, .height = SIDE, .fps = 25, .crf = 17};
    uint8_t *rgb = mem_alloc(FRAMES * SIDE * SIDE * 3);
    struct err err = {0};
    struct buf b[4];
    assert_non_null(rgb);
    for (int i = 0; i < FRAMES * SIDE * SIDE * 3; i++) { /* a rough surface that moves */
        uint32_t at = (uint32_t)(i / 3 % SIDE + i / (SIDE * SIDE * 3) * 3 + i / (SIDE * 3) % SIDE * 977 + i % 3 * 31);
        rgb[i] = (uint8_t)(at * 2654435761u >> 26 << 1);
    }
    uint8_t *yuv = yuv_of(rgb, FRAMES, SIDE, SIDE);
    for (int k = 0; k < 4; k++) {
        struct mp4 *m = NULL;
        mallopt(M_PERTURB, k * 85);
        assert_int_equal(mp4_open(&m, media_path(0, "x.mp4"), &o, &err), 0);
        assert_int_equal(mp4_frames(m, yuv, FRAMES, &err), 0);
        assert_int_equal(mp4_finish(m, &err), 0);
        media_read(media_path(0, "x.mp4"), &b[k]);
    }
    mallopt(M_PERTURB, 0);
    for (int k = 1; k < 4; k++) {
        assert_int_equal(b[0].len, b[k].len);
        assert_memory_equal(b[0].data, b[k].data, b[0].len);
    }
    for (int k = 0; k < 4; k++)
        buf_done(&b[k]);
    mem_free(yuv);
    mem_free(rgb);
}

static void test_rates(void **state)
{
    (void)state;
    static const int rate[][2] = {{8000, 8000},   {11000, 44100},  {16000, 16000},
                                  {22050, 22050}, {192000, 48000}, {4000, 16000}};
    for (size_t i = 0; i < sizeof rate / sizeof *rate; i++) {
        for (int channels = 1; channels <= 2; channels++) {
            struct err err = {0};
            struct sound s = tone(0.8, rate[i][0], channels), back = {0};
            struct seen seen;
            const struct audio_limit any = {0, 100};
            assert_int_equal(write_mp4(media_path(0, "x.mp4"), 25, 20, &s, &err), 0);
            look(media_path(0, "x.mp4"), &seen);
            assert_int_equal(seen.sound->sample_rate, rate[i][1]);
            assert_int_equal(seen.sound->ch_layout.nb_channels, channels);
            avformat_close_input(&seen.format);
            assert_int_equal(audio_in_open(media_path(0, "x.mp4"), &any, &back, &err), 0);
            double power = 0;
            for (int64_t k = 0; k < back.n * channels; k++)
                power += (double)back.samples[k] * back.samples[k] / ((double)back.n * channels);
            if (fabs(power / 0.045 - 1) > 0.15) /* 0.3^2 / 2 */
                fail_msg("%d Hz, %d channels: power %.4f, 0.045 was written", rate[i][0], channels, power);
            sound_done(&s);
            sound_done(&back);
        }
    }
}

/* Longer sound ends with the picture, shorter sound stays as it is. */
static void test_lengths(void **state)
{
    (void)state;
    static const double seconds[][2] = {{5, 1}, {0.4, 0.4}, {1.02, 1.02}, {0.001, 0.001}};
    for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++) {
        struct err err = {0};
        struct sound s = tone(seconds[i][0], 16000, 1);
        struct seen seen;
        assert_int_equal(write_mp4(media_path(0, "x.mp4"), 25, 25, &s, &err), 0);
        look(media_path(0, "x.mp4"), &seen);
        assert_int_equal(seen.frames, 25);
        assert_seconds(seen.seconds[1], seconds[i][1], 0.07); /* one AAC frame of 1024 samples */
        avformat_close_input(&seen.format);
        sound_done(&s);
    }
}

static void test_misuse(void **state)
{
    (void)state;
    const struct mp4_options o = {WIDTH, HEIGHT, 25, 17, NULL};
    struct sound s = tone(0.1, 16000, 1), none = {.channels = 1, .rate = 16000};
    struct err err = {0};
    struct mp4 *m = NULL;
    const struct mp4_options odd = {WIDTH - 1, HEIGHT, 25, 17, NULL};
    assert_int_equal(mp4_open(&m, media_path(0, "x.mp4"), &odd, &err), ERR_INVALID);
    assert_non_null(strstr(err.text, "even"));
    err_clear(&err);
    assert_int_equal(mp4_open(&m, media_path(0, "x.mp4"), &o, &err), 0);
    assert_int_equal(mp4_sound(m, &none, &err), ERR_INTERNAL);
    err_clear(&err);
    assert_int_equal(mp4_sound(m, &s, &err), 0);
    assert_int_equal(mp4_sound(m, &s, &err), ERR_INTERNAL);
    err_clear(&err);
    assert_int_equal(mp4_finish(m, &err), ERR_INTERNAL);
    assert_non_null(strstr(err.text, "no frames"));
    sound_done(&s);
}

/* ---- places that do not take it ------------------------------------------------------------------------ */

static void test_no_place(void **state)
{
    (void)state;
    struct err err = {0};
    assert_int_equal(write_mp4(media_path(0, "no/x.mp4"), 25, 3, NULL, &err), ERR_IO);
    assert_non_null(strstr(err.text, "no/x.mp4"));
    err_clear(&err);
    assert_int_equal(write_mp4("/proc/x.mp4", 25, 3, NULL, &err), ERR_IO);
}

/* From files that just fit to files far too large: the end that does not fit may be the index, written last.
 */
static void test_full(void **state)
{
    (void)state;
    char place[160];
    str_copy(place, sizeof place, media_path(0, "full"));
    assert_int_equal(mkdir(place, 0700), 0);
    int n_full = 0;
    for (int64_t n = 1; n <= 256; n = n < 64 ? n + 7 : n * 2) {
        if (mount("none", place, "tmpfs", 0, "size=4k") < 0) {
            rmdir(place);
            skip();
        }
        struct err err = {0};
        int rc = write_mp4(media_path(0, "full/x.mp4"), 25, n, NULL, &err);
        umount(place);
        if (rc != 0 && (rc != ERR_NOSPACE || !strstr(err.text, "full/x.mp4")))
            print_error("%lld frames: %d %s\n", (long long)n, rc, err.text);
        assert_true(rc == 0 || (rc == ERR_NOSPACE && strstr(err.text, "full/x.mp4")));
        n_full += rc == ERR_NOSPACE;
        assert_true(n < 64 || rc == ERR_NOSPACE);
    }
    rmdir(place);
    assert_true(n_full > 0);
}

static void test_dev_full(void **state)
{
    (void)state;
    struct err err = {0};
    if (access("/dev/full", W_OK) < 0)
        skip();
    assert_int_equal(write_mp4("/dev/full", 25, 60, NULL, &err), ERR_NOSPACE);
    assert_non_null(strstr(err.text, "/dev/full"));
}

static void test_no_memory(void **state)
{
    (void)state;
    struct sound s = tone(0.3, 44100, 2);
    const struct mp4_options o = {WIDTH, HEIGHT, 25, 17, "ultrafast"};
    long n = 1;
    for (int rc = ERR_NOMEM; rc != 0; n++) {
        struct err err = {0};
        struct mp4 *m = NULL;
        mem_fail_at(n);
        rc = mp4_open(&m, media_path(0, "x.mp4"), &o, &err);
        if (rc == 0)
            rc = mp4_sound(m, &s, &err);
        mem_fail_at(0);
        assert_true(rc == 0 || (rc == ERR_NOMEM && err.text[0]));
        assert_true(n < 100);
        mp4_abort(m);
    }
    assert_true(n > 5);
    sound_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_sound), cmocka_unit_test(test_mute),      cmocka_unit_test(test_faststart),
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_same_bytes_in_used_memory),
        cmocka_unit_test(test_rates),      cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_misuse),     cmocka_unit_test(test_no_place),  cmocka_unit_test(test_full),
        cmocka_unit_test(test_dev_full),   cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, media_make_folder, media_drop_folder);
}
