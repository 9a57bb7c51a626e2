/* gpu_bench -- `troupe-worker bench` without the rest of the worker: gpu_bench bench [options]. */
#include <stdio.h>
#include <string.h>

#include "kernels/threads.h"
#include "worker/command.h"

int main(int argc, char **argv)
{
    threads_settle(argv);
    if (argc < 2 || strcmp(argv[1], "bench") != 0) {
        fprintf(stderr, "use: gpu_bench bench [options]\n");
        return 2;
    }
    return command_bench(argc - 1, argv + 1);
}
