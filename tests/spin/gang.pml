/* gang.pml -- gangs (common/PROTOCOL.md part 1): a job that needs two devices gets both or none. queue.pml has the rest.
 *
 * One host with three workers; job G needs two of them, job S one. A worker claims, is given S, or is held for G; the claim
 * with which enough are held begins the attempt for all, and the others hear of it at their next claim. Workers die and come
 * back under their name; one request at a time may be late; which of the two jobs is next is open. A worker that computes
 * renews and one that is idle claims, so a lease runs out only where neither is the case.
 *
 *   claim, let_go, held_before, gather, begin (queue_worker.lua) -> q_claim(), gather(), begin()   settle -> q_settle()
 *   orphan (queue_timer.lua) -> lease_over()     a held worker that does not claim for 5 s -> LET_GO
 */
#define WORKERS 3
#define SIZE 2
#ifndef FAULTS
#define FAULTS 4
#endif
#define DEATHS_MAX 3

#define QUEUED 1
#define RUNNING 2
#define DONE 3
#define FAILED 4

#define G 0
#define S 1
#define NONE 3 /* no job, no worker */

typedef Job {
    unsigned state : 3;
    unsigned attempt : 3;
    unsigned deaths : 2;
    byte rank[SIZE]; /* the workers while RUNNING; NONE */
    byte lease[SIZE];
    unsigned result : 3;
};
Job job[2];

typedef Worker {
    unsigned about : 2; /* what it computes; NONE: idle */
    unsigned attempt : 3;
    unsigned rank : 1;
    /* Redis: its entry, and whether it is held in {q}:forming:<host> */
    unsigned entry : 2;
    unsigned untold : 3; /* the attempt that it was not told of yet */
    unsigned held : 1;
};
Worker worker[WORKERS];
byte wire = NONE; /* a claim of that worker is late */
bit late;         /* one has arrived: it may hold a worker that has another job meanwhile, which costs G a death */
byte faults = FAULTS;

hidden byte all_or_none, no_rank_for_the_busy, only_deaths_count, one_result, only_the_owner_writes, every_job_ends;
#define MUST(name, what) assert(name || (what))
hidden byte got, pick, k, n, last;

#define FINAL(s) ((s) >= DONE)
#define OWNED(j, a) (job[j].state == RUNNING && job[j].attempt == a)
#define RANK_OF(w) (worker[w].entry == NONE -> 0 : (job[G].rank[1] == w && worker[w].entry == G -> 1 : 0))

inline free_workers(j)
{
    for (k : 0 .. SIZE - 1) {
        if
        :: job[j].rank[k] != NONE ->
            if
            :: worker[job[j].rank[k]].entry == j ->
                worker[job[j].rank[k]].entry = NONE;
                worker[job[j].rank[k]].untold = 0
            :: else
            fi
        :: else
        fi;
        job[j].rank[k] = NONE;
        job[j].lease[k] = 0
    }
    k = 0
}

/* The attempt of j begins for the workers in job[j].rank; w is told with this answer. */
inline begin(j, w)
{
    job[j].state = RUNNING;
    job[j].attempt = job[j].attempt + 1;
    for (k : 0 .. SIZE - 1) {
        if
        :: job[j].rank[k] != NONE ->
            MUST(no_rank_for_the_busy, late || job[j].rank[k] == w || worker[job[j].rank[k]].about == NONE ||
                 !OWNED(worker[job[j].rank[k]].about, worker[job[j].rank[k]].attempt) || worker[job[j].rank[k]].about == j);
            job[j].lease[k] = 1;
            worker[job[j].rank[k]].entry = j;
            worker[job[j].rank[k]].untold = (job[j].rank[k] == w -> 0 : job[j].attempt)
        :: else
        fi
    }
    k = 0
}

/* Holds w for G; got = G when that makes enough. */
inline gather(w)
{
    got = NONE;
    n = 0;
    worker[w].held = 1;
    for (k : 0 .. WORKERS - 1) {
        if
        :: worker[k].held && k != w && n < SIZE - 1 -> n = n + 1; last = k
        :: else
        fi
    }
    if
    :: n == SIZE - 1 ->
        job[G].rank[0] = (last < w -> last : w);
        job[G].rank[1] = (last < w -> w : last);
        for (k : 0 .. WORKERS - 1) {
            worker[k].held = 0
        }
        begin(G, w);
        MUST(all_or_none, job[G].rank[0] != NONE && job[G].rank[1] != NONE && job[G].rank[0] != job[G].rank[1]);
        got = G
    :: else
    fi;
    n = 0; last = 0; k = 0
}

/* pick: the job that is next, or NONE */
inline q_claim(w)
{
    got = NONE;
    if
    :: worker[w].entry != NONE && worker[w].untold != 0 ->
        if
        :: OWNED(worker[w].entry, worker[w].untold) -> got = worker[w].entry; worker[w].untold = 0
        :: else
        fi
    :: else
    fi;
#ifndef TAKES_BUSY
    if
    :: got == NONE -> worker[w].held = 0 /* let_go: it is held again, or given another job */
    :: else
    fi;
#endif
    if
    :: got == NONE && pick == S ->
        job[S].rank[0] = w;
        begin(S, w);
        got = S
    :: got == NONE && pick == G -> gather(w)
    :: else
    fi
}

