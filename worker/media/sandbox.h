/* sandbox.h -- media files decoded in a child process that can do nothing else: a hostile file owns a process
 * without files, network, threads, secrets or time.
 *
 *     int main(int argc, char **argv)
 *     {
 *         if (argc > 1 && strcmp(argv[1], SANDBOX_WORD) == 0)
 *             return sandbox_child_main();      before anything else
 *         ...
 *     rc = sandbox_image(path, true, &im, &err);      as image_in_open: same pixels, same sentences
 *     rc = sandbox_audio(path, &limit, &s, &err);     as audio_in_open
 *
 * The child is this program again (/proc/self/exe, so nothing of the parent's memory is in it) with an empty
 * environment. It waits for one request on a socket: the file and a memory file for the result come as
 * descriptors. Before it looks at the file it gives up: privileges (no_new_privs), descriptors, core dumps,
 * more than 3 GiB of address space and 300 s of CPU time, and, with libseccomp, every system call but those
 * that decoding needs: opening is refused, all others kill it. Under AddressSanitizer, which needs both,
 * there is no address limit and no filter. What it answers is checked like any foreign bytes. The parent
 * waits SANDBOX_SECONDS, then kills it.
 *
 * Starting a program with libav's hundred libraries takes 25 ms, so two children are started ahead, by
 * sandbox_warm and after each request. Overhead over the direct call then, on an AMD EPYC core: 3 ms for the
 * demo's portrait (0.6 ms itself) and 3.3 ms for its speech (6.2 ms); 22 to 28 ms where no child waits yet. A
 * child that waits costs 5 MiB of its own and no CPU time, and ends with its parent.
 */
#ifndef WORKER_MEDIA_SANDBOX_H
#define WORKER_MEDIA_SANDBOX_H

#include <stdbool.h>

#include "common/err.h"
#include "worker/media/audio_in.h"
#include "worker/media/media.h"

#define SANDBOX_WORD "media-child"
#define SANDBOX_SECONDS 120

/* Errors as image_in_open and audio_in_open; further ERR_MEDIA where the decoder crashed, did forbidden
 * things or took too long; ERR_NOMEM where it was killed from outside; ERR_IO, ERR_NOMEM where no child could
 * be started. */
int sandbox_image(const char *path, bool turn, struct image *ret, struct err *err);
int sandbox_image_fd(int fd, bool turn, struct image *ret,
                     struct err *err); /* fd borrowed, its position moves */
int sandbox_audio(const char *path, const struct audio_limit *limit, struct sound *ret, struct err *err);
int sandbox_audio_fd(int fd, const struct audio_limit *limit, struct sound *ret, struct err *err);

void sandbox_warm(void);       /* starts children ahead; failing is no harm */
void sandbox_deadline(int ms); /* instead of SANDBOX_SECONDS, for tests */
bool sandbox_is_filtered(
    void); /* children get the system call filter: built with libseccomp, and the kernel has it */

/* The child: one request, then the end. Returns the exit status. */
int sandbox_child_main(void);
/* What the child does before it looks at a file; for tests of the limits. Returns whether the filter is on.
 */
bool sandbox_child_enter(void);

#endif
