/* test_gang_form.c -- how a gang's workers meet when they have GPUs: over NCCL's emulation where each has one of its own,
 * through host memory where one has no NCCL, shares a GPU or has none. Workers are threads here.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/str.h"
#include "kernels/device.h"
#include "worker/gang.h"
#include "tests/cudaemu/check.h"

static char volume[64] = "/tmp/test-gang-XXXXXX";

struct worker {
    struct device *device;
    const char *job;
    int rank, code, rc, told; /* code: what the job ends with at rank 0 */
    char over[16];
    struct err err;
    int64_t formed, left; /* us */
    pthread_t thread;
};

/* Rank 0 works on a little when rank 1 has done its part. */
static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct gang *g = NULL;
    const int64_t since = clock_us();
    w->rc = gang_form(&g, w->device, volume, w->job, 1, w->rank, 2, &w->err);
    w->formed = clock_us() - since;
    if (w->rc < 0)
        return NULL;
    str_copy(w->over, sizeof(w->over), gang_carrier(g));
    w->told = w->rank == 0 ? 4711 : 0;
    w->rc = gang_share(g, &w->told, sizeof(w->told), &w->err);
    if (w->rank == 0)
        clock_sleep_us(300 * CLOCK_MS);
    else
        gang_wait(g);
    gang_leave(g, w->rank == 0 ? w->code : 0, "it failed");
    w->left = clock_us() - since - w->formed;
    return NULL;
}

static void expect(const char *what, struct device *a, struct device *b, int code, const char *fault, const char *over)
{
    struct worker w[2] = {{.device = a, .job = what, .code = code}, {.device = b, .job = what, .rank = 1}};
    char text[700];
    setenv("CUDAEMU_NCCL", fault, 1);
    for (int i = 0; i < 2; i++)
        if (pthread_create(&w[i].thread, NULL, worker_main, &w[i]) != 0)
            abort();
    for (int i = 0; i < 2; i++)
        pthread_join(w[i].thread, NULL);
    for (int i = 0; i < 2; i++) {
        str_format(text, sizeof(text), "rank %d over %s after %.2f s, left after %.2f s: %s", i, w[i].over,
                   (double)w[i].formed / 1e6, (double)w[i].left / 1e6, w[i].err.text);
        check(w[i].rc == 0 && w[i].told == 4711 && strcmp(w[i].over, over) == 0, what, text);
        /* rank 1 waits for rank 0's end, and neither for the other's before it gives up */
        check(w[i].left >= 250 * CLOCK_MS && w[i].left < 1700 * CLOCK_MS, "both leave together", text);
    }
}

int main(void)
{
    struct device *gpu[2] = {NULL}, *same = NULL, *cpu = NULL;
    struct err err = {0};
    char path[96];
    setenv("CUDAEMU_DEVICES", "2", 1);
    for (int i = 0; i < 2; i++)
        check(device_open(&gpu[i], "cuda", &(struct device_options){.index = i}, &err) == 0, "open", err.text);
    check(device_open(&same, "cuda", NULL, &err) == 0 && device_open(&cpu, "cpu_ref", NULL, &err) == 0, "open", err.text);
    if (failed || !mkdtemp(volume) || str_path(path, sizeof(path), volume, "tmp") < 0 || mkdir(path, 0700) < 0)
        return 1;
    expect("a GPU each", gpu[0], gpu[1], 0, "", "nccl");
    expect("a job that fails", gpu[0], gpu[1], ERR_NOSPACE, "", "nccl");
    expect("one has no NCCL", gpu[0], gpu[1], 0, "absent:1", "sockets");
    expect("one GPU", gpu[0], same, 0, "", "sockets");
    expect("one has no GPU", gpu[0], cpu, 0, "", "sockets");
    expect("neither has one", cpu, cpu, 0, "", "sockets");
    device_close(gpu[0]);
    device_close(gpu[1]);
    device_close(same);
    device_close(cpu);
    rmdir(path);
    check(rmdir(volume) == 0, "nothing is left on the volume", volume);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
