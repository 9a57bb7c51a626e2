/* comm.h -- several ranks work on one forward: what they say to each other, over which carrier.
 *
 * A carrier moves bytes (comm_threads.c: ranks are threads of one process; comm_sockets.c: processes, over TCP or Unix
 * sockets). What a network calls is below: op-like, its errors stick to the run, so that a forward stays a list of calls.
 *
 *     struct comm *ends[2];
 *     if ((rc = comm_threads_open(ends, 2, 60 * CLOCK_S, &err)) < 0) ...
 *     struct comm_group g;                                   in each rank's thread:
 *     rc = comm_group_init(&g, ends[i], i, &(struct comm_degrees){.tokens = 2}, &err);
 *     run.group = &g;
 *     comm_all_gather(&run, &g.tokens, dst, counts, src);
 *     comm_close(ends[i]);
 *
 * All ranks of a set make the same calls in the same order, with counts that agree; a length that does not is an error of
 * all. There is no barrier beyond what the data need: a rank waits for those it gets something from and for those that
 * take something from it.
 *
 * Failure: a rank whose run has failed says so at its next call, or when it closes; whoever waits for it returns at once,
 * with its code and sentence. A rank that died is ERR_IO ("rank 2 is gone"), a wait beyond the deadline ERR_TIMEOUT. After
 * that the connection is of no use: all close, and the job is tried again by a new group.
 *
 * While planning (run.table NULL) nothing is sent and comm may be NULL: run.traffic counts the bytes that this rank sends to
 * others.
 */
#ifndef KERNELS_COMM_COMM_H
#define KERNELS_COMM_COMM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "kernels/run.h"

enum { COMM_MAX = 64 }; /* ranks */

struct comm;

/* The ranks of one exchange, in order; me is this rank's place among them. */
struct comm_set {
    int n, me;
    short rank[COMM_MAX];
};

struct comm_piece {
    void *data;
    size_t bytes; /* 0: nothing is said */
};

struct comm_carrier {
    const char *name;
    bool on_device; /* takes the device's memory; otherwise pieces are host memory */
    /* out[i] goes to, in[i] comes from rank s->rank[i]; s->me's own is copied already where on_device is false. Returns when
     * all of both is done: buffers are free again, also after a failure. On a device it is in order with the ops instead, and
     * what failed may be seen later: what is read from the device is a result if check says so afterwards (run_read asks). */
    int (*exchange)(struct comm *c, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in,
                    struct err *err);
    /* The same for a few bytes of host memory, where exchange takes the device's; NULL: exchange does. */
    int (*agree)(struct comm *c, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in,
                 struct err *err);
    /* Whether every other rank is still there: 0, or why not. Does not wait; any thread. */
    int (*check)(struct comm *c, struct err *err);
    void (*abort)(struct comm *c, int code, const char *why);
    void (*close)(struct comm *c);
};

struct comm {
    const struct comm_carrier *carrier;
    int rank, size;
    int64_t deadline_us; /* of one exchange */
};

/* ---- carriers ------------------------------------------------------------------------------------------------------- */

/* size ends, ret[i] for the thread that is rank i. What they share goes with the last one closed. */
int comm_threads_open(struct comm **ret, int size, int64_t deadline_us, struct err *err);

/* Every rank listens at its own address ("unix:PATH" or "tcp:1.2.3.4:5000"), connects to those before it and is called by
 * those behind it; all must have come before the deadline. token tells groups apart that meet at one address. */
int comm_sockets_open(struct comm **ret, int rank, int size, const char *const *address, uint64_t token, int64_t deadline_us,
                      struct err *err);
/* The same over stream sockets that are connected already: fd[i] leads to rank i. They are closed with the comm, also when
 * this fails. */
int comm_sockets_adopt(struct comm **ret, int rank, int size, const int *fd, int64_t deadline_us, struct err *err);

/* The others' pending and later exchanges with this rank end with that code. */
void comm_abort(struct comm *c, int code, const char *why);
void comm_close(struct comm *c); /* NULL is fine */
/* A few bytes of host memory of rank root, at every rank; without a run. */
int comm_share(struct comm *c, int root, void *data, size_t bytes, struct err *err);
/* The same of every rank: all holds bytes a rank, in order, the own ones filled in. */
int comm_tell(struct comm *c, void *all, size_t bytes, struct err *err);

/* ---- the group ------------------------------------------------------------------------------------------------------ */

/* How the ranks share the work; the product is their number, 0 counts as 1. */
struct comm_degrees {
    int tokens;  /* parts of a window's tokens and of the attention heads (Ulysses) */
    int pair;    /* 2: the guidance rows on two halves */
    int windows; /* windows of a long video at the same time */
};

struct comm_group {
    struct comm *comm; /* borrowed; NULL: planning */
    int rank, size;
    struct comm_set all, tokens, pair, windows; /* those this rank talks to, by what is shared */
    const atomic_int *cancel; /* borrowed, may be NULL: this rank's wish to stop; see comm_agree_cancel */
};

/* The innermost is tokens, then pair, then windows. c may be NULL (planning). */
int comm_group_init(struct comm_group *ret, struct comm *c, int rank, const struct comm_degrees *d, struct err *err);

/* Part i of total things in n parts whose sizes differ by one at most, larger ones first: where it begins, how many. */
int64_t comm_part_at(int64_t total, int n, int i);
int64_t comm_part(int64_t total, int n, int i);

/* ---- operations ----------------------------------------------------------------------------------------------------- */

/* src: n_src[0] elements for place 0 of the set, then n_src[1] for place 1, ...; dst: n_dst[0] from place 0, ... The own part
 * is copied. Both contiguous, of one dtype; sums of counts are the tensors' counts. */
void comm_all_to_all(struct run *r, const struct comm_set *s, struct tensor dst, const int64_t *n_dst, struct tensor src,
                     const int64_t *n_src);
/* dst at every rank: src of all, in order; n[i] elements from place i. */
void comm_all_gather(struct run *r, const struct comm_set *s, struct tensor dst, const int64_t *n, struct tensor src);
/* The same at place root alone; dst is not read elsewhere (none will do). */
void comm_gather(struct run *r, const struct comm_set *s, int root, struct tensor dst, const int64_t *n, struct tensor src);
/* t of place root at every rank. */
void comm_broadcast(struct run *r, const struct comm_set *s, int root, struct tensor t);
/* The largest of all ranks' values, the same at each; the own one while planning or when the run has failed. */
int comm_agree(struct run *r, const struct comm_set *s, int value);
/* Whether any rank of run.group wants to stop: then all of them fail with ERR_CANCEL at this same place. In a group run.cancel
 * stays NULL, so that no rank stops alone between two exchanges. */
void comm_agree_cancel(struct run *r);

#endif
