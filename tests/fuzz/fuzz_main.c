/* fuzz_main.c -- fuzzing without a fuzzer: fuzz-plain SECONDS SEED-FILE...
 *
 * Runs every seed, then mutations of them until the time is over. Mutations are numbered and depend on their
 * number alone: what a crash reports can be run again with FUZZ_ONLY=number.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"
#include "tests/fuzz/fuzz.h"

#define MAX_SEEDS 64
#define MAX_INPUT (1u << 20)

struct seed {
    uint8_t *data; /* owned */
    size_t n;
};

static volatile sig_atomic_t in_crash;
static int64_t current = -1;

static void on_crash(int sig)
{
    char text[64];
    if (!in_crash) {
        in_crash = 1;
        int n = snprintf(text, sizeof text, "\nfuzz: crash in mutation %lld\n", (long long)current);
        if (write(2, text, (size_t)n) < 0)
            _exit(3);
    }
    signal(sig, SIG_DFL);
    raise(sig);
}

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static bool read_seed(struct seed *s, const char *path)
{
    FILE *f = fopen(path, "rb");
    s->data = f ? mem_alloc(MAX_INPUT) : NULL;
    s->n = s->data ? fread(s->data, 1, MAX_INPUT, f) : 0;
    if (f)
        fclose(f);
    return s->n > 0;
}

/* A position: half of the time near the start or the end, where headers and directories are. */
static size_t place(uint64_t *r, size_t n)
{
    uint64_t v = next(r) >> 8;
    size_t near = n < 512 ? n : 512;
    switch (next(r) >> 20 & 3) {
    case 0:
        return (size_t)(v % near);
    case 1:
        return n - 1 - (size_t)(v % near);
    default:
        return (size_t)(v % n);
    }
}

static size_t mutate(uint8_t *p, size_t n, uint64_t *r)
{
    static const uint64_t special[] = {0,
                                       1,
                                       0x7f,
                                       0x80,
                                       0xff,
                                       0x7fff,
                                       0xffff,
                                       0x7fffffff,
                                       0x80000000,
                                       0xffffffff,
                                       0x7fffffffffffffff,
                                       0xffffffffffffffff};
    size_t at = place(r, n), len = 1 + (size_t)(next(r) >> 9) % 32, width = (size_t)1 << (next(r) >> 7 & 3);
    uint64_t v = special[(next(r) >> 11) % (sizeof special / sizeof *special)];
    len = len < n - at ? len : n - at;
    switch ((next(r) >> 13) % 7) {
    case 0:
        p[at] ^= (uint8_t)(1u << (next(r) >> 5 & 7));
        break;
    case 1:
        p[at] = (uint8_t)(next(r) >> 8);
        break;
    case 2:
        for (size_t i = 0; i < width && at + i < n; i++)
            p[at + i] = (uint8_t)(v >> 8 * i);
        break;
    case 3: /* cut out */
        memmove(p + at, p + at + len, n - at - len);
        return n - len > 0 ? n - len : n;
    case 4: /* double */
        if (n + len > MAX_INPUT)
            break;
        memmove(p + at + len, p + at, n - at);
        return n + len;
    case 5: /* copy elsewhere */
        memmove(p + place(r, n - len + 1), p + at, len);
        break;
    default: /* cut off; seldom */
        return next(r) >> 6 & 3 ? n : at + 1;
    }
    return n;
}

static void run_mutation(const struct seed *seeds, size_t n_seeds, uint8_t *work, int64_t number)
{
    uint64_t r = 0x9e3779b97f4a7c15u * (uint64_t)(number + 1);
    for (int i = 0; i < 4; i++)
        next(&r);
    const struct seed *s = &seeds[(next(&r) >> 16) % n_seeds];
    size_t n = s->n;
    memcpy(work, s->data, n);
    for (uint64_t k = 1 + (next(&r) >> 12) % 6; k > 0; k--)
        n = mutate(work, n, &r);
    /* an exact copy on the heap: a sanitizer sees the first byte read too far */
    uint8_t *exact = mem_dup(work, n);
    current = number;
    if (exact)
        LLVMFuzzerTestOneInput(exact, n);
    mem_free(exact);
}

static int fuzz(const struct seed *seeds, size_t n_seeds, int64_t seconds)
{
    int64_t only = -1, number = 0;
    uint8_t *work = mem_alloc(MAX_INPUT);
    if (!work)
        return 1;
    if (getenv("FUZZ_ONLY") && str_parse_i64(getenv("FUZZ_ONLY"), 0, INT64_MAX - 1, &only) == 0) {
        run_mutation(seeds, n_seeds, work, only);
    } else {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        time_t stop = t.tv_sec + (time_t)seconds;
        for (; t.tv_sec < stop; clock_gettime(CLOCK_MONOTONIC, &t))
            run_mutation(seeds, n_seeds, work, number++);
    }
    mem_free(work);
    printf("%zu seeds, %lld mutations\n", n_seeds, (long long)number);
    return 0;
}

int main(int argc, char **argv)
{
    static struct seed seeds[MAX_SEEDS];
    int64_t seconds = 0;
    size_t n = 0;
    if (argc < 3 || str_parse_i64(argv[1], 0, 86400, &seconds) < 0) {
        fprintf(stderr, "use: %s SECONDS SEED-FILE...\n", argv[0]);
        return 2;
    }
    signal(SIGSEGV, on_crash);
    signal(SIGBUS, on_crash);
    signal(SIGABRT, on_crash);
    for (int i = 2; i < argc && n < MAX_SEEDS; i++, n++) {
        if (!read_seed(&seeds[n], argv[i])) {
            fprintf(stderr, "%s cannot be read\n", argv[i]);
            return 2;
        }
        LLVMFuzzerTestOneInput(seeds[n].data, seeds[n].n);
    }
    int rc = fuzz(seeds, n, seconds);
    for (size_t i = 0; i < n; i++)
        mem_free(seeds[i].data);
    return rc;
}
