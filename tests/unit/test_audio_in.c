/* test_audio_in.c -- sound files of every kind and damage. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/str.h"
#include "tests/unit/media_make.h"
#include "worker/media/audio_in.h"
#include "worker/media/resample.h"

static const struct audio_limit limit = {0.2, 20};

static void refuse(const char *path, int code, const char *text)
{
    struct sound s = {0};
    struct err err = {0};
    int rc = audio_in_open(path, &limit, &s, &err);
    if (rc != code || !strstr(err.text, text))
        print_error("%s: %d %s\n", path, rc, err.text);
    assert_int_equal(rc, code);
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.text, text));
    assert_null(s.samples);
}

static void refuse_bytes(const void *data, size_t n, int code, const char *text)
{
    media_write(media_path(0, "bad"), data, n);
    refuse(media_path(0, "bad"), code, text);
}

static void write_wav(const char *path, const struct wav_want *o)
{
    struct buf b;
    buf_init(&b, 64 << 20);
    wav_make(&b, o);
    media_write(path, b.data, b.len);
    buf_done(&b);
}

static void refuse_wav(const struct wav_want *o, int code, const char *text)
{
    write_wav(media_path(0, "bad.wav"), o);
    refuse(media_path(0, "bad.wav"), code, text);
}

static struct sound opened(const char *path)
{
    struct sound s = {0};
    struct err err = {0};
    int rc = audio_in_open(path, &limit, &s, &err);
    if (rc < 0)
        print_error("%s: %s\n", path, err.text);
    assert_int_equal(rc, 0);
    return s;
}

/* ---- WAV ----------------------------------------------------------------------------------------------- */

/* What the file holds for v: integers are cut down to their steps. */
static double stored(const struct wav_want *o, double v)
{
    double steps = ldexp(1, o->bits - 1);
    return o->format == 3 ? (double)(float)v : floor(v * steps) / steps;
}

static void check_wav(const struct wav_want *o)
{
    write_wav(media_path(0, "x.wav"), o);
    struct sound s = opened(media_path(0, "x.wav"));
    assert_int_equal(s.rate, o->rate);
    assert_int_equal(s.n, o->n);
    assert_int_equal(s.channels, o->channels > 2 ? 1 : o->channels);
    for (int64_t i = 0; i < s.n; i++) {
        double mean = 0;
        for (int c = 0; c < o->channels; c++) {
            double v = stored(o, o->at(i, c));
            mean += v / o->channels;
            if (o->channels <= 2) /* f32 keeps 24 bits: exact up to there */
                assert_true(fabs(s.samples[i * s.channels + c] - v) <= (o->bits > 24 ? 6e-8 : 0));
        }
        if (o->channels > 2)
            assert_true(fabs(s.samples[i] - mean) < 5e-7);
    }
    sound_done(&s);
}

static void test_wav_kinds(void **state)
{
    (void)state;
    static const int kind[][2] = {{1, 8}, {1, 16}, {1, 24}, {1, 32}, {3, 32}, {3, 64}};
    static const int channels[] = {1, 2, 6};
    for (size_t k = 0; k < sizeof kind / sizeof *kind; k++) {
        for (size_t c = 0; c < sizeof channels / sizeof *channels; c++)
            check_wav(&(struct wav_want){kind[k][0], kind[k][1], channels[c], 22050, 7001, 0, wav_sine});
    }
}

static void test_wave(void **state)
{
    (void)state;
    struct wave w = {0};
    struct err err = {0};
    write_wav(media_path(0, "x.wav"), &(struct wav_want){3, 32, 2, 16000, 5000, 0, wav_sine});
    assert_int_equal(audio_in_read(media_path(0, "x.wav"), &w, &err), 0);
    assert_int_equal(w.n, 5000);
    assert_int_equal(w.rate, RESAMPLE_RATE);
    for (int64_t i = 0; i < w.n; i++)
        assert_true(fabs(w.samples[i] - (wav_sine(i, 0) + wav_sine(i, 1)) / 2) < 1e-6);
    wave_done(&w);
    write_wav(media_path(0, "x.wav"), &(struct wav_want){1, 16, 1, 44100, 44101, 0, wav_sine});
    assert_int_equal(audio_in_read(media_path(0, "x.wav"), &w, &err), 0);
    assert_int_equal(w.n, 16001); /* ceil(44101 * 16000 / 44100) */
    wave_done(&w);
}

/* ---- limits -------------------------------------------------------------------------------------------- */

static void test_limits(void **state)
{
    (void)state;
    refuse_wav(&(struct wav_want){1, 16, 1, 16000, 0, 0, wav_sine}, ERR_MEDIA,
               "no samples (0 s): at least 0.20 s");
    refuse_wav(&(struct wav_want){1, 16, 1, 16000, 3199, 0, wav_sine}, ERR_INVALID,
               "too short: at least 0.20 s");
    check_wav(&(struct wav_want){1, 16, 1, 16000, 3200, 0, wav_sine});
    check_wav(&(struct wav_want){1, 16, 1, 8000, 160000, 0, wav_sine});
    refuse_wav(&(struct wav_want){1, 16, 1, 8000, 160001, 0, wav_sine}, ERR_INVALID,
               "longer than the limit of 20.0 s");
}

