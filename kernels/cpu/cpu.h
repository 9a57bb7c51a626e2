/* cpu.h -- the CPU backend's own side: what a device of kind "cpu" keeps, and the fast ops that stand over cpu_ref.
 *
 * device.c calls the three functions below; ops reach the state through run->device->impl.
 *
 *     d->n_threads = 2; d->precision = DEVICE_F32;
 *     if ((rc = cpu_open(d)) < 0) ...
 *     ... op_linear(&r, x, w, ...)         packs w on first use
 *     cpu_forget(d, base, bytes);          before the mapping that holds w goes
 *     cpu_close(d);
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/table.h"

/* Fills d->impl; d->n_threads and d->precision must be set. A precision that this machine cannot compute is put back to
 * DEVICE_F32. ERR_NOMEM, ERR_DEVICE. */
int cpu_open(struct device *d);
/* Frees all of it; a device that was never opened is fine. */
void cpu_close(struct device *d);
/* Drops what was packed for weights whose data lies in [base, base + bytes). */
void cpu_forget(struct device *d, const void *base, size_t bytes);

#endif
