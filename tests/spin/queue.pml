/* queue.pml -- the queue's protocol (common/PROTOCOL.md parts 1, 3 and 6) for an exhaustive search by spin.
 *
 * Who is who:
 *   client j  submits job j under its idempotency key until it hears an answer; may then cancel it until it hears; waits for
 *             the end. A dispatcher is the wire between client and Redis: one that dies is an answer that was lost.
 *   worker w  claims under a token until it hears an answer, computes, says the end of the attempt until it is heard. It may
 *             die, or be stopped for any time, between two steps; what comes back has the same name and remembers nothing.
 *   timer     the function expire, whoever calls it. There is no time here: a lease may run out at any moment (so a worker
 *             that is called dead may be alive, stopped, or slow), and so may a deadline and the wait before a retry.
 *   wire      requests that their sender gave up and said again; each is executed later, or never (a newer one takes its
 *             place). So an answer is lost: the request was executed from here. An answer that comes twice is dropped by the
 *             connection (RESP pairs by order, and a timeout closes it), so it needs no place.
 *
 * A function of common/queue*.lua is one indivisible step, here as there:
 *   submit, idem_lookup -> q_submit()     cancel, cancel_one -> q_cancel()
 *   claim, held_before, next_job, begin -> q_claim()
 *   settle, end_attempt, verdict, settle_ok, settle_retry, keep_late -> q_settle()      release -> q_release()
 *   orphan -> lease_over()     delayed_due -> retry_due()     clock_due -> clock_over()
 *   enqueue, requeue, finish, finish_stopped -> the same names
 *   leave, leave_running -> leave_all()     free_workers -> free_worker()
 * worker/claim.c: claim_one -> CLAIMS, run_job -> ENDS, settle_job and release_job -> SAYS. renew and progress change
 * nothing but the lease's time; what they tell (a stop, a lost job) is the guard of the step that follows.
 *
 * Not here: order and shares (any waiting job may be next: more than the real lines allow), wake tokens (a worker claims
 * every second without them), tenants, and what differs by time alone.
 *
 * A copy of a claim that arrives after the answer to a later claim of the same worker takes a job for nobody, and hides the
 * later one: two jobs wait for a lease and count a death. NET=2 with two jobs shows it (same_claim_same_job);
 * nothing is lost.
 *
 * What must hold has a name, which a failed search prints: MUST, check(). Sizes and the broken variants (#ifdef of a word in
 * capitals that run.py names) come from run.py.
 *
 * To keep the search small, what nobody can read any more is put to one value, and jobs and workers, which are all alike,
 * are put in order (tidy(), -DPLAIN leaves the order alone and makes a trail easier to read).
 */
#ifndef JOBS
#define JOBS 2
#endif
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef NET
#define NET 1
#endif
#ifndef FAILS_MAX
#define FAILS_MAX 2
#endif
#ifndef DEATHS_MAX
#define DEATHS_MAX 2
#endif
#ifndef RELEASES
#define RELEASES 1 /* of a job; with more and more of them its attempts have no end */
#endif
#define ATTEMPTS (FAILS_MAX + DEATHS_MAX - 1 + RELEASES)

/* states; from DONE on they are final */
#define ABSENT 0
#define QUEUED 1
#define DELAYED 2
#define RUNNING 3
#define DONE 4
#define FAILED 5
#define CANCELLED 6
#define TIMED_OUT 7
#define FINAL(s) ((s) >= DONE)

/* sorted sets */
#define WAIT 1
#define LEASE 2
#define DELAY 4
#define CLOCK 8
#define ENDED 16
#define SET_OF(s) (s == QUEUED -> WAIT : (s == DELAYED -> DELAY : (s == RUNNING -> LEASE : (s == ABSENT -> 0 : ENDED))))

/* requests on the wire; an END has its verdict in arg, a CLAIM its token */
#define SUBMIT 1
#define CANCEL 2
#define CLAIM 3
#define END 4

/* verdicts; 0: none */
#define V_OK 1
#define V_RETRY 2
#define V_FAIL 3
#define V_STOP 4
#define V_RELEASE 5

