/* top_view.h -- the queue on one screen: numbers, levels, workers with what they do, the last failures. A function from
 * answers and a size to lines; it neither asks nor draws.
 *
 *     struct top_data d = {.server = ..., .stats = GET /v1/queue, .workers = board_workers, .dead = jobs of /v1/queue/dead};
 *     top_view(&d, 80, 24, true, &text);
 *
 * Lines end with '\n' and are cut to the width (in columns: wide characters count two); no more than height of them, and the
 * sections share what there is. Colours are ECMA-48; whatever names and reasons hold, no other control character comes
 * through.
 */
#ifndef CLI_TOP_VIEW_H
#define CLI_TOP_VIEW_H

#include <stdbool.h>

#include "common/buf.h"
#include "common/json.h"

struct top_data {
    const char *server;
    const json_t *stats, *workers, *dead; /* borrowed; the last two may be NULL */
    const char *problem;                  /* why they are not of now; NULL: they are */
};

void top_view(const struct top_data *d, int width, int height, bool colors, struct buf *out);

#endif
