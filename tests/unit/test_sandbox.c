/* test_sandbox.c -- decoding in a child: same results as the direct calls, and a child that has been taken
 * over.
 *
 * This program is its own child. A file that starts with "FAULT " makes that child do what a taken-over
 * decoder might do: crash, hang, open files, answer nonsense.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/str.h"
#include "tests/unit/media_make.h"
#include "worker/media/image_in.h"
#include "worker/media/sandbox.h"
#include "worker/media/sandbox_wire.h"

/* ---- the child ----------------------------------------------------------------------------------------- */

static int child_file, child_result; /* as the request brings them: the lowest free numbers */

static void reply_with(struct sandbox_wire_reply r, size_t n_data)
{
    static const char zeros[8192];
    r.magic = r.magic ? r.magic : SANDBOX_WIRE_MAGIC;
    if (write(child_result, &r, sizeof r) < 0 || write(child_result, zeros, n_data) < 0)
        _exit(3);
    _exit(0);
}

static void forbidden(const char *word)
{
    if (strcmp(word, "open") == 0) /* the one that is refused and not fatal */
        _exit(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES ? 42 : 0);
    if (strcmp(word, "socket") == 0 && socket(AF_INET, SOCK_STREAM, 0) >= 0)
        _exit(0);
    if (strcmp(word, "fork") == 0 && fork() >= 0)
        _exit(0);
    if (strcmp(word, "exec") == 0)
        execl("/bin/true", "true", (char *)NULL);
    if (strcmp(word, "kill") == 0 && kill(getppid(), 0) == 0)
        _exit(0);
    if (strcmp(word, "code") == 0 &&
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
        _exit(0);
}

static void lie(const char *word)
{
    const struct sandbox_wire_reply good = {
        .width = 16, .height = 16, .channels = 1, .rate = 1000, .n = 1000};
    struct sandbox_wire_reply r = good;
    if (strcmp(word, "magic") == 0)
        r.magic = 1;
    else if (strcmp(word, "huge") == 0)
        r.width = r.height = r.rate = 1 << 30;
    else if (strcmp(word, "negative") == 0)
        r.width = -16, r.n = -1;
    else if (strcmp(word, "zero") == 0)
        r.height = 0, r.channels = 0;
    else if (strcmp(word, "code") == 0)
        r = (struct sandbox_wire_reply){.code = ERR_LOST, .text = "cancel this job"};
    else if (strcmp(word, "text") == 0)
        memset(r.text, 'x', sizeof r.text), r.code = ERR_MEDIA;
    else if (strcmp(word, "bytes") == 0)
        memcpy(r.text, "\xff\xfe", 3), r.code = ERR_MEDIA;
    else if (strcmp(word, "short") == 0)
        reply_with(r, 10);
    else if (strcmp(word, "long") == 0)
        reply_with(r, 8192);
    else if (strcmp(word, "nothing") == 0)
        _exit(0);
    reply_with(r, strcmp(word, "magic") == 0 ? 768 : 0);
}

static void misbehave(const char *word)
{
    if (strcmp(word, "crash") == 0)
        signal(SIGSEGV, SIG_DFL), raise(SIGSEGV); /* a sanitizer would catch it */
    if (strcmp(word, "abort") == 0)
        abort();
    if (strcmp(word, "outside") == 0)
        raise(SIGKILL);
    if (strcmp(word, "status") == 0)
        _exit(7);
    while (strcmp(word, "hang") == 0)
        pause();
    for (volatile int i = 0; strcmp(word, "spin") == 0;)
        i = !i;
    if (str_starts(word, "lie "))
        lie(word + 4);
    sandbox_child_enter();
    if (strcmp(word, "memory") == 0)
        _exit(mmap(NULL, (size_t)4 << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
                      MAP_FAILED
                  ? 43
                  : 0);
    forbidden(word);
    _exit(44);
}

/* Looks at the request without taking it: a real one goes on to the real child. */
static int child(void)
{
    struct sandbox_wire_request q;
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec part = {&q, sizeof q};
    struct msghdr m = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    char word[64] = "";
    int fd[2];
    if (recvmsg(SANDBOX_WIRE_SOCKET, &m, MSG_PEEK) != (ssize_t)sizeof q)
        return 0;
    memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    child_file = fd[0];
    child_result = fd[1];
    if (pread(child_file, word, sizeof word - 1, 0) > 6 && str_starts(word, "FAULT "))
        misbehave(word + 6);
    return sandbox_child_main();
}

/* ---- faults -------------------------------------------------------------------------------------------- */

static const struct audio_limit limit = {0.1, 30};

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void expect(const char *fault, int code, const char *text)
{
    char words[64];
    struct image im = {0};
    struct sound s = {0};
    struct err err[2] = {{0}, {0}};
    str_format(words, sizeof words, "FAULT %s", fault);
    media_write(media_path(0, "fault"), words, strlen(words) + 1);
    int rc[2] = {sandbox_image(media_path(0, "fault"), true, &im, &err[0]),
                 sandbox_audio(media_path(0, "fault"), &limit, &s, &err[1])};
    for (int i = 0; i < 2; i++) {
        if (rc[i] != code || !strstr(err[i].text, text))
            print_error("%s: %d %s\n", fault, rc[i], err[i].text);
        assert_int_equal(rc[i], code);
        assert_non_null(strstr(err[i].text, text));
        assert_true(str_starts(err[i].text, i ? "audio: " : "image: "));
    }
    assert_null(im.pixels);
    assert_null(s.samples);
}

static void test_crash(void **state)
{
    (void)state;
    expect("crash", ERR_MEDIA, "crashed on this file");
    expect("abort", ERR_MEDIA, "crashed on this file");
    expect("outside", ERR_NOMEM, "killed from outside");
    expect("status", ERR_IO, "ended with status 7");
}

static void test_time(void **state)
{
    (void)state;
    static const char *const fault[] = {"hang", "spin"};
    for (int i = 0; i < 2; i++) {
        int64_t from = now_ms();
        sandbox_deadline(1000);
        expect(fault[i], ERR_MEDIA, "takes longer than 1 s");
        sandbox_deadline(SANDBOX_SECONDS * 1000);
        assert_in_range(now_ms() - from, 2000, 8000); /* both kinds */
    }
}

static void test_lies(void **state)
{
    (void)state;
    static const char *const lies[] = {"magic", "huge",  "negative", "zero", "code",
                                       "text",  "bytes", "short",    "long", "nothing"};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char fault[32];
        str_format(fault, sizeof fault, "lie %s", lies[i]);
        expect(fault, ERR_MEDIA, "no sensible answer");
    }
}

static void test_forbidden(void **state)
{
    (void)state;
    if (!sandbox_is_filtered())
        skip();
    static const char *const call[] = {"socket", "fork", "exec", "kill", "code"};
    expect("open", ERR_IO, "status 42"); /* refused, went on */
    for (size_t i = 0; i < sizeof call / sizeof *call; i++) {
        char signal[32];
        str_format(signal, sizeof signal, "(signal %d)", SIGSYS);
        expect(call[i], ERR_MEDIA, signal);
    }
}

static void test_memory(void **state)
{
    (void)state;
#if SANDBOX_WIRE_SANITIZED
    skip();
#endif
    expect("memory", ERR_IO, "status 43");
}

/* ---- good files ---------------------------------------------------------------------------------------- */

static void same_image(const char *path, bool turn)
{
    struct image a = {0}, b = {0};
    struct err err[2] = {{0}, {0}};
    int direct = image_in_open(path, turn, &a, &err[0]), boxed = sandbox_image(path, turn, &b, &err[1]);
    if (direct != boxed)
        print_error("%s: %d %s, %d %s\n", path, direct, err[0].text, boxed, err[1].text);
    assert_int_equal(direct, boxed);
    assert_string_equal(err[0].text, err[1].text);
    assert_int_equal(a.width, b.width);
    assert_int_equal(a.height, b.height);
    assert_memory_equal(a.pixels, b.pixels, (size_t)a.width * (size_t)a.height * 3);
    image_done(&a);
    image_done(&b);
}

static void same_sound(const char *path, const struct audio_limit *l)
{
    struct sound a = {0}, b = {0};
    struct err err[2] = {{0}, {0}};
    int direct = audio_in_open(path, l, &a, &err[0]), boxed = sandbox_audio(path, l, &b, &err[1]);
    if (direct != boxed)
        print_error("%s: %d %s, %d %s\n", path, direct, err[0].text, boxed, err[1].text);
    assert_int_equal(direct, boxed);
    assert_string_equal(err[0].text, err[1].text);
    assert_int_equal(a.n, b.n);
    assert_int_equal(a.channels, b.channels);
    assert_int_equal(a.rate, b.rate);
    assert_memory_equal(a.samples, b.samples, (size_t)a.n * (size_t)a.channels * sizeof(float));
    sound_done(&a);
    sound_done(&b);
}

static void test_same_images(void **state)
{
    (void)state;
    static const char *const file[] = {"bilevel.png", "cmyk.jpg",    "exif6.jpg", "gray.jpg",
                                       "gray16.png",  "palette.png", "rgba.png"};
    static const char *const kept[] = {"anim.gif",    "anim_lossy.webp", "lzw.tif",
                                       "palette.bmp", "README.md",       "tone.mp3"};
    char path[512];
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        str_format(path, sizeof path, "%s/image/files/%s", getenv("TEST_GOLDEN"), file[i]);
        same_image(path, true);
        same_image(path, false);
    }
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        str_path(path, sizeof path, getenv("TEST_MEDIA"), kept[i]);
        same_image(path, true);
    }
    same_image(media_path(0, "absent"), true);
    same_image("/tmp", true);
}