/* what the client is at */
#define SENDING 0
#define DECIDING 1
#define WAITING 2
#define GONE 3

#define R_OK 1
#define R_NO 2 /* LOST or CONFLICT */

#define NONE 3 /* no job, no worker */

typedef Job {
    /* Redis */
    unsigned state : 3;
    unsigned sets : 5;
    unsigned attempt : 3;
    unsigned fails : 2;
    unsigned deaths : 2;
    unsigned stop : 2;    /* 1: cancel, 2: deadline */
    unsigned by : 2;      /* while RUNNING */
    unsigned claim : 2;   /* its token (kept beside entry), as long as anybody may send it again */
    unsigned verdict : 3; /* of this attempt, as long as anybody may say it again */
    unsigned result : 3;  /* the attempt whose files are shown */
    unsigned key : 1;     /* {q}:idem:<key> is there */
    /* its client */
    unsigned client : 2;
    unsigned told : 1;     /* heard that the cancel is accepted */
    /* witnesses: written when something happens, read by properties only */
    unsigned accepted : 1; /* a client heard OK */
    unsigned asked : 1;    /* to stop, before its end */
    unsigned twice : 1;    /* a second job was made for its key */
    unsigned released : 2;
};
Job job[JOBS];

typedef Worker {
    unsigned about : 2;   /* its job; NONE: idle */
    unsigned attempt : 3; /* of it; 0: one that is over */
    unsigned verdict : 3; /* which it says; 0: it computes */
    unsigned token : 2;   /* of a claim without an answer; 0: none */
    unsigned entry : 2;   /* Redis: {q}:worker:<name> job */
};
Worker worker[WORKERS];

typedef Request {
    unsigned op : 3;
    unsigned from : 2;
    unsigned about : 2;
    unsigned attempt : 3;
    unsigned arg : 3;
};
Request wire[NET];

#ifdef FAULTS
byte faults = FAULTS; /* so often something may yet go wrong */
#define MAY_FAIL (faults > 0)
#define FAULT faults--
#else
#define MAY_FAIL true
#define FAULT skip
#endif

/* What must hold. The names are zeros: they are there to be printed. */
hidden byte accepted_is_kept, in_one_set, one_job_per_key, one_result, cancel_is_final, only_the_owner_writes,
    same_claim_same_job, attempts_have_an_end, a_stop_has_a_deadline, a_heard_end_is_kept, every_job_ends;
#ifdef LIVE /* then by the formula below alone */
#define MUST(name, what) skip
#else
#define MUST(name, what) assert(name || (what))
#endif

/* of the step in work */
hidden byte r, got, pick, i, k, held, x_from, x_about, x_attempt, x_arg;

#define STOPPED(j) (job[j].stop != 0)

inline check(j)
{
    MUST(one_job_per_key, !job[j].twice);
    MUST(in_one_set, (job[j].sets & ~CLOCK) == SET_OF(job[j].state));
    MUST(accepted_is_kept, !job[j].accepted || job[j].state != ABSENT);
    MUST(one_result, (job[j].result != 0) == (job[j].state == DONE));
    MUST(cancel_is_final, !job[j].asked || job[j].state == RUNNING || job[j].state >= FAILED);
    MUST(a_stop_has_a_deadline, job[j].state != RUNNING || !STOPPED(j) || (job[j].sets & CLOCK));
    MUST(attempts_have_an_end, job[j].attempt <= ATTEMPTS)
}

/* ---- the library's helpers ---- */

inline leave_all(j)
{
    job[j].sets = 0;
    job[j].by = NONE; /* these two are read of a RUNNING job only */
    job[j].claim = 0
}

inline free_worker(j)
{
    if
#ifdef FREES_ANY
    :: job[j].by != NONE -> worker[job[j].by].entry = NONE
#else
    :: job[j].by != NONE && worker[job[j].by].entry == j -> worker[job[j].by].entry = NONE
#endif
    :: else
    fi
}