/* Three hours, all but one second of it a hole: refused by the header, not after decoding it. */
static void test_three_hours(void **state)
{
    (void)state;
    const struct wav_want o = {1, 16, 1, 16000, 16000, 16000 * 2 * 10799, wav_sine};
    write_wav(media_path(0, "long.wav"), &o);
    assert_int_equal(truncate(media_path(0, "long.wav"), 44 + 16000 * 2 * (off_t)10800), 0);
    long before = mem_count();
    refuse(media_path(0, "long.wav"), ERR_INVALID, "10800.0 s is longer than the limit of 20.0 s: cut it");
    assert_int_equal(mem_count(), before);
    unlink(media_path(0, "long.wav"));
}

/* The header lies about the length: what is there counts. */
static void test_claims_more(void **state)
{
    (void)state;
    write_wav(media_path(0, "less.wav"),
              &(struct wav_want){1, 16, 1, 16000, 16000, 16000 * 2 * 10799, wav_sine});
    struct sound s = {0};
    struct err err = {0};
    int rc = audio_in_open(media_path(0, "less.wav"), &limit, &s, &err);
    assert_true(rc == 0 || rc == ERR_INVALID);
    assert_true(rc == ERR_INVALID || s.n == 16000);
    sound_done(&s);
}

/* ---- damage -------------------------------------------------------------------------------------------- */

static double with_nan(int64_t i, int c)
{
    return i == 777 && c == 0 ? (double)NAN : 0.1;
}

static double with_infinity(int64_t i, int c)
{
    return i == 778 && c == 0 ? -(double)INFINITY : 0.1;
}

static void test_not_finite(void **state)
{
    (void)state;
    refuse_wav(&(struct wav_want){3, 32, 1, 16000, 8000, 0, with_nan}, ERR_MEDIA,
               "sample 777 is not a finite number");
    refuse_wav(&(struct wav_want){3, 64, 2, 16000, 8000, 0, with_infinity}, ERR_MEDIA,
               "sample 778 is not a finite");
}

static void test_not_a_sound(void **state)
{
    (void)state;
    static const char picture[] = "\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x08\0\0\0\x08\x08\2\0\0\0";
    refuse_bytes("", 0, ERR_MEDIA, "not a sound file");
    refuse_bytes("hello, this is text and no sound at all, not even a short one", 61, ERR_MEDIA,
                 "not a sound file");
    refuse_bytes(picture, sizeof picture, ERR_MEDIA, "not a sound file");
    refuse_bytes("RIFF\x24\0\0\0WAVE", 12, ERR_MEDIA, "audio: ");
    refuse(media_path(0, "absent.wav"), ERR_NOTFOUND, "absent.wav");
    refuse("/tmp", ERR_MEDIA, "not a regular file");
}

/* Files that name other files are no sound, however they are called. */
static void test_playlists(void **state)
{
    (void)state;
    static const char *const text[] = {
        "ffconcat version 1.0\nfile 'x.wav'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nx.wav\n#EXT-X-ENDLIST\n"};
    write_wav(media_path(1, "x.wav"), &(struct wav_want){1, 16, 1, 16000, 16000, 0, wav_sine});
    for (size_t i = 0; i < 2; i++) {
        media_write(media_path(0, "list.m3u8"), text[i], strlen(text[i]));
        refuse(media_path(0, "list.m3u8"), ERR_MEDIA, "not a sound file");
    }
}

/* Any part of a file: its samples so far, or a refusal. */
static void test_cut(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    wav_make(&b, &(struct wav_want){1, 16, 2, 16000, 16000, 0, wav_sine});
    for (size_t k = 0; k < 8; k++) {
        struct sound s = {0};
        struct err err = {0};
        media_write(media_path(0, "cut.wav"), b.data, b.len * k / 8);
        int rc = audio_in_open(media_path(0, "cut.wav"), &limit, &s, &err);
        assert_true(rc == 0 || rc == ERR_MEDIA || rc == ERR_INVALID);
        assert_true(k < 4 || rc == 0);
        assert_true(rc < 0 || (s.n <= 16000 * (int64_t)k / 8 && s.n >= 16000 * (int64_t)k / 8 - 12));
        sound_done(&s);
    }
    buf_done(&b);
}

/* ---- other containers, by ffmpeg ----------------------------------------------------------------------- */

