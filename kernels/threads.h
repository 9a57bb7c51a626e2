/* threads.h -- how long OpenMP's threads spin for the next piece of work before they sleep.
 *
 * libgomp's default is milliseconds: fine alone, ruinous when another process wants the core (two programs of two threads
 * on two cores ran ten times slower). It reads its environment before main, so the way to set it is to start again: once,
 * under a millisecond. GOMP_SPINCOUNT or OMP_WAIT_POLICY set by the person are left as they are.
 */
#ifndef KERNELS_THREADS_H
#define KERNELS_THREADS_H

/* The first thing in main of every program that computes. Returns when there is nothing (more) to do. */
void threads_settle(char **argv);

#endif