inline enqueue(j)
{
    job[j].sets = job[j].sets | WAIT;
    job[j].state = QUEUED
}

inline requeue(j)
{
    leave_all(j);
    enqueue(j)
}

inline finish(j, s)
{
    leave_all(j);
    job[j].state = s;
    job[j].sets = ENDED
}

inline finish_stopped(j)
{
    if
    :: job[j].stop == 2 -> finish(j, TIMED_OUT)
    :: else -> finish(j, CANCELLED)
    fi
}

/* ---- functions that clients call ---- */

inline q_submit(j)
{
    if
#ifndef NO_IDEM
    :: job[j].key && job[j].state != ABSENT /* the first answer again */
#endif
    :: else ->
        job[j].twice = job[j].key;
        job[j].key = 1;
#ifdef START_DEADLINE
        job[j].sets = CLOCK;
#endif
        enqueue(j)
    fi;
    check(j)
}

inline q_cancel(j)
{
    r = R_OK;
    if
    :: job[j].state == CANCELLED
    :: FINAL(job[j].state) && job[j].state != CANCELLED -> r = R_NO
    :: job[j].state == RUNNING ->
        job[j].asked = 1;
        if
        :: !STOPPED(j) ->
            job[j].stop = 1;
#ifndef NO_OBEY_CLOCK
            job[j].sets = job[j].sets | CLOCK
#endif
        :: else
        fi
    :: else ->
        job[j].asked = 1;
        finish(j, CANCELLED)
    fi;
    check(j)
}

/* ---- functions that workers call ---- */

#define HELD(j, w, t) (job[j].state == RUNNING && job[j].by == w && job[j].claim == t)
#if JOBS == 1
#define HOLDS(w, t) HELD(0, w, t)
#define SOME_WAIT (job[0].sets & WAIT)
#else
#define HOLDS(w, t) (HELD(0, w, t) || HELD(1, w, t))
#define SOME_WAIT ((job[0].sets | job[1].sets) & WAIT)
#endif

/* w claims under token t; pick: a waiting job, or NONE. -> got: the job, or NONE. live: w waits for this very answer. */
inline q_claim(w, t, live)
{
    got = NONE;
#ifndef NO_TOKEN
    got = worker[w].entry;
    if
    :: got != NONE ->
        if
        :: !HELD(got, w, t) -> got = NONE
        :: else
        fi
    :: else
    fi;
#endif
    if
    :: got == NONE && pick != NONE ->
        MUST(same_claim_same_job, !(live) || !HOLDS(w, t));
        got = pick;
        leave_all(got);
        job[got].state = RUNNING;
        job[got].sets = LEASE;
#ifdef RUN_DEADLINE
        job[got].sets = LEASE | CLOCK;
#endif
        job[got].attempt = job[got].attempt + 1;
        job[got].by = w;
        job[got].claim = t;
        job[got].verdict = 0;
        worker[w].entry = got;
        check(got)
    :: else
    fi
}

#ifdef NO_FENCE
#define OWNED(j, a) (job[j].state == RUNNING)
#else
#define OWNED(j, a) (job[j].state == RUNNING && job[j].attempt == a)
#endif
#ifdef NO_REPEAT
#define SAID_BEFORE(j, a, v) false
#else
#define SAID_BEFORE(j, a, v) (job[j].attempt == a && job[j].verdict == v)
#endif

inline settle_retry(j)
{
    job[j].fails = job[j].fails + 1;
    if
#ifndef FAILS_FORGOTTEN
    :: job[j].fails >= FAILS_MAX -> finish(j, FAILED)
#endif
    :: else ->
        leave_all(j);
        job[j].sets = DELAY;
        job[j].state = DELAYED
    fi
}

inline settle_ok(j)
{
    MUST(one_result, job[j].result == 0);
    job[j].result = job[j].attempt;
    finish(j, DONE)
}

inline q_release(j)
{
    job[j].released = job[j].released + 1;
    if
#ifndef NO_STOP_AT_RELEASE
    :: STOPPED(j) -> finish_stopped(j)
#endif
    :: else -> requeue(j)
    fi
}

