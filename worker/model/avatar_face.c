#include "worker/model/avatar_face.h"

#include <math.h>

#include "worker/face/face.h"
#include "worker/face/mask.h"

/* The request's box, given in pixels of the picture as opened, in the sized one. */
static struct face_box avatar_face_asked(const struct avatar_input *in)
{
    const struct avatar_request *q = in->q;
    double x = (double)in->width / q->image.width, y = (double)in->height / q->image.height;

    return (struct face_box){.x = (float)(q->box[0] * x),
                             .y = (float)(q->box[1] * y),
                             .w = (float)(q->box[2] * x),
                             .h = (float)(q->box[3] * y),
                             .score = 1};
}

static void avatar_face_whole(struct avatar_face_choice *f, const struct avatar_input *in)
{
    *f = (struct avatar_face_choice){.box = {-1, -1, -1, -1}, .rect = {0, 0, in->width, in->height}};
}

static int avatar_face_clamp(double v, int max)
{
    return v < 0 ? 0 : v > max ? max : (int)v;
}

static void avatar_face_take(struct avatar_face_choice *f, const struct face_box *b,
                             const struct avatar_input *in)
{
    f->box[0] = avatar_face_clamp(floor((double)b->x), in->width);
    f->box[1] = avatar_face_clamp(floor((double)b->y), in->height);
    f->box[2] = avatar_face_clamp(ceil((double)b->x + (double)b->w), in->width);
    f->box[3] = avatar_face_clamp(ceil((double)b->y + (double)b->h), in->height);
    mask_rect((double)b->x, (double)b->y, (double)b->w, (double)b->h, MASK_AREA, in->width, in->height,
              f->rect);
}

int avatar_face_find(struct avatar_face_choice *ret, struct face_finder *finder, struct run *r,
                     const struct avatar_input *in, const struct avatar_hooks *hooks, struct err *err)
{
    const struct avatar_request *q = in->q;
    struct face_box asked = avatar_face_asked(in);
    struct face_list list = {.n = 0};
    int rc, index = q->face == AVATAR_FACE_INDEX ? q->face_index : 0;

    avatar_face_whole(ret, in);
    if (q->face == AVATAR_FACE_NONE)
        return 0;
    if (q->face == AVATAR_FACE_BOX) {
        avatar_face_take(ret, &asked, in);
        return 0;
    }
    if ((rc = face_find(finder, r, &in->sized, &list, err)) < 0)
        return rc;
    if (index < list.n) {
        avatar_face_take(ret, &list.box[index], in);
        return 0;
    }
    if (q->face_required || q->face == AVATAR_FACE_INDEX)
        return err_set(err, ERR_INVALID,
                       "face: %d face%s found in the image, face %d is asked for (0 is the largest): give a "
                       "box x,y,w,h, or auto",
                       list.n, list.n == 1 ? " was" : "s were", index);
    avatar_input_warn(hooks, "image: no face was found, the sound may move the whole picture");
    return 0;
}