inline idle(w)
{
    worker[w].about = NONE; worker[w].attempt = 0; worker[w].rank = 0
}

/* Rank 0 says the end: ok, or an error that does not pass. */
inline q_settle(w, ok)
{
    if
#ifdef NO_FENCE
    :: worker[w].rank == 0 && job[worker[w].about].state == RUNNING ->
#else
    :: worker[w].rank == 0 && OWNED(worker[w].about, worker[w].attempt) ->
#endif
        n = worker[w].about;
        MUST(only_the_owner_writes, job[n].attempt == worker[w].attempt && job[n].rank[0] == w);
        MUST(one_result, job[n].result == 0);
        free_workers(n);
        job[n].result = (ok -> worker[w].attempt : 0);
        job[n].state = (ok -> DONE : FAILED);
        n = 0
    :: else /* LOST */
    fi;
    idle(w)
}

inline lease_over(j)
{
    free_workers(j);
    job[j].deaths = job[j].deaths + 1;
    MUST(only_deaths_count, job[G].deaths + job[S].deaths <= FAULTS - faults);
    job[j].state = (job[j].deaths >= DEATHS_MAX -> FAILED : QUEUED)
}

inline next_job()
{
    if
    :: job[G].state == QUEUED -> pick = G
    :: job[S].state == QUEUED -> pick = S
    :: job[G].state != QUEUED && job[S].state != QUEUED -> pick = NONE
    fi
}

#define HOLDABLE (worker[0].held + worker[1].held + worker[2].held)
#define UNTOLD(w) (worker[w].entry != NONE && worker[w].untold != 0)
#define CLAIMS(w)                                                                                             \
    :: atomic { worker[w].about == NONE &&                                                                    \
                (job[S].state == QUEUED || UNTOLD(w) || (job[G].state == QUEUED && (!worker[w].held || HOLDABLE > 1))) -> \
        next_job();                                                                                           \
        d_step {                                                                                              \
            q_claim(w);                                                                                       \
            worker[w].about = got;                                                                            \
            if                                                                                                \
            :: got != NONE -> worker[w].attempt = job[got].attempt; worker[w].rank = RANK_OF(w)               \
            :: else                                                                                           \
            fi;                                                                                               \
            got = 0; pick = 0                                                                                 \
        } }                                                                                                   \
    :: d_step { worker[w].about == NONE && wire == NONE && faults > 0 -> wire = w; faults-- }                 \
    :: atomic { wire == w -> next_job(); d_step { wire = NONE; late = 1; q_claim(w); got = 0; pick = 0 } }

/* The other ranks go on renewing until they hear that the attempt is over. */
#ifdef LEAVES_EARLY
#define SETTLES(w) true
#else
#define SETTLES(w) (worker[w].rank == 0)
#endif
#define WORKS(w)                                                                                              \
    :: d_step { worker[w].about != NONE && SETTLES(w) -> q_settle(w, true) }                                  \
    :: d_step { worker[w].about != NONE && SETTLES(w) -> q_settle(w, false) }                                 \
    :: d_step { worker[w].about != NONE && !OWNED(worker[w].about, worker[w].attempt) -> idle(w) }            \
    :: d_step { worker[w].about != NONE && faults > 0 -> faults--; idle(w) }                                  \
    :: d_step { worker[w].held -> worker[w].held = 0 } /* LET_GO */

/* Nobody renews the lease of this rank, and nobody will. */
#define RENEWED(j, r) (worker[job[j].rank[r]].about == j && worker[job[j].rank[r]].attempt == job[j].attempt)
#define WILL_HEAR(j, r) (worker[job[j].rank[r]].about == NONE && worker[job[j].rank[r]].entry == j && UNTOLD(job[j].rank[r]))
#define TIMER(j, r)                                                                                           \
    :: d_step { job[j].state == RUNNING && job[j].lease[r] && !RENEWED(j, r) && !WILL_HEAR(j, r) -> lease_over(j) }

active proctype world()
{
    d_step {
        job[G].state = QUEUED;
        job[S].state = QUEUED;
        for (k : 0 .. SIZE - 1) {
            job[G].rank[k] = NONE;
            job[S].rank[k] = NONE
        }
        for (k : 0 .. WORKERS - 1) {
            worker[k].about = NONE;
            worker[k].entry = NONE
        }
        k = 0
    }
end:
    do
    CLAIMS(0)
    CLAIMS(1)
    CLAIMS(2)
    WORKS(0)
    WORKS(1)
    WORKS(2)
    TIMER(G, 0)
    TIMER(G, 1)
    TIMER(S, 0)
    :: timeout -> MUST(every_job_ends, FINAL(job[G].state) && FINAL(job[S].state)); break
    od
}