/* The end of attempt a of job j, release included. */
inline q_settle(j, a, v)
{
    if
    :: OWNED(j, a) ->
        MUST(only_the_owner_writes, job[j].attempt == a);
        job[j].verdict = v;
        free_worker(j);
        r = R_OK;
        if
        :: v == V_RELEASE -> q_release(j)
#ifdef CANCEL_LOSES
        :: v == V_OK -> settle_ok(j)
        :: v != V_RELEASE && v != V_OK && (STOPPED(j) || v == V_STOP) -> finish_stopped(j)
#else
        :: v == V_OK && !STOPPED(j) -> settle_ok(j)
        :: v != V_RELEASE && (STOPPED(j) || v == V_STOP) -> finish_stopped(j)
#endif
        :: v == V_RETRY && !STOPPED(j) -> settle_retry(j)
        :: v == V_FAIL && !STOPPED(j) -> finish(j, FAILED)
        fi
    :: !OWNED(j, a) && SAID_BEFORE(j, a, v) -> r = R_OK
    :: else ->
        r = R_NO; /* an ok result is kept as late now: it must be another than the one that is shown */
        MUST(a_heard_end_is_kept, v != V_OK || job[j].result != a || a == 0)
    fi;
    check(j)
}

/* ---- the timer ---- */

inline lease_over(j)
{
    free_worker(j);
    job[j].deaths = job[j].deaths + 1;
    if
    :: STOPPED(j) -> finish_stopped(j)
#ifndef DEATHS_FORGOTTEN
    :: !STOPPED(j) && job[j].deaths >= DEATHS_MAX -> finish(j, FAILED)
#endif
    :: else ->
#ifdef EXPIRE_FORGETS
        leave_all(j)
#else
        requeue(j)
#endif
    fi;
    check(j)
}

inline retry_due(j)
{
    requeue(j);
    check(j)
}

inline clock_over(j)
{
    job[j].sets = job[j].sets & ~CLOCK;
    if
    :: job[j].state == RUNNING && STOPPED(j) ->
        free_worker(j);
        finish_stopped(j)
    :: job[j].state == RUNNING && !STOPPED(j) ->
        job[j].stop = 2;
        job[j].asked = 1;
        job[j].sets = job[j].sets | CLOCK
    :: else -> /* waits, and did not start; what has started has left the clock */
        job[j].asked = 1;
        finish(j, TIMED_OUT)
    fi;
    check(j)
}

/* ---- after every step ---- */

#if NET == 1
#define ON_WIRE(w, t) (wire[0].op == CLAIM && wire[0].from == w && wire[0].arg == t)
#else
#define ON_WIRE(w, t) ((wire[0].op == CLAIM && wire[0].from == w && wire[0].arg == t) || \
                       (wire[1].op == CLAIM && wire[1].from == w && wire[1].arg == t))
#endif

/* Who still speaks of this attempt of job i? Older attempts are all one: 0. */
inline tidy_holders()
{
    held = 0;
    for (k : 0 .. WORKERS - 1) {
        if
        :: worker[k].about == i && worker[k].attempt == job[i].attempt -> held = 1
        :: worker[k].about == i && worker[k].attempt != job[i].attempt ->
            worker[k].attempt = 0;
            if
            :: worker[k].verdict != 0 -> worker[k].verdict = V_OK
            :: else
            fi
        :: else
        fi
    }
    for (k : 0 .. NET - 1) {
        if
        :: wire[k].op == END && wire[k].about == i && wire[k].attempt == job[i].attempt -> held = 1
        :: wire[k].op == END && wire[k].about == i && wire[k].attempt != job[i].attempt ->
            wire[k].attempt = 0;
            wire[k].arg = V_OK
        :: else
        fi
    }
}

