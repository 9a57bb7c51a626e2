"""One run: a queue with its programs and clients, faults at their places, and then the count: what was accepted, what came
out, what is left behind.
"""
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time

import checks
from clients import FINAL, Job, Wrong
from cluster_tools import TINY, until
from programs import LEASE_S, DispatcherSlot, RedisProgram, WorkerSlot

RUN_S = 60      # a run that has not ended by then is wrong
PUSH_S = 12     # so long faults that have not happened yet are given more jobs
TICK_S = 0.02


class Skipped(Exception):
    """This machine cannot do it."""


class Run:
    def __init__(self, number, seed, kind, mutate=None):
        self.number, self.seed, self.kind, self.mutate = number, seed, kind, mutate
        self.rng = random.Random(seed)
        self.jobs, self.errors, self.notes, self.slots = [], [], [], []
        self.folder = tempfile.mkdtemp(prefix="troupe-chaos-")
        self.volume = os.path.join(self.folder, "volume")
        self.deadline = time.time() + RUN_S
        # what a scenario changes
        self.n_jobs = self.rng.randrange(4, 7)
        self.n_cancels = self.rng.randrange(0, 3)
        self.worker_faults = [[], []]
        self.dispatcher_faults = [[], []]
        self.worker_flags, self.dispatcher_flags = [], []
        self.worker_prefix = [(), (), (), ()]
        self.worker_redis = [None] * 4
        self.redis_options = {}
        self.fields = {}
        self.cached = 0  # share of the jobs that take an earlier video of the same request
        self.real = None
        self.fail_codes = set()
        self.timed = []          # (seconds after the start, function)
        self.while_open = []     # undone at the end
        self.forgets = False
        self.needs_late = False
        self.redis = None
        self.receiver = None     # of webhooks
        self.lag_s = 0           # the longest that this machine let us wait: leases run out when it starves everybody
        threading.Thread(target=self.feel_lag, daemon=True).start()

    def rng_of(self, number):
        return random.Random(self.seed * 1000 + number)

    def feel_lag(self):
        while time.time() < self.deadline + 20:
            before = time.time()
            time.sleep(TICK_S)
            lag = time.time() - before - TICK_S
            self.lag_s = max(self.lag_s, lag)
            self.deadline += lag if lag > LEASE_S / 2 else 0  # nobody else could do anything either

    # ---- what clients ask ----

    def some_port(self, rng):
        ports = [p for p in (d.port() for d in self.dispatchers) if p]
        return rng.choice(ports) if ports else None

    def cuts_that_lose(self):
        return self.redis.cuts if self.redis.power and self.redis.sync == "everysec" else []

    def may_lose_more(self):
        """Is a cut ahead, or just over, that takes back what was answered?"""
        loses = self.redis.power and self.redis.sync == "everysec"
        return loses and (bool(self.timed) or time.time() < self.redis.cuts[-1] + 1)

    def may_fail(self, v):
        """FAILED is right only where the faults of this run demand it."""
        if v["deaths"] >= 3:
            return sum(w.deaths for w in self.workers) >= 3 or self.lag_s > LEASE_S / 2
        return (v["error"] or {}).get("code") in self.fail_codes

    # ---- the programs ----

    def begin(self):
        self.redis = RedisProgram(self.folder, **self.redis_options)
        url = "unix://" + self.redis.path
        self.dispatchers = [DispatcherSlot(self.folder, "dispatcher%d" % i, url, self.volume, faults, self.dispatcher_flags)
                            for i, faults in enumerate(self.dispatcher_faults)]
        self.workers = [WorkerSlot(self.folder, "w%d" % i, self.worker_redis[i] or url, self.volume, faults, self.real,
                                   self.worker_prefix[i], self.worker_flags) for i, faults in enumerate(self.worker_faults)]
        self.slots = self.dispatchers + self.workers
        if self.mutate:
            self.break_library()
        for s in self.slots:
            s.start()
        self.redis_at = time.time()

    def break_library(self):
        """The queue's functions with one condition taken out, under the same version."""
        first = DispatcherSlot(self.folder, "loader", "unix://" + self.redis.path, self.volume)
        first.start()
        until(first.port, 20)
        redis = self.redis.connect()
        library = redis("FUNCTION", "LIST", "LIBRARYNAME", "troupe", "WITHCODE")[0]
        code = library[library.index(b"library_code") + 1].decode()
        old, new = self.mutate
        assert code.count(old) == 1, "the condition to take out is there %d times" % code.count(old)
        redis("FUNCTION", "LOAD", "REPLACE", code.replace(old, new))
        first.end()
        first.ended()

    def add_job(self, cancel=False):
        j = Job(self, len(self.jobs))
        if cancel:
            j.cancel_after = self.rng.uniform(0, 1.2)
        self.jobs.append(j)
        return j

    def held_by(self, worker):
        """(job, attempt) that it claimed last."""
        for line in reversed(worker.log().splitlines()):
            if "job claimed" in line:
                words = dict(w.split("=", 1) for w in line.split() if "=" in w)
                return words["job"], int(words["attempt"])
        return None, 0

    def resume_stopped(self):
        for w in self.workers:
            if not (w.fault and w.fault.resume and w.is_stopped()):
                continue
            job, attempt = self.held_by(w)
            now = self.redis.connect()("HMGET", "{avatar}:job:" + job, "attempt", "state")
            if now[0] is None:
                continue
            over = int(now[0]) > attempt if w.fault.resume == "claimed" else now[1].decode() in FINAL
            if over and time.time() > w.stopped_at + LEASE_S + 0.3:
                w.resume()

    def look(self):
        for s in self.slots:
            text = s.look()
            if text:
                self.errors.append(text)
        self.resume_stopped()
        while self.timed and time.time() - self.began >= self.timed[0][0]:
            self.timed[0][1]()  # first done, then gone: may_lose_more looks
            self.timed.pop(0)

    def left(self, late=False):
        return [f for s in self.slots for f in s.left(late)]

    def ready(self):
        return all(d.port() for d in self.dispatchers) and all(w.ready() for w in self.workers)

    def play(self):
        if self.timed:
            until(self.ready, 20)
        self.began = time.time()
        self.timed.sort(key=lambda t: t[0])
        for i in range(self.n_jobs):
            self.add_job(cancel=i < self.n_cancels)
        for j in self.jobs:
            j.thread.start()
        while time.time() < self.deadline + 5:
            self.look()
            if all(j.over for j in self.jobs) and not self.timed:
                if self.errors or any(j.error for j in self.jobs):
                    return
                if not self.left() or time.time() - self.began > PUSH_S:
                    return
                self.add_job(cancel=self.n_cancels > self.n_jobs / 2).thread.start()
            time.sleep(TICK_S)

    # ---- counting ----

    def all_of(self, work):
        """work(job) for all jobs, each in a thread, while the programs are looked after."""
        def one(j):
            try:
                work(j)
            except Wrong as e:
                self.errors.append(str(e))
        threads = [threading.Thread(target=one, args=(j,), daemon=True) for j in self.jobs if j.id]
        for t in threads:
            t.start()
        while any(t.is_alive() for t in threads):
            self.look()
            time.sleep(TICK_S)

    def same_as_before(self, j):
        v = j.get()
        if v is None:
            raise Wrong("job %s is gone" % j.id)
        for name in ("state", "result", "attempt"):
            if j.view and v[name] != j.view[name]:
                raise Wrong("job %s: %s was %s and became %s" % (j.id, name, j.view[name], v[name]))

    def idle(self):
        """No worker has a job in work: late ends are told too."""
        for w in self.workers:
            while time.time() < self.deadline and (w.busy() if w.ready() else True):
                self.look()
                time.sleep(TICK_S)

    def verify(self):
        self.errors += [j.error for j in self.jobs if j.error]
        if self.errors:
            return
        self.idle()
        redis = self.redis.connect()
        while self.receiver and redis("EXISTS", "{avatar}:hooks") and time.time() < self.deadline:
            self.look()
            time.sleep(TICK_S)
        if not self.forgets:
            self.all_of(self.same_as_before)
            self.errors += checks.ended_jobs(redis, self.jobs)
        n = [redis("HEXISTS", "{avatar}:job:" + j.id, "late") for j in self.jobs]
        self.n_late = sum(n)
        if self.needs_late and not self.n_late:
            self.errors.append("no late result was kept")
        self.errors += checks.blobs(self.volume)
        if self.receiver:
            self.errors += checks.hooks(self.receiver, self.jobs)
        if self.forgets:
            self.wait_forgotten(redis)
        self.all_of(Job.delete)
        self.empty_trash(redis)
        unsynced = set().union(*(j.lost_ids for j in self.jobs))  # Redis cannot name their files any more
        self.errors += checks.all_deleted(redis, self.volume, unsynced)
        self.sweep()

    def empty_trash(self, redis):
        """What nobody could say of files that are gone is asked again after a minute, which is over now."""
        while redis("EXISTS", "{avatar}:trash") and time.time() < self.deadline:
            for job in redis("ZRANGE", "{avatar}:trash", 0, -1):
                redis("ZADD", "{avatar}:trash", "XX", 0, job)
            until_s = time.time() + 1.2
            while time.time() < until_s and redis("EXISTS", "{avatar}:trash"):
                self.look()
                time.sleep(TICK_S)

    def wait_forgotten(self, redis):
        while redis("EXISTS", "{avatar}:all") and time.time() < self.deadline:
            self.look()
            time.sleep(TICK_S)

    def sweep(self):
        """Temporary files of writers that died: a day later the next program that starts removes them."""
        tmp = os.path.join(self.volume, "tmp")
        for name in os.listdir(tmp):
            os.utime(os.path.join(tmp, name), (time.time() - 100000,) * 2)
        if os.listdir(tmp):
            w = WorkerSlot(self.folder, "sweeper", "unix://" + self.redis.path, self.volume)
            w.start()
            self.slots.append(w)
            try:
                until(lambda: not os.listdir(tmp), 10)
            except AssertionError:
                self.errors.append("temporary files stay: %s" % os.listdir(tmp))

    def finish(self):
        for s in self.slots:
            if s.process:
                s.end()
        for s in self.slots:
            if s.process:
                text = s.ended()
                if text:
                    self.errors.append(text)
        if self.redis:
            self.redis.stop()
        for undo in reversed(self.while_open):
            undo()

    def logs(self):
        return "\n".join("---- %s\n%s" % (os.path.basename(p), open(p, errors="replace").read()[-3000:])
                         for s in self.slots for p in s.logs)

    def go(self):
        """What happened: a dictionary that can be added up."""
        began = time.time()
        self.n_late, visible, double, skipped = 0, 0, 0, None
        try:
            self.kind.plan(self)
            self.begin()
            self.play()
            self.verify()
            visible, double = checks.results(self.redis.connect(), self.jobs)
        except Skipped as e:
            skipped = str(e)
        except Exception as e:
            self.errors.append("%s: %s" % (type(e).__name__, e))
        try:
            self.finish()
        except Exception as e:
            self.errors.append("at the end: %s: %s" % (type(e).__name__, e))
        if self.lag_s > LEASE_S / 2:
            self.notes.append("this machine stood still for %.1f s" % self.lag_s)
        faults = [f.name for s in self.slots for f in s.reached]
        states = [j.view["state"] for j in self.jobs if j.view]
        if double:
            self.errors.append("%d results were visible twice" % double)
        out = {"number": self.number, "seed": self.seed, "kind": self.kind.name, "skipped": skipped, "errors": self.errors,
               "faults": faults, "accepted": sum(j.id is not None for j in self.jobs), "visible": visible, "double": double,
               "lost": sum(bool(j.error and "not there" in j.error) for j in self.jobs),
               "unsynced": sum(len(j.lost_ids) for j in self.jobs), "late": self.n_late,
               "states": {s: states.count(s) for s in FINAL if s in states}, "notes": self.notes,
               "restarts": sum(max(0, len(s.logs) - 1) for s in self.slots), "seconds": time.time() - began,
               "logs": self.logs() if self.errors else ""}
        shutil.rmtree(self.folder, ignore_errors=True)
        return out


def as_root(*words):
    """Runs a command that needs rights; Skipped when this user has none or the program is not here."""
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        raise Skipped("%s is not here" % words[0])
    if done.returncode:
        raise Skipped("%s: %s" % (" ".join(words[:3]), done.stderr.strip()[:120]))


REAL = TINY
