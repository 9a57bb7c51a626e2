#include "worker/media/image_out.h"

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/blob.h"

static int encode(const struct image *im, AVCodecContext *c, AVFrame *f, AVPacket *p)
{
    c->width = f->width = im->width;
    c->height = f->height = im->height;
    c->pix_fmt = AV_PIX_FMT_RGB24;
    f->format = AV_PIX_FMT_RGB24;
    c->time_base = (AVRational){1, 25};
    int rc = avcodec_open2(c, c->codec, NULL);
    if (rc >= 0)
        rc = av_frame_get_buffer(f, 0);
    if (rc < 0)
        return rc;
    for (int y = 0; y < im->height; y++)
        memcpy(f->data[0] + (int64_t)y * f->linesize[0], im->pixels + (int64_t)y * im->width * 3,
               (size_t)im->width * 3);
    if ((rc = avcodec_send_frame(c, f)) >= 0 && (rc = avcodec_send_frame(c, NULL)) >= 0)
        rc = avcodec_receive_packet(c, p);
    return rc;
}

static int write_file(const char *path, const AVPacket *p, struct err *err)
{
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(p->data, 1, (size_t)p->size, f) == (size_t)p->size && fflush(f) == 0 &&
              fsync(fileno(f)) == 0;
    int why = errno;
    if (f && fclose(f) != 0)
        ok = false;
    if (ok)
        return 0;
    return blob_errno(err, why, "write", path);
}

int image_out_png(const struct image *im, const char *path, struct err *err)
{
    const AVCodec *codec = avcodec_find_encoder(AV_CODEC_ID_PNG);
    AVCodecContext *c = codec ? avcodec_alloc_context3(codec) : NULL;
    AVFrame *f = av_frame_alloc();
    AVPacket *p = av_packet_alloc();
    int rc;
    if (!c || !f || !p)
        rc = err_set(err, ERR_NOMEM, "thumbnail: no memory or no PNG encoder");
    else if (encode(im, c, f, p) < 0)
        rc = err_set(err, ERR_INTERNAL, "thumbnail: the PNG encoder failed");
    else
        rc = write_file(path, p, err);
    av_packet_free(&p);
    av_frame_free(&f);
    avcodec_free_context(&c);
    return rc;
}