/* A job that has ended is never claimed again: its attempt is the only one, its counts are read no more. */
inline tidy_ended()
{
    for (k : 0 .. WORKERS - 1) {
        if
        :: worker[k].about == i && worker[k].attempt != 0 -> worker[k].attempt = 1
        :: else
        fi
    }
    for (k : 0 .. NET - 1) {
        if
        :: wire[k].op == END && wire[k].about == i && wire[k].attempt != 0 -> wire[k].attempt = 1
        :: else
        fi
    }
    if
    :: job[i].result != 0 -> job[i].result = 1
    :: else
    fi;
    job[i].attempt = 1;
    job[i].fails = 0;
    job[i].deaths = 0;
    job[i].released = 0;
    job[i].stop = 0;
    job[i].asked = 0;
    if
    :: job[i].client == DECIDING || job[i].client == WAITING ->
        MUST(cancel_is_final, !job[i].told || job[i].state != DONE);
        job[i].client = GONE;
        job[i].told = 0
    :: else
    fi
}

inline tidy()
{
    for (i : 0 .. JOBS - 1) {
        tidy_holders();
        if
        :: !held -> job[i].verdict = 0
        :: else
        fi;
        if
        :: FINAL(job[i].state) -> tidy_ended()
        :: else
        fi;
        if
        :: job[i].claim != 0 && worker[job[i].by].token != job[i].claim && !ON_WIRE(job[i].by, job[i].claim) ->
            job[i].claim = 0
        :: else
        fi
    }
    i = 0; k = 0; held = 0; r = 0; got = 0; pick = 0
#ifndef PLAIN
    ;
    c_code { in_order(); }
#endif
}

#ifndef PLAIN
c_decl {
    \#include <string.h>
}
c_code {
    /* Exchanges the two jobs, or the two workers, when they stand in the other order; who points to them follows. */
    #define OTHER(x) ((x) < 2 ? 1 - (x) : (x))
    static void jobs_in_order(void)
    {
        struct Job t = now.job[0];
        int n;
        unsigned a = now.job[0].state * 8 + now.job[0].attempt * 4 + now.job[0].client;
        unsigned b = now.job[JOBS - 1].state * 8 + now.job[JOBS - 1].attempt * 4 + now.job[JOBS - 1].client;
        if (a > b || (a == b && memcmp(&now.job[0], &now.job[JOBS - 1], sizeof(t)) >= 0))
            return;
        now.job[0] = now.job[JOBS - 1];
        now.job[JOBS - 1] = t;
        for (n = 0; n < WORKERS; n++) {
            now.worker[n].about = OTHER(now.worker[n].about);
            now.worker[n].entry = OTHER(now.worker[n].entry);
        }
        for (n = 0; n < NET; n++)
            if (now.wire[n].op && now.wire[n].op != CLAIM)
                now.wire[n].about = OTHER(now.wire[n].about);
    }
    static void workers_in_order(void)
    {
        struct Worker t = now.worker[0];
        int n;
        if (memcmp(&now.worker[0], &now.worker[WORKERS - 1], sizeof(t)) >= 0)
            return;
        now.worker[0] = now.worker[WORKERS - 1];
        now.worker[WORKERS - 1] = t;
        for (n = 0; n < JOBS; n++)
            now.job[n].by = OTHER(now.job[n].by);
        for (n = 0; n < NET; n++)
            if (now.wire[n].op == CLAIM)
                now.wire[n].from = OTHER(now.wire[n].from);
    }
    static void in_order(void)
    {
        if (JOBS == 2)
            jobs_in_order();
        if (WORKERS == 2)
            workers_in_order();
    }
}
#endif

/* ---- steps ---- */

inline a_waiting_job()
{
    if
    :: job[0].sets & WAIT -> pick = 0
#if JOBS > 1
    :: job[1].sets & WAIT -> pick = 1
#endif
    :: !SOME_WAIT -> pick = NONE
    fi
}

inline fresh_token(w)
{
    if
    :: worker[w].token != 0
    :: worker[w].token == 0 && !ON_WIRE(w, 1) -> worker[w].token = 1
    :: worker[w].token == 0 && ON_WIRE(w, 1) && !ON_WIRE(w, 2) -> worker[w].token = 2
    :: else -> worker[w].token = 3
    fi
}

