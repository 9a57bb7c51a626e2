/* nvml.h -- what the driver's management library says about the memory of one GPU. The one door to libnvidia-ml.so.1, which
 * is loaded where it is there (the driver brings it) and never linked: without it everything else works.
 *
 *     struct nvml *n = nvml_open(gpu.pciDomainID, gpu.pciBusID, gpu.pciDeviceID);    NULL is fine for all below
 *     bool is_own;
 *     size_t used = nvml_used(n, &is_own);                                            0: it does not say
 *     nvml_close(n);
 *
 * One thread. Functions and structs from NVIDIA's NVML API reference (r515 and later).
 */
#ifndef KERNELS_CUDA_NVML_H
#define KERNELS_CUDA_NVML_H

#include <stdbool.h>
#include <stddef.h>

struct nvml;

/* Before this process does anything on the GPU. NULL: no library, or it does not know this GPU. */
struct nvml *nvml_open(int pci_domain, int pci_bus, int pci_device);
void nvml_close(struct nvml *n);

/* Bytes of the GPU's memory that this process uses, with what the driver takes for it. *is_own: NVML lists this process;
 * otherwise (a container's process has another number outside) how much more is used than at nvml_open, by all. */
size_t nvml_used(const struct nvml *n, bool *is_own);

#endif