/* ffmpeg's sine is 1/8 high: its power 1/128. */
static void check_sine(const char *path, int rate, double within)
{
    struct sound s = opened(path);
    double power = 0, seconds = (double)s.n / s.rate;
    for (int64_t i = 0; i < s.n * s.channels; i++)
        power += (double)s.samples[i] * s.samples[i] / ((double)s.n * s.channels);
    if (s.rate != rate || fabs(seconds - 1) > within || fabs(power * 128 - 1) > 0.15)
        fail_msg("%s: %d Hz, %.3f s, power %.3f of what was written", path, s.rate, seconds, power * 128);
    sound_done(&s);
}

static void test_containers(void **state)
{
    (void)state;
    static const struct {
        const char *name, *words;
        int rate;
        double within; /* seconds: what coders add at the ends */
    } file[] = {
        {"a.flac", "", 44100, 0},
        {"a.mp3", "-c:a libmp3lame", 44100, 0.06},
        {"a.ogg", "-c:a libvorbis", 44100, 0.05},
        {"a.opus", "-c:a libopus", 48000, 0.05},
        {"a.m4a", "-c:a aac", 44100, 0.06},
        {"stereo.m4a", "-c:a aac -af 'pan=stereo|c0=c0|c1=c0' -b:a 192k", 44100, 0.06},
        {"a.mkv", "-c:a pcm_s16le", 44100, 0.01},
        {"a.aiff", "", 44100, 0},
    };
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        char words[256];
        str_format(words, sizeof words, "-f lavfi -i sine=440:d=1:r=44100 %s %s", file[i].words,
                   file[i].name);
        if (!media_ffmpeg(words))
            skip();
        check_sine(media_path(0, file[i].name), file[i].rate, file[i].within + 1e-9);
    }
}

static void test_videos(void **state)
{
    (void)state;
    if (!media_ffmpeg("-f lavfi -i testsrc=s=64x48:r=10:d=1 -f lavfi -i sine=440:d=1:r=48000 -c:v mpeg4 -c:a "
                      "aac with.mp4"))
        skip();
    check_sine(media_path(0, "with.mp4"), 48000, 0.06);
    media_ffmpeg("-f lavfi -i testsrc=s=64x48:r=10:d=1 -c:v mpeg4 mute.mp4");
    refuse(media_path(0, "mute.mp4"), ERR_MEDIA, "no audio stream: send a sound file or a video with sound");
}

static void test_damaged_containers(void **state)
{
    (void)state;
    static const char *const name[] = {"d.mp3", "d.flac", "d.ogg", "d.m4a"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        char words[128];
        str_format(words, sizeof words, "-f lavfi -i sine=440:d=1 %s", name[i]);
        if (!media_ffmpeg(words))
            skip();
        struct buf b;
        media_read(media_path(0, name[i]), &b);
        for (size_t k = 0; k < 8; k++) {
            struct sound s = {0};
            struct err err = {0};
            media_write(media_path(1, "cut"), b.data, b.len * k / 8);
            int rc = audio_in_open(media_path(1, "cut"), &limit, &s, &err);
            assert_true(rc == 0 || rc == ERR_MEDIA || rc == ERR_INVALID);
            assert_true((rc == 0) == (s.samples != NULL) && (rc == 0 || err.text[0]));
            sound_done(&s);
        }
        buf_done(&b);
    }
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static void test_no_memory(void **state)
{
    (void)state;
    struct sound s = {0};
    write_wav(media_path(0, "x.wav"), &(struct wav_want){1, 16, 2, 44100, 200000, 0, wav_sine});
    long n = 1;
    for (int rc = ERR_NOMEM; rc != 0; n++) {
        struct err err = {0};
        mem_fail_at(n);
        rc = audio_in_open(media_path(0, "x.wav"), &limit, &s, &err);
        mem_fail_at(0);
        assert_true(rc == 0 || (rc == ERR_NOMEM && strstr(err.text, "no memory") && !s.samples));
        assert_true(n < 100);
    }
    assert_true(n > 3); /* it grew more than once */
    struct wave w = {0};
    n = 1;
    for (int rc = ERR_NOMEM; rc != 0; n++) {
        struct err err = {0};
        mem_fail_at(n);
        rc = audio_in_wave(&s, &w, &err);
        mem_fail_at(0);
        assert_true(rc == 0 || (rc == ERR_NOMEM && strstr(err.text, "no memory") && !w.samples));
        assert_true(n < 100);
    }
    assert_true(n > 3);
    sound_done(&s);
    wave_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wav_kinds),   cmocka_unit_test(test_wave),
        cmocka_unit_test(test_limits),      cmocka_unit_test(test_three_hours),
        cmocka_unit_test(test_claims_more), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_not_a_sound), cmocka_unit_test(test_playlists),
        cmocka_unit_test(test_cut),         cmocka_unit_test(test_containers),
        cmocka_unit_test(test_videos),      cmocka_unit_test(test_damaged_containers),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, media_make_folder, media_drop_folder);
}
