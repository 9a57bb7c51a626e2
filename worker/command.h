/* command.h -- what troupe-worker does besides serving the queue: `troupe-worker plan ...` and `troupe-worker bench ...`, which
 * the program `troupe` hands on. They print on stdout and return the process' exit code (0, 1 failed, 2 wrong words). */
#ifndef WORKER_COMMAND_H
#define WORKER_COMMAND_H

/* argv[0] is the word itself. */
int command_plan(int argc, char **argv);
int command_bench(int argc, char **argv);

#endif
