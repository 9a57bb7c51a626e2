#include "worker/media/media.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

int media_open(const char *what, const char *path, int *ret_fd, struct err *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not keep us waiting */
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s: %s", what, path,
                       strerror(errno));
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        *ret_fd = fd;
        return 0;
    }
    close(fd);
    return err_set(err, ERR_MEDIA, "%s: %s is not a regular file", what, path);
}
