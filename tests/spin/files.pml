/* files.pml -- records and files: publish, settle, retry, delete, forget (common/PROTOCOL.md part 6). queue.pml has the rest.
 *
 * One job, two workers, a forgetter (whoever calls expire and removes what is due), a client that may delete, one that may retry
 * what failed. A result is a file named by its attempt, published before the settle. Anyone may die or be stopped between
 * two steps. The record goes first: `delete` (expire, of what is due) takes it out of reach of retry in one step and makes
 * the job trash; the files go after it, and `forgot` tells. What a death between the two leaves is seen to by expire a minute
 * later; and once more an hour later, when no worker can be alive that did not know of the deletion.
 */
#ifndef FAULTS
#define FAULTS 3
#endif
#ifndef RETRIES
#define RETRIES 2
#endif
#define ATTEMPTS_MAX (RETRIES + FAULTS + 1)

#define ABSENT 0
#define QUEUED 1
#define RUNNING 2
#define DONE 3
#define FAILED 4
#define NONE 0

byte state = QUEUED, attempt, result;
bit due;            /* its time to live is over */
byte files;         /* one bit an attempt */
byte w_attempt[2];  /* 0: idle */
byte w_at[2];       /* COMPUTES, PUBLISHED, CLEANS */
#define COMPUTES 0
#define PUBLISHED 1
#define CLEANS 2
byte forgetter;     /* 0 idle, 1 knows that the job is due, 2 goes on */
byte client;        /* the same, of a DELETE */
bit wanted;         /* a client asked for the deletion */
byte trash;         /* 1: the files are to go, 2: looked at once more an hour later */
byte retries = RETRIES, faults = FAULTS;

hidden byte a_result_has_its_files, only_the_due_is_forgotten, no_files_without_a_job, every_job_ends;
#define MUST(name, what) assert(name || (what))
#define FINAL (state >= DONE)
#define FILE(a) (1 << (a))

inline check()
{
    MUST(a_result_has_its_files, state != DONE || due || wanted || (files & FILE(result)))
}

inline finish(s)
{
    state = s;
    due = 0;
    result = (s == DONE -> attempt : 0)
}

/* the function delete */
inline q_delete(by_client)
{
    if
    :: !FINAL -> skip
#ifdef FORGETS_WHAT_IS_NOT_DUE
    :: FINAL ->
#else
    :: FINAL && !by_client && !due -> skip
    :: FINAL && (by_client || due) ->
#endif
        MUST(only_the_due_is_forgotten, by_client || due);
        state = ABSENT;
        result = 0;
        trash = 1
    fi
}

#define WORKER(w)                                                                                             \
    :: d_step { w_attempt[w] == 0 && state == QUEUED -> state = RUNNING; attempt++; w_attempt[w] = attempt; w_at[w] = COMPUTES } \
    :: d_step { w_attempt[w] && w_at[w] == COMPUTES -> files = files | FILE(w_attempt[w]); w_at[w] = PUBLISHED } \
    :: d_step { w_attempt[w] && w_at[w] == COMPUTES -> settle(w, FAILED) }                                    \
    :: d_step { w_attempt[w] && w_at[w] == PUBLISHED -> settle(w, DONE) }                                     \
    :: d_step { w_attempt[w] && w_at[w] == CLEANS -> files = 0; w_attempt[w] = 0; w_at[w] = 0; check() }      \
    :: d_step { w_attempt[w] && faults > 0 -> faults--; w_attempt[w] = 0; w_at[w] = 0 }

/* LOST: the files stay with the job, an ok result is kept as late. NOTFOUND: they are nobody's. */
inline settle(w, s)
{
    if
    :: state == RUNNING && attempt == w_attempt[w] -> finish(s); w_attempt[w] = 0; w_at[w] = 0
    :: state == ABSENT -> w_at[w] = CLEANS
    :: else -> w_attempt[w] = 0; w_at[w] = 0
    fi;
    check()
}

/* who removes: sees that it may, then the two steps in their order */
#ifdef FILES_FIRST
#define STEP_1(c) files = 0
#define STEP_2(c) q_delete(c); if :: state == ABSENT -> q_forgot() :: else fi
#else
#define STEP_1(c) q_delete(c)
#define STEP_2(c) if :: state == ABSENT -> files = 0; q_forgot() :: else fi
#endif

inline q_forgot()
{
    trash = (trash == 1 -> 2 : trash)
}

active proctype world()
{
end:
    do
    WORKER(0)
    WORKER(1)
    :: d_step { state == RUNNING && faults > 0 -> faults--; state = QUEUED }    /* the lease is over */
    :: d_step { state == RUNNING && faults > 0 -> faults--; finish(FAILED); check() } /* cancelled, and not obeyed in time */
    :: d_step { state == RUNNING && w_attempt[0] != attempt && w_attempt[1] != attempt -> state = QUEUED } /* so too: a death */
    :: d_step { FINAL && !due -> due = 1 }
    :: d_step { state == FAILED && retries > 0 -> retries--; state = QUEUED; due = 0 }
    /* the forgetter */
    :: d_step { forgetter == 0 && FINAL && due -> forgetter = 1 }
    :: d_step { forgetter == 1 -> STEP_1(false); forgetter = 2; check() }
    :: d_step { forgetter == 2 -> STEP_2(false); forgetter = 0; check() }
    :: d_step { forgetter > 0 && faults > 0 -> faults--; forgetter = 0 }
    /* the client */
    :: d_step { client == 0 && FINAL && !wanted -> client = 1; wanted = 1 }
    :: d_step { client == 1 -> STEP_1(true); client = 2; check() }
    :: d_step { client == 2 -> STEP_2(true); client = 3; check() }
    :: d_step { client > 0 && client < 3 && faults > 0 -> faults--; client = 3 }
    /* expire names the trash to somebody: a minute later, an hour later */
#ifndef NO_TRASH
    :: d_step { trash == 1 -> files = 0; q_forgot() }
#endif
#ifndef NO_SECOND_LOOK
    :: d_step { trash == 2 && w_attempt[0] == 0 && w_attempt[1] == 0 -> files = 0; trash = 0 }
#endif
    :: timeout -> MUST(no_files_without_a_job, state != ABSENT || files == 0); MUST(every_job_ends, FINAL || state == ABSENT); break
    od
}
