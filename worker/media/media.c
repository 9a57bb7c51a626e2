#include "worker/media/media.h"

#include "common/mem.h"

void image_done(struct image *im)
{
    mem_free(im->pixels);
    *im = (struct image){0};
}

void wave_done(struct wave *w)
{
    mem_free(w->samples);
    *w = (struct wave){0};
}