/* The largest picture allowed, in its largest pixels: the limits of the child leave room for it. */
static void test_largest(void **state)
{
    (void)state;
    if (!media_ffmpeg(
            "-f lavfi -i testsrc=s=8000x5000 -frames:v 1 -pix_fmt rgba64be -compression_level 1 big.png"))
        skip();
    same_image(media_path(0, "big.png"), true);
}

static void test_same_sounds(void **state)
{
    (void)state;
    static const char *const kept[] = {"tone.wav",  "tone.flac", "tone.mp3",  "tone.ogg",
                                       "tone.opus", "tone.m4a",  "README.md", "anim.gif"};
    const struct audio_limit loose = {0.01, 30}, narrow = {0.01, 0.05};
    char path[512];
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        str_path(path, sizeof path, getenv("TEST_MEDIA"), kept[i]);
        same_sound(path, &loose);
        same_sound(path, &narrow);
    }
    same_sound(media_path(0, "absent"), &loose);
}

/* Further formats must not need a forbidden call either. */
static void test_filter_and_formats(void **state)
{
    (void)state;
    static const char *const name[] = {"a.mkv", "a.aiff", "a.caf", "a.ac3",
                                       "a.wma", "a.webm", "a.ts",  "a.avi"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        char words[160];
        str_format(words, sizeof words, "-f lavfi -i sine=440:d=2:r=48000 -ac 2 %s", name[i]);
        if (!media_ffmpeg(words))
            skip();
        same_sound(media_path(0, name[i]), &limit);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    struct image im = {0};
    char path[512];
    str_format(path, sizeof path, "%s/image/files/rgba.png", getenv("TEST_GOLDEN"));
    struct err err = {0};
    mem_fail_at(1);
    int rc = sandbox_image(path, true, &im, &err);
    mem_fail_at(0);
    assert_int_equal(rc, ERR_NOMEM);
    assert_null(im.pixels);
}

/* The children that wait are killed: the next request starts another. */
static void test_spare_lost(void **state)
{
    (void)state;
    char path[512], line[256] = "";
    int n = 0;
    sandbox_warm();
    str_format(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "re");
    if (!f)
        skip();
    assert_non_null(fgets(line, sizeof line, f)); /* "123 124 " */
    fclose(f);
    for (char *p = line, *word; (word = strsep(&p, " \n")) != NULL;) {
        int64_t pid;
        if (!word[0])
            continue;
        assert_int_equal(str_parse_i64(word, 2, INT32_MAX, &pid), 0);
        assert_int_equal(kill((pid_t)pid, SIGKILL), 0);
        n++;
    }
    assert_int_equal(n, 2);
    usleep(100000);
    str_format(path, sizeof path, "%s/image/files/rgba.png", getenv("TEST_GOLDEN"));
    same_image(path, true);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], SANDBOX_WORD) == 0)
        return child();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_forbidden),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_same_images),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_same_sounds),
        cmocka_unit_test(test_filter_and_formats),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_spare_lost),
    };
    return cmocka_run_group_tests(tests, media_make_folder, media_drop_folder);
}
