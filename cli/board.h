/* board.h -- what workers do now: the dispatcher's workers joined with the running jobs. For `workers` and `top`.
 *
 *     json_t *rows = NULL;
 *     rc = board_workers(c, &rows, &err);
 *
 * *ret: owned array of {name, state, job, stage, step, total, eta_s, device, kind, host, quiet, seen_at, generators}, the
 * busy ones first, then by name. state: busy, idle, quiet, draining (quiet and busy).
 */
#ifndef CLI_BOARD_H
#define CLI_BOARD_H

#include "cli/cli.h"

int board_workers(const struct cli *c, json_t **ret, struct err *err);

#endif
