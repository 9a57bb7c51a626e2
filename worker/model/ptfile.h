/* ptfile.h -- PyTorch's zip files: torch.save's (a pickled dict of tensors) and TorchScript's (a pickled
 * module tree).
 *
 * Entries <stem>/data.pkl, <stem>/data/<key>, <stem>/byteorder. Names of tensors are the path of keys or
 * attributes, joined by dots; an outer key "module", "ema" or "state_dict" is taken off. Only contiguous
 * tensors are read. A weight file of TorchScript is treated as data: its code is never looked at.
 */
#ifndef WORKER_MODEL_PTFILE_H
#define WORKER_MODEL_PTFILE_H

#include "common/err.h"

struct ckpt;

/* Adds the file's tensors to c. ERR_FORMAT, ERR_UNSUPPORTED with what and where. */
int ptfile_read(struct ckpt *c, const char *path, struct err *err);

#endif
