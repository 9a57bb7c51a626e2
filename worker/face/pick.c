#include "worker/face/pick.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/err.h"
#include "common/mem.h"

#define MIN_SCORE 0.5f
#define MAX_OVERLAP 0.45f

struct candidate {
    float row[PICK_ROW]; /* as returned */
    size_t index;
};

static bool read_row(const float *row, size_t index, struct candidate *c)
{
    float conf = row[15] * row[4];
    if (!(row[4] > MIN_SCORE) || !(conf > MIN_SCORE))
        return false;
    c->row[0] = row[0] - row[2] / 2;
    c->row[1] = row[1] - row[3] / 2;
    c->row[2] = row[0] + row[2] / 2;
    c->row[3] = row[1] + row[3] / 2;
    c->row[4] = conf;
    memcpy(c->row + 5, row + 5, 10 * sizeof *row);
    c->row[15] = 0;
    c->index = index;
    return true;
}

static int surest_first(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->row[4] != y->row[4])
        return x->row[4] > y->row[4] ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static float overlap(const float *a, const float *b)
{
    float x1 = a[0] > b[0] ? a[0] : b[0], y1 = a[1] > b[1] ? a[1] : b[1];
    float x2 = a[2] < b[2] ? a[2] : b[2], y2 = a[3] < b[3] ? a[3] : b[3];
    float w = x2 > x1 ? x2 - x1 : 0, h = y2 > y1 ? y2 - y1 : 0, both = w * h;
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both);
}

int pick_nms(const float *rows, size_t n, float *ret, size_t max)
{
    size_t n_list = 0, kept = 0;
    struct candidate *list = mem_calloc(n ? n : 1, sizeof *list);
    if (!list)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++)
        n_list += read_row(rows + i * PICK_ROW, i, &list[n_list]);
    qsort(list, n_list, sizeof *list, surest_first);
    for (size_t i = 0; i < n_list && kept < max; i++) {
        bool keep = true;
        for (size_t k = 0; keep && k < kept; k++)
            keep = !(overlap(list[i].row, ret + k * PICK_ROW) > MAX_OVERLAP);
        if (keep)
            memcpy(ret + kept++ * PICK_ROW, list[i].row, sizeof list[i].row);
    }
    mem_free(list);
    return (int)kept;
}

void pick_sort(struct face_box *list, size_t n)
{
    for (size_t i = 1; i < n; i++) { /* a handful of faces: insertion keeps the order of equals */
        struct face_box b = list[i];
        size_t k = i;
        for (; k > 0 && list[k - 1].w * list[k - 1].h < b.w * b.h; k--)
            list[k] = list[k - 1];
        list[k] = b;
    }
}

size_t pick_reference(const struct face_box *list, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (list[i].w * list[i].h > list[0].w * list[0].h)
            best = i;
    return best;
}
