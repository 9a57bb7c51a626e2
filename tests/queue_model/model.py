"""The queue as PROTOCOL.md tells it, in memory: what every function must answer and what must be true afterwards.

    m = Model()
    m.now += 1000
    m.apply("submit", args, record, answer)     raises Mismatch with a sentence

Where the protocol leaves a choice (which of two tenants that are equally far; how much a job is predicted to take), the
model checks that the answer is one of the allowed ones and goes on with it.
"""
import math

from parts import (
    average, CLASSES_MAX, DAY_MS, DEATHS_MAX, Delivery, ENDED, GAP_MS, GRACE_MS,
    HOLD_MS, HOOK_PROGRESS_MS, IDLE_MS, Job, LATE_MAX, LOG_MAX, need, OBEY_MS,
    AGAIN_MS, Tenant, TRASH_MS, WARM_MS, words, Worker,
)
from people import People


class Model(People):
    def __init__(self, now):
        self.now = now
        self.jobs, self.tenants, self.workers = {}, {}, {}
        self.idem, self.cache = {}, {}      # (tenant, key): (fingerprint, id, until); key: id
        self.paused = set()
        self.weights = {}                   # generator: digest that workers say they have
        self.vt, self.level_vt = {}, {}     # (level, tenant): virtual time; level: its own
        self.rate, self.mean = {}, {}       # generator: GFLOP/s; mean run in ms
        self.seq, self.front = 0, 0
        self.idle = {}                      # (generator, worker): when it asked
        self.forming = {}                   # host: (job, {worker: when it asked})
        self.ticked, self.grace = None, 0
        self.trash = {}                     # deleted, the files are still to go: when somebody should see to it
        self.again = {}                     # their files are gone: when to look once more
        self.n, self.claims = {}, 0
        self.events = []                    # of this call: (id, what, state, attempt)
        self.hooks, self.taken = [], []     # deliveries that wait; (id, hold) of those that were taken

    # ---- small ones ----

    def count(self, name, n=1):
        self.n[name] = self.n.get(name, 0) + n

    def tenant(self, name):
        return self.tenants.setdefault(name, Tenant())

    def event(self, job, what, state):
        self.events.append((job.id, what, state, job.attempt))
        if what not in ("progress", "delete"):
            job.log = (job.log + [(what, state, job.attempt)])[-LOG_MAX:]

    def queued(self):
        return [j for j in self.jobs.values() if j.state == "queued"]

    def running_of(self, tenant):
        return sum(j.state == "running" for j in self.jobs.values() if j.tenant == tenant)

    def waiting_of(self, tenant):
        return sum(j.state in ("queued", "delayed") for j in self.jobs.values() if j.tenant == tenant)

    def enqueue(self, job, front):
        idle = not any(j.tenant == job.tenant and j.prio == job.prio for j in self.queued())
        if idle:
            self.join(job.prio, job.tenant)
        if front:
            self.front += 1
            job.place = -self.front
        else:
            self.seq += 1
            job.place = self.seq
        job.state, job.since, job.cost = "queued", self.now, self.predict(job)
        job.leases, job.ranks, job.scheduled = {}, [], False

    def predict(self, job):
        if job.gflop > 0 and job.gen in self.rate:
            return max(1, math.floor(job.gflop / self.rate[job.gen] * 1000))
        return max(1, math.floor(self.mean.get(job.gen, 10000)))

    def learn(self, job, a):
        run = max(1, self.now - job.start)
        self.mean[job.gen] = average(self.mean.get(job.gen), run)
        if a["gflop"] > 0:
            self.rate[job.gen] = average(self.rate.get(job.gen), a["gflop"] * 1000 / run)

    def join(self, level, tenant):
        """One that was idle, or closed, starts at the level's virtual time."""
        if not self.closed(tenant):
            at = (level, tenant)
            self.vt[at] = max(self.vt.get(at, 0.0), self.level_vt.get(level, 0.0))

    def reopened(self, tenant, was):
        if was and not self.closed(tenant):
            for level in {j.prio for j in self.queued() if j.tenant == tenant}:
                self.join(level, tenant)

    def requeue(self, job):
        job.stage = job.step = job.total = job.eta = job.retry = None
        job.clock = job.clock if job.start is None else None
        self.enqueue(job, not job.scheduled)

    def finish(self, job, state, what):
        job.state, job.fin, job.exp, job.retry = state, self.now, self.now + job.ttl, None
        job.leases, job.clock = {}, None
        self.count("n_" + state)
        self.event(job, what, state)
        self.hook(job, "end")

    def finish_stopped(self, job, what):
        state = "timed_out" if job.stop == 2 else "cancelled"
        job.code = "TIMEOUT" if job.stop == 2 else "CANCEL"
        self.finish(job, state, what)
        return state

    def owned(self, a):
        job = self.jobs.get(a["id"])
        if job and job.state == "running" and job.attempt == a["attempt"]:
            return job
        self.count("n_lost")
        return None

    def free(self, job):
        for name in job.ranks:
            if name in self.workers and self.workers[name].job == job.id:
                w = self.workers[name]
                w.job, w.rank, w.token, w.untold = None, 0, None, None

    def charge(self, job, ms):
        """The attempt is over: what it took, instead of what was predicted."""
        t, at, today = self.tenant(job.tenant), (job.prio, job.tenant), self.now // DAY_MS
        if ms != job.cost:
            self.vt[at] = self.vt[at] + (ms - job.cost) / t.weight
        t.used, t.day = (t.used if t.day == today else 0) + ms, today

    def took(self, job):
        return max(0, self.now - job.start) * len(job.ranks)

    # ---- who may ----

    def pausing(self, job):
        return {"queue", "generator:" + job.gen, "tenant:" + job.tenant} & self.paused

    def capped(self, tenant):
        t = self.tenant(tenant)
        if t.max_running and self.running_of(tenant) >= t.max_running:
            return "tenant_running"
        if t.gpu_s_day and t.used >= math.floor(t.gpu_s_day * 1000):
            return "tenant_budget"
        return None

    def closed(self, tenant):
        return "tenant:" + tenant in self.paused or self.capped(tenant)

    def fits(self, job, o):
        """o: generators, version, memory, labels, gang"""
        return (job.gen in o[0] and job.ver <= o[1] and (o[2] == 0 or job.bytes <= o[2]) and job.labels <= o[3]
                and (job.gmin <= 1 or bool(o[4])))

    def offer(self, w):
        i = w.info
        return words(i["generators"]) - w.unfit, i["ver"], i["memory_bytes"], words(i["labels"]), i["gang"]

    def could(self, job):
        """Registered workers that could run it."""
        return {name for name, w in self.workers.items() if not w.quiet and self.fits(job, self.offer(w))}

    def fitting(self, job):
        return len(self.could(job))

    # ---- clients ----

    def do_submit(self, a, record, got):
        r = got["r"]
        held = self.idem.get((a["tenant"], a["idem"])) if a["idem"] else None
        if held and (held[1] not in self.jobs or self.now > held[2]):
            held = None
        if held and held[0] != a["fp"]:
            return need(r == "CONFLICT" and got.get("what") == "idem", "the key was used for another body")
        again = held[1] if held else None
        if not again and a["id"] in self.jobs:
            if self.jobs[a["id"]].rec != record:
                return need(r == "CONFLICT" and got.get("what") == "id", "the id is taken")
            again = a["id"]
        if again:
            need(r == "OK" and got["again"] and got["id"] == again, "the first answer again: %s", again)
            need(got["state"] == self.jobs[again].state, "its state is %s", self.jobs[again].state)
            return self.check_position(self.jobs[again], got["pos"])
        hit = self.cached(a)
        if hit:
            need(r == "OK" and got.get("cached") and got["id"] == hit and got["state"] == "done", "%s answers it", hit)
            return self.count("n_cached")
        what = self.refusal(a)
        if what:
            need(r == "LIMIT" and got["what"] in what, "refused for %s", what)
            need(got["wait_s"] >= 1, "wait_s is at least a second")
            return self.count("n_refused")
        need(r == "OK" and not got["again"] and not got.get("cached") and got["id"] == a["id"], "accepted as a new job")
        self.accept(a, record, got)

    def cached(self, a):
        hit = self.jobs.get(self.cache.get(a["cache"])) if a["cache"] else None
        if not hit or hit.state != "done":
            return None
        if self.now > hit.fin + max(1, hit.ttl):
            return None
        now = self.weights.get(hit.gen)
        return hit.id if not now or not hit.weights or now == hit.weights else None

    def refill(self, t):
        cap = max(1, t.burst)
        if t.tokens is None:
            return cap
        return min(cap, t.tokens + (self.now - t.tokens_t) * t.rate / 60000)

    def refusal(self, a):
        """The reasons of which one must be named."""
        t, what = self.tenant(a["tenant"]), set()
        classes = {j.line()[1:] for j in self.queued()}
        if len(classes) >= CLASSES_MAX and Job(a, None, 0).line()[1:] not in classes:
            what.add("classes")
        if sum(j.state in ("queued", "delayed") for j in self.jobs.values()) >= a["max"]:
            what.add("queue")
        if t.max_queued and self.waiting_of(a["tenant"]) >= t.max_queued:
            what.add("tenant")
        if t.rate and self.refill(t) < 1 - 1e-9:
            what.add("rate")
        return what

    def accept(self, a, record, got):
        t = self.tenant(a["tenant"])
        if t.rate:
            t.tokens, t.tokens_t = self.refill(t) - 1, self.now
        job = self.jobs[a["id"]] = Job(a, record, self.now)
        if a["idem"]:
            self.idem[a["tenant"], a["idem"]] = (a["fp"], job.id, self.now + DAY_MS)
        if job.ds > 0:
            job.clock = self.now + job.ds
        due = max(a["due"], self.now + a["delay"]) if a["delay"] else a["due"]
        if due > self.now:
            job.state, job.retry, job.scheduled = "delayed", due, True
        else:
            self.enqueue(job, False)
        self.count("n_submitted")
        self.event(job, "submit", job.state)
        self.hook(job, "queued")
        need(got["state"] == job.state, "it is %s", job.state)
        need(got["fitting"] == self.fitting(job), "%s fit, not %d of %s", self.could(job), got["fitting"], {n: (w.quiet, w.unfit) for n, w in self.workers.items()})
        self.check_position(job, got["pos"])

    def check_position(self, job, pos):
        if job.state != "queued":
            return need(pos == -1, "a job that does not wait has no position")
        others = [j for j in self.queued() if j is not job]
        need(0 <= pos <= len(others), "position %s of %d others", pos, len(others))
        if len({(j.tenant, j.line()) for j in self.queued() if j.prio == job.prio}) == 1:
            want = sum(j.prio > job.prio or j.prio == job.prio and j.place < job.place for j in others)
            need(pos == want, "with one tenant and class the position is exact: %s, not %s", want, pos)

    def cancel_one(self, job):
        if job.state == "running":
            if not job.stop:
                job.stop, job.stop_at, job.clock = 1, self.now, self.now + OBEY_MS
                self.event(job, "cancel", "running")
            return
        job.code = "CANCEL"
        self.finish(job, "cancelled", "cancel")

    def do_cancel(self, a, _, got):
        job = self.jobs.get(a["id"])
        if not job:
            return need(got["r"] == "NOTFOUND", "no such job")
        if job.state in ENDED and job.state != "cancelled":
            return need(got["r"] == "CONFLICT", "it ended otherwise")
        if job.state != "cancelled":
            self.cancel_one(job)
        need(got["r"] == "OK" and got["state"] == job.state and got["stopping"] == (job.state == "running"),
             "it is %s", job.state)

    def do_purge(self, a, _, got):
        waiting = [j for j in self.jobs.values() if j.state in ("queued", "delayed")]
        need(got["r"] == "OK" and got["n"] == min(len(waiting), a["max"]), "%d wait", len(waiting))
        # which ones, the protocol does not say: the events do
        gone = [e[0] for e in got["events"]]
        need(len(set(gone)) == got["n"], "one event for each")
        for job in gone:
            need(self.jobs[job] in waiting, "%s did not wait", job)
            self.cancel_one(self.jobs[job])

    def retry_one(self, job):
        job.stop, job.stop_at, job.code, job.error, job.start, job.fin, job.exp = 0, 0, None, None, None, None, None
        job.fails, job.deaths, job.scheduled = 0, 0, False
        self.requeue(job)
        job.clock = self.now + job.ds if job.ds > 0 else None
        self.count("n_retried")
        self.event(job, "retry", "queued")

    def do_retry(self, a, _, got):
        job = self.jobs.get(a["id"])
        if not job:
            return need(got["r"] == "NOTFOUND", "no such job")
        if job.state == "done":
            return need(got["r"] == "CONFLICT", "DONE is not tried again")
        if job.state in ENDED:
            self.retry_one(job)
        need(got["r"] == "OK" and got["state"] == job.state, "it is %s", job.state)

    def chosen(self, job, a):
        return (a.get("tenant") in (None, job.tenant) and a.get("gen") in (None, "", job.gen)
                and a.get("code") in (None, "", job.code or "") and a.get("worker") in (None, "", job.worker or ""))

    def do_redrive(self, a, _, got):
        dead = [j for j in self.jobs.values() if j.state == "failed" and self.chosen(j, a)]
        need(got["r"] == "OK" and got["n"] == min(len(dead), a["max"]), "%d are chosen", len(dead))
        for job, *_ in list(got["events"]):
            need(self.jobs[job] in dead, "%s is not chosen", job)
            self.retry_one(self.jobs[job])

    def do_delete(self, a, _, got):
        job = self.jobs.get(a["id"])
        if not job:
            return need(got["r"] == "OK", "nothing to delete")
        if job.state not in ENDED:
            return need(got["r"] == "CONFLICT", "it is %s", job.state)
        need(got["r"] == "OK", "deleted")
        self.delete(job)
        self.trash[job.id] = self.now + TRASH_MS

    def delete(self, job):
        self.event(job, "delete", job.state)
        if job.idem and self.idem.get((job.tenant, job.idem), (0, 0))[1] == job.id:
            del self.idem[job.tenant, job.idem]
        if job.cache and self.cache.get(job.cache) == job.id:
            del self.cache[job.cache]
        self.hooks = [h for h in self.hooks if h.job != job.id]
        del self.jobs[job.id]

    def do_forgot(self, a, _, got):
        if self.trash.pop(a["id"], None) is not None:
            self.again[a["id"]] = self.now + AGAIN_MS
        need(got["r"] == "OK", "forgot")

    def do_pause(self, a, _, got):
        name = "queue" if a["scope"] == "queue" else a["scope"] + ":" + a["name"]
        closed = a["scope"] == "tenant" and self.closed(a["name"])
        (self.paused.add if a["on"] else self.paused.discard)(name)
        if a["scope"] == "tenant":
            self.reopened(a["name"], closed)
        need(got["r"] == "OK", "paused")

    def do_tenant(self, a, _, got):
        t, closed = self.tenant(a["name"]), self.closed(a["name"])
        t.weight, t.max_running, t.max_queued = a["weight"], a["max_running"], a["max_queued"]
        t.gpu_s_day, t.rate, t.burst = a["gpu_s_day"], a["rate"], a["burst"]
        self.reopened(a["name"], closed)
        need(got["r"] == "OK", "set")

    # ---- workers ----

    def do_hello(self, a, _, got):
        w = self.workers.setdefault(a["worker"], Worker())
        if w.info.get("pid", a["info"]["pid"]) != a["info"]["pid"]:  # the name's new bearer starts afresh
            self.workers[a["worker"]] = w = Worker()
            self.let_go(a["worker"])
        for name, value in a["info"].items():
            what, _, gen = name.partition(":")
            if what == "weights":
                self.weights[gen] = value
            else:
                w.info[name] = value
        w.until = self.now + a["ttl"]
        need(got["r"] == "OK", "hello")

    def leave(self, name):
        self.workers.pop(name, None)
        for at in [at for at in self.idle if at[1] == name]:
            del self.idle[at]
        self.let_go(name)

    def let_go(self, name):
        for _, held in self.forming.values():
            held.pop(name, None)

    def do_bye(self, a, _, got):
        self.leave(a["worker"])
        need(got["r"] == "OK", "bye")

    def do_quiet(self, a, _, got):
        w = self.workers.get(a["worker"])
        if w:
            w.quiet = a["on"]
            if w.quiet:
                self.let_go(a["worker"])
        need(got["r"] == ("OK" if w else "NOTFOUND"), "quiet")

    def do_claim(self, a, _, got):
        need(got["r"] == "OK", "claim")
        me, name = self.workers.get(a["worker"]), a["worker"]
        if me and self.outdated(a["token"], me.claimed):
            return need(not got["got"] and not got["quiet"] and not got.get("gang"), "an old copy that came late is given nothing")
        if me and a["token"]:
            me.claimed = a["token"]
        before = self.claimed_before(a, me)
        if before:
            before.leases[name] = self.now + a["lease"]
            me.token, me.untold = a["token"], None
            return self.check_handed(before, a, got)
        if me and me.quiet:
            return need(not got["got"] and got["quiet"], "a quiet worker gets nothing and hears it")
        need(not got["quiet"], "it is not quiet")
        job = self.next_job(a, me)
        self.let_go(name)
        names = [name]
        if job and job.gmin > 1:
            names = self.gather(job, a)
            if not names:
                return need(not got["got"] and got.get("gang") == job.id, "it is held for %s", job.id)
        if not job:
            need(not got["got"] and not got.get("gang"), "there is nothing for it")
            for gen in words(a["warm"]) if me else ():
                self.idle[gen, name] = self.now
            return None
        need(got["got"], "it could have had %s", job.id)
        need(got["record"] == job.rec, "%s is next, not %s", job.id, [j.id for j in self.jobs.values() if j.rec == got["record"]])
        self.start(job, names, a)
        for gen in words(a["warm"]):
            self.idle.pop((gen, name), None)
        return self.check_handed(job, a, got)

    def outdated(self, token, last):
        process, _, n = token.rpartition(":")
        before, _, m = (last or "").rpartition(":")
        return bool(process) and process == before and int(n) < int(m)

    def claimed_before(self, a, me):
        job = self.jobs.get(me.job) if me and me.job else None
        if job and job.state == "running" and job.ranks[me.rank:me.rank + 1] == [a["worker"]]:
            return job if me.untold == job.attempt or a["token"] and me.token == a["token"] else None
        return None

    def next_job(self, a, me):
        """The highest level first; in it, of the heads of the lines that fit and are not left to another, the one whose
        tenant is furthest behind, and of one tenant's the first."""
        if "queue" in self.paused:
            return None
        offer = (words(a["gens"]) - (me.unfit if me else set()), a["ver"], a["bytes"], words(a["labels"]),
                 a["host"] and me and me.info.get("gang"))
        lines = {}
        for j in self.queued():
            if "generator:" + j.gen not in self.paused and self.fits(j, offer) and not self.closed(j.tenant):
                lines.setdefault(j.line(), {}).setdefault(j.tenant, []).append(j)
        best = None
        for line, tenants in lines.items():
            vt, tenant = min((self.vt[line[0], t], t) for t in tenants)
            head = min(tenants[tenant], key=lambda j: j.place)
            if not self.left_to_warm(head, a) and not self.left_to_host(head, a):
                best = min(best or (10,), (-head.prio, vt, head.place, head.id))
        return self.jobs[best[3]] if best else None

    def left_to_warm(self, job, a):
        if job.gen in words(a["warm"]) or self.now - job.since >= WARM_MS:
            return False
        return any(gen == job.gen and name != a["worker"] and when >= self.now - IDLE_MS and name in self.could(job)
                   for (gen, name), when in self.idle.items())

    def on_host(self, job, host):
        return {n for n in self.could(job) if self.workers[n].info["host"] == host}

    def left_to_host(self, job, a):
        if job.gmin <= 1:
            return False
        if len(self.on_host(job, a["host"])) < job.gmin:
            return True
        return bool(job.ghost) and job.ghost[0] != a["host"] and self.now - job.ghost[1] < HOLD_MS

    def gather(self, job, a):
        """Held for a job of several devices; the names by rank once enough are."""
        if self.forming.get(a["host"], (None,))[0] != job.id:
            self.forming[a["host"]] = (job.id, {})
        held = self.forming[a["host"]][1]
        held[a["worker"]] = self.now
        job.ghost = (a["host"], self.now)
        room = {n for n in self.on_host(job, a["host"]) if not self.workers[n].job or n == a["worker"]}
        there = sorted(n for n, t in held.items() if self.now - t < HOLD_MS and n in room)
        for name in set(held) - set(there):  # who is silent, or has begun something else, is let go
            del held[name]
        want = max(job.gmin, min(job.gmax, len(room)))
        if len(there) < want:
            return None
        del self.forming[a["host"]]
        names = there[:want]
        return names if a["worker"] in names else sorted(names[:-1] + [a["worker"]])

    def start(self, job, ranks, a):
        at, t = (job.prio, job.tenant), self.tenant(job.tenant)
        job.attempt += 1
        self.claims += 1
        job.state, job.start, job.worker, job.ghost = "running", self.now, ranks[0], None
        job.ranks, job.cost = ranks, job.cost * len(ranks)
        job.leases = {name: self.now + a["lease"] for name in ranks}
        job.clock = self.now + job.dr if job.dr > 0 else None
        self.level_vt[job.prio] = max(self.level_vt.get(job.prio, 0.0), self.vt[at])
        self.vt[at] = self.vt[at] + job.cost / t.weight
        for rank, name in enumerate(ranks):
            if name in self.workers:
                w, me = self.workers[name], name == a["worker"]
                w.job, w.rank, w.token, w.untold = job.id, rank, a["token"] if me else None, None if me else job.attempt
        self.event(job, "claim", "running")
        self.hook(job, "start")

    def check_handed(self, job, a, got):
        need(got["got"] and got["record"] == job.rec, "%s is handed out", job.id)
        want = {"attempt": job.attempt, "fails": job.fails, "deaths": job.deaths, "run": job.dr,
                "rank": job.ranks.index(a["worker"]), "size": len(job.ranks)}
        for name, value in want.items():
            need(got.get(name) == value, "claim: %s is %s, not %s", name, got.get(name), value)
        need(len(job.ranks) == 1 or got["ranks"] == job.ranks, "the ranks are %s", job.ranks)

    def heard(self, job, got, rank=0):
        w = self.workers.get(job.ranks[rank])
        need(got["r"] == "OK" and got["stop"] == job.stop, "it hears stop %d", job.stop)
        need(bool(got["quiet"]) == bool(w and w.quiet), "it hears whether it should be quiet")

    def do_renew(self, a, _, got):
        job = self.owned(a)
        if not job or a["rank"] >= len(job.ranks):
            return need(got["r"] == "LOST", "this attempt does not own it")
        job.leases[job.ranks[a["rank"]]] = self.now + a["lease"]
        self.heard(job, got, a["rank"])

    def do_progress(self, a, _, got):
        job = self.owned(a)
        if not job:
            return need(got["r"] == "LOST", "this attempt does not own it")
        job.stage, job.step, job.total, job.eta = a["stage"], a["step"], a["total"], a["eta"]
        self.event(job, "progress", "running")
        self.hook(job, "progress")
        self.heard(job, got)

    def keep_late(self, job, a):
        if a["attempt"] not in job.late and len(job.late) < LATE_MAX:
            job.late.append(a["attempt"])
            self.count("n_late")

    def end_attempt(self, a, verdict, got):
        """The job when this attempt owns it. Otherwise the answer is checked here."""
        job = self.jobs.get(a["id"])
        if job and job.state == "running" and job.attempt == a["attempt"]:
            job.verdict = (a["attempt"], verdict)
            self.free(job)
            return job
        if job and job.verdict == (a["attempt"], verdict) and job.attempt == a["attempt"]:
            need(got["r"] == "OK" and got["state"] == job.state, "said again: %s", job.state)
            return None
        self.count("n_lost")
        need(got["r"] == ("LOST" if job else "NOTFOUND"), "this attempt does not own it")
        if job and verdict == "ok":
            self.keep_late(job, a)
        return None

    def do_settle(self, a, _, got):
        job = self.end_attempt(a, a["verdict"], got)
        if not job:
            return None
        closed = self.closed(job.tenant)
        self.charge(job, self.took(job))
        verdict = a["verdict"]
        if job.stop or verdict == "stop":
            if verdict == "ok":
                self.keep_late(job, a)
            self.finish_stopped(job, "settle")
        elif verdict == "ok":
            job.result, job.code, job.error, job.eta = a["result"], None, None, None
            self.learn(job, a)
            if a["weights"]:
                job.weights = self.weights[job.gen] = a["weights"]
            if job.cache:
                self.cache[job.cache] = job.id
            self.finish(job, "done", "settle")
        elif a["unfit"] and self.unfit(job):
            job.code = a["code"]
            self.requeue(job)
            self.event(job, "settle", "queued")
        elif verdict == "retry" and job.fails + 1 < a["max_fails"]:
            self.delay(job, a, got)
        else:
            job.fails += verdict == "retry"
            job.code, job.error = a["code"], a["error"]
            self.finish(job, "failed", "settle")
        self.reopened(job.tenant, closed)
        return need(got["r"] == "OK" and got["state"] == job.state, "it became %s", job.state)

    def unfit(self, job):
        """The worker's entry loses the generator, if another one fits. Otherwise it stays as it is."""
        others = self.could(job) - {job.worker}
        if job.worker not in self.workers or not others:
            return False
        self.count("n_unfit")
        self.workers[job.worker].unfit.add(job.gen)
        return True

    def delay(self, job, a, got):
        job.fails += 1
        job.code, job.error = a["code"], a["error"]
        wait = min(a["backoff"] * 2 ** (job.fails - 1), 3600000)
        job.state, job.stage, job.step, job.total, job.eta, job.leases = "delayed", None, None, None, None, {}
        job.clock = None
        job.retry = ("within", self.now + 0.8 * wait - 1, self.now + 1.2 * wait + 1)
        job.ranks = []
        self.count("n_retried")
        self.event(job, "settle", "delayed")

    def do_release(self, a, _, got):
        job = self.end_attempt(a, "release", got)
        if not job:
            return None
        closed = self.closed(job.tenant)
        self.charge(job, 0)
        if job.stop:
            self.finish_stopped(job, "release")
        else:
            self.requeue(job)
            self.count("n_released")
            self.event(job, "release", "queued")
        self.reopened(job.tenant, closed)
        return need(got["r"] == "OK" and got["state"] == job.state, "it became %s", job.state)

    # ---- the timer ----

    def in_grace(self):
        before, self.ticked = self.ticked, self.now
        if before is not None and self.now - before > GAP_MS:
            self.grace = self.now + GRACE_MS
        return self.now < self.grace

    def orphan(self, job):
        self.count("n_expired")
        self.free(job)
        closed = self.closed(job.tenant)
        self.charge(job, 0)
        job.deaths += 1
        if job.stop:
            self.finish_stopped(job, "expire")
        elif job.deaths >= DEATHS_MAX:
            job.code = "INTERNAL"
            self.finish(job, "failed", "expire")
        else:
            self.requeue(job)
            self.event(job, "expire", "queued")
        self.reopened(job.tenant, closed)

    def clock_due(self, job):
        job.clock = None
        if job.state in ("queued", "delayed"):
            if job.ds > 0 and job.start is None:
                job.code = "TIMEOUT"
                self.finish(job, "timed_out", "expire")
        elif job.stop:
            self.free(job)
            closed = self.closed(job.tenant)
            self.charge(job, self.took(job))
            self.finish_stopped(job, "expire")
            self.reopened(job.tenant, closed)
        else:
            job.stop, job.stop_at, job.clock = 2, self.now, self.now + OBEY_MS
            self.event(job, "expire", "running")

    def do_expire(self, a, _, got):
        """With a small max which of them come first is told by the events; with a large one all that is due happens."""
        need(got["r"] == "OK", "expire")
        grace = self.in_grace()
        leases = [] if grace else sorted((t, j.id + ("#%d" % j.ranks.index(n) if j.ranks.index(n) else ""), j)
                                         for j in self.jobs.values() if j.state == "running"
                                         for n, t in j.leases.items() if t <= self.now)[:a["max"]]
        retries = sorted((j.retry, j.id, j) for j in self.jobs.values() if j.state == "delayed" and j.retry <= self.now)[:a["max"]]
        clocks = sorted((j.clock, j.id, j) for j in self.jobs.values() if j.clock is not None and j.clock <= self.now)[:a["max"]]
        need(got["leases"] == len(leases) and got["retries"] == len(retries) and got["deadlines"] == len(clocks),
             "leases %d retries %d deadlines %d", len(leases), len(retries), len(clocks))
        for _, _, job in leases:
            if job.state == "running":
                self.orphan(job)
        for _, _, job in retries:
            if job.state == "delayed":
                self.requeue(job)
                self.event(job, "expire", "queued")
        for _, _, job in clocks:
            if job.clock is not None and job.clock <= self.now:
                self.clock_due(job)
        if not grace:
            for _, name in sorted((w.until, n) for n, w in self.workers.items() if w.until <= self.now)[:a["max"]]:
                self.leave(name)
            for name, t in self.tenants.items():
                if t.day is not None and t.day < self.now // DAY_MS:
                    closed, t.used, t.day = self.closed(name), 0, self.now // DAY_MS
                    self.reopened(name, closed)
        need(got["waiting"] == len(self.queued()), "%d wait", len(self.queued()))
        for _, _, job in sorted((j.exp, j.id, j) for j in self.jobs.values() if j.state in ENDED and j.exp <= self.now)[:a["max"]]:
            self.delete(job)
            self.trash[job.id] = self.now
        due = sorted((t, id) for id, t in self.trash.items() if t <= self.now)[:a["max"]]
        for _, id in due:
            self.trash[id] = self.now + TRASH_MS
        late = sorted((t, id) for id, t in self.again.items() if t <= self.now)[:a["max"]]
        for _, id in late:
            del self.again[id]
        need(list(got["forget"]) == [id for _, id in due + late], "files to go: %s", due + late)

    # ---- webhooks ----

    def hook(self, job, name):
        if name not in words(job.hook):
            return
        due = self.now
        if name == "progress":  # one at a time, and not too often
            if any(h.job == job.id and h.event == "progress" for h in self.hooks):
                return
            due = job.hook_t = max(self.now, getattr(job, "hook_t", 0) + HOOK_PROGRESS_MS)
        self.hooks.append(Delivery(job.id, name, self.now, due))

    def delivery(self, id):
        return next((h for h in self.hooks if h.id == id), None)

    def do_hook_take(self, a, _, got):
        due = [h for h in self.hooks if h.due <= self.now]
        need(got["r"] == "OK" and len(got["list"]) == min(len(due), a["n"]), "%d deliveries are due", len(due))
        for f in got["list"]:
            h = self.delivery(f["id"]) or next((h for h in due if h.id is None and (h.job, h.event, h.created) ==
                                                (f["job"], f["event"], f["t"])), None)
            need(h in due and (h.job, h.event, h.created, h.tries) == (f["job"], f["event"], f["t"], f["tries"]),
                 "a delivery that is not due: %s", f)
            due.remove(h)
            h.id, h.hold, h.due = f["id"], f["hold"], self.now + a["hold"]
            self.taken.append((h.id, h.hold))
        first = min((h.due for h in self.hooks), default=None)
        need(got["next"] == (-1 if first is None else max(0, first - self.now)), "next")

    def do_hook_done(self, a, _, got):
        h = self.delivery(a["id"])
        if not h or h.said == a["hold"]:
            return need(got["r"] == "OK", "%s was told before, or is gone: %s", a["id"], (got, h and vars(h)))
        if h.hold != a["hold"]:
            return need(got["r"] == "LOST", "another took it")
        need(got["r"] == "OK", "told")
        h.tries, h.said = h.tries + 1, a["hold"]
        job = self.jobs[h.job]
        job.hooklog = (getattr(job, "hooklog", []) + [(h.id, h.event, a["verdict"], a["status"])])[-50:]
        if a["verdict"] == "again":
            wait = min(5000 * 2 ** (h.tries - 1), 6 * 3600000)
            h.due, h.hold = ("within", self.now + 0.8 * wait - 1, self.now + 1.2 * wait + 1), None
            return None
        if a["verdict"] == "ok":
            self.count("n_hooks_sent")
            return self.hooks.remove(h)
        self.count("n_hooks_failed")
        job.hook = ""
        self.hooks = [h for h in self.hooks if h.job != job.id]
        return None

    def do_hooks(self, a, _, got):
        job = self.jobs.get(a["id"])
        if not job:
            return need(got["r"] == "NOTFOUND", "no such job")
        log = [(f["id"], f["event"], f["verdict"], f["status"]) for f in got["log"]]
        need(log == getattr(job, "hooklog", []), "its delivery log is %s", log)
        want = sorted((h.event, h.due, h.tries) for h in self.hooks if h.job == job.id)
        need(sorted((f["event"], f["due_ms"], f["tries"]) for f in got["waiting"]) == want, "it waits for %s", want)

    def apply(self, name, args, record, got):
        self.events = []
        getattr(self, "do_" + name)(args, record, got)
