/* crash.h -- named places where a test ends the process as a power cut would.
 *
 *     CRASH_POINT(worker_claimed);                    a line where dying must do no harm
 *     CRASH_POINT_IF(step > 0, worker_denoise);
 *
 * In the programs that are installed these lines are nothing at all. Only programs that are compiled with
 * -DTROUPE_CRASH_POINTS (tests/chaos/) have them; there, TROUPE_CRASH_AT=NAME[:N][:stop] in the environment kills
 * the process (SIGKILL; with "stop": SIGSTOP, once) when it comes to point NAME for the N-th time (default 1). A line
 * "crash point NAME" on standard error tells that it got there. A text that is not understood ends the program
 * at once with code 2.
 *
 * PROTOCOL.md, part 6, has the table of what is left behind and who repairs it.
 */
#ifndef COMMON_CRASH_H
#define COMMON_CRASH_H

/* name, where it is */
#define CRASH_MAP(X)                                                                                       \
    X(blob_add, "some bytes of a new file are in its temporary file")                                      \
    X(blob_sync, "all bytes are written, none is sure to be on the disk")                                  \
    X(blob_rename, "the file is on the disk under its temporary name")                                     \
    X(blob_renamed, "it has its name, its folder is not on the disk")                                      \
    X(blob_remove, "the files of a job are gone, their folder is not")                                     \
    X(worker_claim, "before a claim is sent")                                                              \
    X(worker_claimed, "a job was given, nobody renews it")                                                 \
    X(worker_held, "the lease thread knows of the job")                                                    \
    X(worker_inputs, "image and sound are read")                                                           \
    X(worker_stage, "between two stages")                                                                  \
    X(worker_denoise, "between two steps")                                                                 \
    X(worker_frames, "some frames are in the video's temporary file")                                      \
    X(worker_video, "the video is complete under its temporary name")                                      \
    X(worker_video_named, "the video has its name, its report is not there")                               \
    X(worker_computed, "all files are there, the end is not told")                                         \
    X(worker_settle, "before a settle is sent")                                                            \
    X(worker_settled, "the settle was answered")                                                           \
    X(worker_release, "before a release is sent")                                                          \
    X(worker_released, "the release was answered")                                                         \
    X(worker_renewed, "a renewal was answered")                                                            \
    X(worker_reported, "a progress report was answered")                                                   \
    X(worker_hello, "before the worker's entry is sent")                                                   \
    X(worker_expired, "expire was answered, what it names is there")                                       \
    X(worker_forget, "the files of a deleted job are gone, the queue does not know")                       \
    X(worker_bye, "before the worker takes its entry out")                                                 \
    X(dispatcher_upload, "in the middle of a body")                                                        \
    X(dispatcher_body, "the inputs have their names, no job is submitted")                                 \
    X(dispatcher_submit, "before the submit is sent")                                                      \
    X(dispatcher_submitted, "the submit was answered, the client was not")                                 \
    X(dispatcher_replied, "the client's answer is ready, perhaps not on its way")                          \
    X(dispatcher_cancel, "before a cancel is sent")                                                        \
    X(dispatcher_cancelled, "the cancel was answered, the client was not")                                 \
    X(dispatcher_delete, "a job and its files are deleted, the queue does not know")                       \
    X(dispatcher_expire, "before expire is sent")                                                          \
    X(dispatcher_expired, "expire was answered, what it names is there")                                   \
    X(dispatcher_forget, "the files of deleted jobs are gone, the queue does not know")                    \
    X(dispatcher_event, "an event was read, nobody was told")                                              \
    X(dispatcher_frame, "in the middle of a stream of events")                                             \
    X(webhook_taken, "deliveries were taken, none is sent")                                                \
    X(webhook_sent, "the receiver has answered, nobody knows")                                             \
    X(webhook_told, "the end of a delivery was reported")

#ifdef TROUPE_CRASH_POINTS
enum crash_name {
#define X(name, where) CRASH_##name,
    CRASH_MAP(X)
#undef X
};

void crash_point(enum crash_name name);

#define CRASH_POINT(name) crash_point(CRASH_##name)
#define CRASH_POINT_IF(condition, name)                                                                    \
    do {                                                                                                   \
        if (condition)                                                                                     \
            CRASH_POINT(name);                                                                             \
    } while (0)
#else
#define CRASH_POINT(name) ((void)0)
#define CRASH_POINT_IF(condition, name) ((void)0)
#endif

#endif