inline a_place()
{
    if
    :: k = 0
#if NET > 1
    :: k = 1
#endif
    fi
}

/* The sender gives up waiting; its request is still on its way. (Hidden variables are not put back when the search
 * goes back: k is chosen, then read in the very next step.) */
#define PUT(o, w, j, a, v) FAULT; a_place();                                                                  \
    d_step {                                                                                                  \
        wire[k].op = o; wire[k].from = w; wire[k].about = j; wire[k].attempt = a; wire[k].arg = v;            \
        tidy()                                                                                                \
    }

#define CLIENT(j)                                                                                             \
    :: atomic { job[j].client == SENDING ->                                                                   \
        d_step { q_submit(j); job[j].accepted = 1; job[j].client = DECIDING; tidy() } }                       \
    :: atomic { job[j].client == SENDING && MAY_FAIL -> PUT(SUBMIT, 0, j, 0, 0) }                             \
    :: atomic { job[j].client == DECIDING -> /* not final: tidy_ended */                                      \
        d_step { q_cancel(j); job[j].told = (r == R_OK); job[j].client = WAITING; tidy() } }                  \
    :: d_step { job[j].client == DECIDING -> job[j].client = WAITING; tidy() } /* lets it run */              \
    :: atomic { job[j].client == DECIDING && MAY_FAIL -> PUT(CANCEL, 0, j, 0, 0) }

#define CLAIMS(w)                                                                                             \
    :: atomic { worker[w].about == NONE && (SOME_WAIT || worker[w].token != 0) ->                             \
        fresh_token(w);                                                                                       \
        if                                                                                                    \
        :: true ->                                                                                            \
            a_waiting_job();                                                                                  \
            d_step {                                                                                          \
                x_arg = worker[w].token;                                                                      \
                q_claim(w, x_arg, true);                                                                      \
                x_arg = 0;                                                                                    \
                worker[w].token = 0;                                                                          \
                worker[w].about = got;                                                                        \
                if                                                                                            \
                :: got != NONE -> worker[w].attempt = job[got].attempt                                        \
                :: else                                                                                       \
                fi;                                                                                           \
                tidy()                                                                                        \
            }                                                                                                 \
        :: MAY_FAIL -> PUT(CLAIM, w, 0, 0, worker[w].token)                                                   \
        fi }

#define DIES(w)                                                                                               \
    :: atomic { (worker[w].about != NONE || worker[w].token != 0) && MAY_FAIL ->                              \
        FAULT;                                                                                                \
        if                                                                                                    \
        :: worker[w].entry = NONE /* hello under another process id */                                        \
        :: true                                                                                               \
        fi;                                                                                                   \
        d_step { idle(w); tidy() } }

inline idle(w)
{
    worker[w].about = NONE; worker[w].attempt = 0; worker[w].verdict = 0; worker[w].token = 0
}

/* The attempt is over. That the job is lost is heard at a renew: then a worker drops it, unless its result is whole. */
#define TELLS(w) x_about = worker[w].about; x_attempt = worker[w].attempt; x_arg = worker[w].verdict
#define PUTS(w) PUT(END, 0, worker[w].about, worker[w].attempt, worker[w].verdict)
#define ENDS(w)                                                                                               \
    :: atomic { worker[w].about != NONE && worker[w].verdict == 0 ->                                          \
        if                                                                                                    \
        :: worker[w].verdict = V_OK                                                                           \
        :: worker[w].verdict = V_RETRY                                                                        \
        :: worker[w].verdict = V_FAIL                                                                         \
        :: OWNED(worker[w].about, worker[w].attempt) && STOPPED(worker[w].about) -> worker[w].verdict = V_STOP\
        :: job[worker[w].about].released < RELEASES -> worker[w].verdict = V_RELEASE                          \
        :: !OWNED(worker[w].about, worker[w].attempt)                                                         \
        fi;                                                                                                   \
        if                                                                                                    \
        :: worker[w].verdict != 0 && MAY_FAIL -> PUTS(w) \
        :: worker[w].verdict != 0 -> SAYS(w)                                                                  \
        :: worker[w].verdict == 0 -> d_step { idle(w); tidy() }                                               \
        fi }                                                                                                  \
    :: atomic { worker[w].about != NONE && worker[w].verdict != 0 ->                                          \
        if                                                                                                    \
        :: MAY_FAIL -> PUTS(w)                     \
        :: true -> SAYS(w)                                                                                    \
        fi }

