#include "worker/face/face.h"

#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/face/cascade.h"
#include "worker/face/detector.h"

extern const unsigned char face_cascade_xml[]; /* lbpcascade_frontalface.xml, embedded by the build */
extern const size_t face_cascade_xml_len;

#define NEIGHBOURS 4

struct face_finder {
    struct detector *detector; /* owned; one of the two */
    struct cascade *cascade;   /* owned */
};

void face_finder_close(struct face_finder *f)
{
    if (!f)
        return;
    detector_close(f->detector);
    cascade_close(f->cascade);
    mem_free(f);
}

int face_finder_open(struct face_finder **ret, const char *ckpts, struct device *device, struct err *err)
{
    int rc;
    char path[4096];
    struct face_finder *f = mem_zalloc(sizeof *f);
    if (!f)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (ckpts && str_path(path, sizeof path, ckpts, "det_align/detface.pt") == 0 && access(path, F_OK) == 0)
        rc = detector_open(&f->detector, path, device, err);
    else
        rc = cascade_open(&f->cascade, (const char *)face_cascade_xml, face_cascade_xml_len, err);
    if (rc < 0) {
        face_finder_close(f);
        return rc;
    }
    *ret = f;
    return 0;
}

const char *face_finder_name(const struct face_finder *f)
{
    return f->detector ? "detface.pt" : "cascade";
}

static int find_cascade(const struct face_finder *f, const struct image *im, struct face_box *list,
                        struct err *err)
{
    struct cascade_box found[FACE_MAX];
    int short_side = im->width < im->height ? im->width : im->height;
    size_t n_pixels = (size_t)im->width * (size_t)im->height;
    uint8_t *grey = mem_alloc(n_pixels);
    if (!grey)
        return err_set(err, ERR_NOMEM, "face cascade: out of memory");
    cascade_grey(im->pixels, grey, n_pixels);
    int n = cascade_find(f->cascade, grey, im->width, im->height, short_side / 8 > 24 ? short_side / 8 : 24,
                         NEIGHBOURS, found, FACE_MAX);
    mem_free(grey);
    for (int i = 0; i < n; i++)
        list[i] = (struct face_box){(float)found[i].x, (float)found[i].y, (float)found[i].w,
                                    (float)found[i].h, (float)found[i].hits};
    return n < 0 ? err_set(err, n, "face cascade: out of memory") : n;
}

static bool touches(const struct face_box *b, const struct image *im)
{
    return b->w > 0 && b->h > 0 && b->x < (float)im->width && b->y < (float)im->height && b->x + b->w > 0 &&
           b->y + b->h > 0;
}

void face_plan(struct face_finder *f, struct run *r, int width, int height)
{
    float *rows = NULL;
    struct err err = {0};
    size_t n;
    int w, h;
    if (!f->detector)
        return;
    detector_size(width, height, &w, &h);
    if (detector_rows(f->detector, r, NULL, w, h, &rows, &n, &err) < 0)
        run_fail(r, err.code, "%s", err.text);
    mem_free(rows);
}

int face_find(struct face_finder *f, struct run *r, const struct image *sized, struct face_list *ret,
              struct err *err)
{
    size_t kept = 0;
    struct face_box *list = mem_calloc(DETECTOR_MAX, sizeof *list);
    if (!list)
        return err_set(err, ERR_NOMEM, "out of memory");
    int n = f->detector
                ? detector_find(f->detector, r, sized->pixels, sized->width, sized->height, list, NULL, err)
                : find_cascade(f, sized, list, err);
    for (int i = 0; i < n; i++)
        if (touches(&list[i], sized))
            list[kept++] = list[i];
    if (n >= 0) {
        pick_sort(list, kept);
        ret->n = (int)(kept < FACE_MAX ? kept : FACE_MAX);
        memcpy(ret->box, list, (size_t)ret->n * sizeof *list);
    }
    mem_free(list);
    return n < 0 ? n : 0;
}
