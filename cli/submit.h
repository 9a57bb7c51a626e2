/* submit.h -- sends one request to a dispatcher: the files as form parts, the fields as text. Shared by
 * submit and run. */
#ifndef CLI_SUBMIT_H
#define CLI_SUBMIT_H

#include "cli/cli.h"
#include "common/json.h"

/* Are the files there? ERR_INVALID names the one that is missing. submit_request does this itself. */
int submit_check(const json_t *fields, struct err *err);
/* fields: what args_read collected; image and audio are paths. *ret: the answer (owned), with "id".
 * ERR_INVALID for a missing file, or what the dispatcher refuses, in its words. */
int submit_request(const struct cli *c, const json_t *fields, json_t **ret, struct err *err);
/* Waits for the end and writes the video to out (NULL: "<id>.mp4"); ret_path says where. */
int submit_fetch(const struct cli *c, const char *id, const char *out, char *ret_path, size_t size,
                 json_t **ret_job, struct err *err);

#endif