#define SAYS(w) d_step {                                                                                      \
        TELLS(w);                                                                                             \
        q_settle(x_about, x_attempt, x_arg);                                                                  \
        x_about = 0; x_attempt = 0; x_arg = 0;                                                                \
        idle(w);                                                                                              \
        tidy()                                                                                                \
    }

#define ARRIVES(n)                                                                                            \
    :: atomic { wire[n].op != 0 ->                                                                            \
        if                                                                                                    \
        :: wire[n].op == CLAIM -> a_waiting_job()                                                             \
        :: else                                                                                               \
        fi;                                                                                                   \
        d_step {                                                                                              \
            x_from = wire[n].from; x_about = wire[n].about; x_attempt = wire[n].attempt; x_arg = wire[n].arg; \
            if                                                                                                \
            :: wire[n].op == SUBMIT -> q_submit(x_about)                                                      \
            :: wire[n].op == CANCEL -> q_cancel(x_about)                                                      \
            :: wire[n].op == CLAIM -> q_claim(x_from, x_arg, worker[x_from].token == x_arg)                   \
            :: else -> q_settle(x_about, x_attempt, x_arg)                                                    \
            fi;                                                                                               \
            wire[n].op = 0; wire[n].from = 0; wire[n].about = 0; wire[n].attempt = 0; wire[n].arg = 0;        \
            x_from = 0; x_about = 0; x_attempt = 0; x_arg = 0;                                                \
            tidy()                                                                                            \
        } }

/* A lease runs out because nobody renews it; or, something going wrong, although somebody would. */
#ifdef FAULTS
#define RENEWS(w, j) (worker[w].about == j && worker[w].attempt == job[j].attempt)
#define LEASE_MAY_END(j) (faults > 0 || !(RENEWS(0, j) || RENEWS(WORKERS - 1, j)))
#define LEASE_ENDS(j) if :: RENEWS(0, j) || RENEWS(WORKERS - 1, j) -> FAULT :: else fi
#else
#define LEASE_MAY_END(j) true
#define LEASE_ENDS(j) skip
#endif

#define TIMER(j)                                                                                              \
    :: atomic { (job[j].sets & LEASE) && LEASE_MAY_END(j) -> LEASE_ENDS(j); d_step { lease_over(j); tidy() } }\
    :: atomic { job[j].sets & DELAY -> d_step { retry_due(j); tidy() } }                                      \
    :: atomic { job[j].sets & CLOCK -> d_step { clock_over(j); tidy() } }

#define ENDED_ALL (FINAL(job[0].state) && FINAL(job[JOBS - 1].state))

active proctype world()
{
    d_step {
        for (i : 0 .. JOBS - 1) {
            job[i].by = NONE
        }
        for (i : 0 .. WORKERS - 1) {
            worker[i].about = NONE;
            worker[i].entry = NONE
        }
        i = 0
    }
end:
    do
    CLIENT(0)
    CLAIMS(0)
    DIES(0)
    ENDS(0)
    ARRIVES(0)
    TIMER(0)
#if JOBS > 1
    CLIENT(1)
    TIMER(1)
#endif
#if WORKERS > 1
    CLAIMS(1)
    DIES(1)
    ENDS(1)
#endif
#if NET > 1
    ARRIVES(1)
#endif
    :: timeout -> MUST(every_job_ends, ENDED_ALL); break
    od
}

#ifdef LIVE /* JOBS 1; FAULTS gives the number of things that go wrong, for a wire that loses for ever lets nobody through */
ltl every_accepted_job_ends { [] ((job[0].accepted == 1) -> <> (job[0].state >= DONE)) }
#endif
