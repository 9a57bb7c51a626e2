#!/usr/bin/python3
"""sim.py [--workers N] [--tenants N] [--jobs N] [--seed K]: the queue's own functions under simulated time.

Events are simulated here; every submit, claim and settle is a real call of the real library on a private redis-server
whose clock is ours. Four tests: fairness between tenants that always have work (Jain's index of what each got by its
weight), bursts of all lengths and levels (waits, nobody starves, levels are strict), warm first and gangs on hosts (no
deadlock), and the cost of a claim in Redis' microseconds with few and with many jobs waiting.
Jain, Chiu, Hawe: A quantitative measure of fairness and discrimination (1984).
"""
import argparse
import bisect
import collections
import heapq
import os
import random
import sys
import time

import msgpack

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "queue_model"))
from link import CLOCK, Server, answer, command, fcall, library, packed  # noqa: E402

QUEUE, START = "q", 1_800_000_000_000
CHUNK = 200  # commands in one go


class Failure(Exception):
    pass


def need(true, text, *values):
    if not true:
        raise Failure(text % values if values else text)


def jain(shares):
    return sum(shares) ** 2 / (len(shares) * sum(x * x for x in shares)) if shares else 1.0


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))] if values else 0


class Queue:
    """The functions under a clock of ours."""

    def __init__(self, link, text):
        self.link, self.now, self.serial = link, START, 0
        link.call("FLUSHALL")
        link.load(text)
        self.at(START)

    def at(self, ms):
        self.now = ms
        self.link.call("HSET", CLOCK, "s", ms // 1000, "u", ms % 1000 * 1000)

    def submit(self, jobs):
        """[(tenant, priority, GFLOP, gmin)] -> ids"""
        commands, ids = [], []
        for tenant, prio, gflop, gmin in jobs:
            self.serial += 1
            ids.append("j%d" % self.serial)
            commands.append(packed(QUEUE, "submit", {
                "id": ids[-1], "gen": "avatar", "ver": 1, "prio": prio, "bytes": 0, "gflop": gflop, "gmin": gmin, "gmax": gmin,
                "labels": "", "tenant": tenant, "ds": 0, "dr": 0, "ttl": 3600000, "idem": "", "fp": "-", "cache": "", "due": 0,
                "delay": 0, "hook": "", "max": 10 ** 9}, b"\x81\xa2id" + msgpack.packb(ids[-1])))
        for i in range(0, len(commands), CHUNK):
            for raw in self.link.send(*commands[i:i + CHUNK]):
                need(answer(raw)["r"] == "OK", "a submit is refused")
        return ids

    def claims(self, offers):
        """[(worker, host, warm)] -> [answer]"""
        commands = []
        for worker, host, warm in offers:
            self.serial += 1
            commands.append(packed(QUEUE, "claim", {
                "worker": worker, "gens": "avatar", "bytes": 0, "ver": 1, "lease": 10 ** 9, "token": "t%d" % self.serial,
                "labels": "", "warm": warm, "host": host, "device": "sim"}))
        return [answer(raw) for i in range(0, len(commands), CHUNK) for raw in self.link.send(*commands[i:i + CHUNK])]

    def settles(self, done):
        """[(id, attempt, GFLOP)]"""
        commands = [packed(QUEUE, "settle", {
            "id": id, "attempt": attempt, "verdict": "ok", "code": "OK", "error": "", "result": "{}", "max_fails": 3,
            "backoff": 1000, "gflop": gflop, "stages": {}, "weights": "", "unfit": False}) for id, attempt, gflop in done]
        for i in range(0, len(commands), CHUNK):
            for raw in self.link.send(*commands[i:i + CHUNK]):
                need(answer(raw)["r"] == "OK", "a settle is refused")

    def delete(self, ids):
        for i in range(0, len(ids), CHUNK):
            self.link.send(*[packed(QUEUE, "delete", {"id": id}) for id in ids[i:i + CHUNK]])

    def tenants(self, weights):
        self.link.send(*[packed(QUEUE, "tenant", {"name": n, "weight": w, "max_running": 0, "max_queued": 0, "gpu_s_day": 0,
                                                  "rate": 0, "burst": 0}) for n, w in weights.items()])

    def hello(self, workers):
        self.link.send(*[packed(QUEUE, "hello", {"worker": w, "ttl": 10 ** 12, "info": {
            "generators": "avatar", "memory_bytes": 0, "labels": "", "host": host, "gang": int(bool(host)), "device": "sim",
            "ver": 1, "pid": 1}}) for w, host in workers])

    def cpu(self):
        """Microseconds of CPU that Redis' thread has taken: a busy machine does not count."""
        text = self.link.call("INFO", "cpu").decode()
        return sum(float(line.split(":")[1]) * 1e6 for line in text.splitlines() if line.startswith("used_cpu_") and "_main_" in line)

    def commands(self):
        """Commands since Redis' counts were reset."""
        text = self.link.call("INFO", "commandstats").decode()
        return sum(int(x.split("calls=")[1].split(",")[0]) for x in text.split() if x.startswith("cmdstat_"))


class World:
    """Workers that claim whenever they are free, jobs of known length; the events of both in order of time."""

    def __init__(self, queue, n_workers, rng):
        self.q, self.rng = queue, rng
        self.free = ["w%d" % i for i in range(n_workers)]
        queue.hello([(w, "") for w in self.free])
        self.ends, self.jobs, self.running = [], {}, {}
        self.waiting = collections.Counter()  # of a tenant
        self.finished, self.deleted = [], []

    def submit(self, jobs):
        """[(tenant, priority, seconds)]: a GFLOP a ms here, told with an error of up to a third."""
        asked = [(t, p, s * 1000 * self.rng.uniform(0.75, 1.33), 1) for t, p, s in jobs]
        for id, (tenant, prio, seconds) in zip(self.q.submit(asked), jobs):
            self.jobs[id] = (tenant, prio, seconds, self.q.now)
            self.waiting[tenant] += 1

    def teach(self):
        """One job, by which the device's rate is learnt."""
        self.submit([("t0", 9, 1)])
        self.hand_out()
        while self.ends:
            self.run(self.ends[0][0])
        self.finished = []

    def hand_out(self):
        """All free workers claim, until one finds nothing."""
        while self.free:
            offers = [(w, "", "avatar") for w in self.free[:CHUNK]]
            nothing = False
            still = self.free[CHUNK:]
            for (w, _, _), got in zip(offers, self.q.claims(offers)):
                if not got["got"]:
                    still.append(w)
                    nothing = True
                    continue
                id = msgpack.unpackb(got["record"])["id"]
                heapq.heappush(self.ends, (self.q.now + round(self.jobs[id][2] * 1000), id, got["attempt"], w))
                self.running[id] = self.q.now
                self.waiting[self.jobs[id][0]] -= 1
            self.free = still
            if nothing:
                return

    def run(self, until, tick=None):
        """Goes on to that time; settles what ends on the way."""
        while self.ends and self.ends[0][0] <= until:
            at, batch = self.ends[0][0], []
            while self.ends and self.ends[0][0] <= at + 50:  # within a twentieth of a second: together
                batch.append(heapq.heappop(self.ends))
            self.q.at(max(self.q.now, batch[-1][0]))
            self.q.settles([(id, attempt, self.jobs[id][2] * 1000) for _, id, attempt, _ in batch])
            for end, id, _, w in batch:
                tenant, prio, seconds, submitted = self.jobs.pop(id)
                self.finished.append((tenant, prio, seconds, submitted, self.running.pop(id), end))
                self.deleted.append(id)
                self.free.append(w)
            if len(self.deleted) >= 2000:
                self.q.delete(self.deleted)
                self.deleted = []
            if tick:
                tick()
            self.hand_out()
        self.q.at(max(until, self.q.now))


# ---- the tests ----

def fairness(q, a, rng):
    """Tenants with weights 1, 2, 4 and jobs of very different lengths, always with work in both levels they use."""
    weights = {"t%d" % i: (1, 2, 4)[i % 3] for i in range(a.tenants)}
    q.tenants(weights)
    world = World(q, a.workers, rng)
    world.teach()
    depth = max(8, 4 * a.workers // a.tenants)  # more than anybody may start at once: then all always wait
    lengths = {t: rng.choice((5, 20, 60)) for t in weights}  # one sends long jobs, another short ones

    def more():
        world.submit([(t, 5, lengths[t] * rng.uniform(0.5, 1.5)) for t in weights for _ in range(depth - world.waiting[t])])

    more()
    world.hand_out()
    while len(world.finished) < a.fair_jobs:
        world.run(q.now + 5000, more)
        more()
        world.hand_out()
    got = dict.fromkeys(weights, 0.0)
    for tenant, _, seconds, *_ in world.finished:
        got[tenant] += seconds
    for id, started in world.running.items():
        got[world.jobs[id][0]] += (q.now - started) / 1000
    shares = [got[t] / weights[t] for t in weights]
    index = jain(shares)
    print("fairness: %d tenants with weights 1, 2, 4, %d workers, %d jobs: Jain index %.4f, least %.2f and most %.2f of the mean"
          % (a.tenants, a.workers, len(world.finished), index, min(shares) * len(shares) / sum(shares),
             max(shares) * len(shares) / sum(shares)))
    need(index >= 0.98, "the index is below 0.98")
    nobody_starves(world.finished, weights, lengths, a.workers)


def nobody_starves(finished, weights, lengths, n_workers):
    """Between two starts of a tenant the others get at most what their weights give them in that time and one job more
    each way (start-time fair queueing); the workers need so long for it, and one job's time more."""
    longest = {t: 1.5 * 1.33 * n for t, n in lengths.items()}  # what is predicted at most
    each_way = 2 * sum(longest.values())
    starts, worst = {}, 0.0
    for tenant, _, _, _, started, _ in finished:
        starts.setdefault(tenant, []).append(started / 1000)
    for tenant, at in starts.items():
        at.sort()
        gap = max((b - a for a, b in zip(at, at[1:])), default=0)
        share = sum(weights.values()) * longest[tenant] / weights[tenant]
        bound = (share + each_way) / n_workers + max(longest.values())
        need(gap <= bound, "tenant %s waited %.0f s between two starts, at most %.0f s are fair", tenant, gap, bound)
        worst = max(worst, gap / bound)
    need(set(starts) == set(weights), "%d tenants got nothing", len(weights) - len(starts))
    print("fairness: every tenant was served in time; the longest wait was %.0f %% of its bound" % (100 * worst))


def bursts(q, a, rng):
    """Arrivals in bursts, three levels, lengths from 2 s to 5 min; then everything is drained."""
    world = World(q, a.workers, rng)
    names = ["b%d" % i for i in range(a.tenants)]
    left, strict = a.burst_jobs, 0
    load = a.workers / 20.0  # jobs a second that keep them busy: a job takes about 20 s
    while left > 0:
        n = min(left, max(1, int(load * rng.choice((0.1, 0.3, 1, 4)) * 5)))
        left -= n
        busy = rng.sample(names, max(1, len(names) // 10))
        world.submit([(rng.choice(busy), rng.choices((9, 5, 0), (1, 7, 2))[0], min(300, max(2, rng.lognormvariate(2.5, 1))))
                      for _ in range(n)])
        world.hand_out()
        world.run(q.now + 5000)
        level = [p for id, (_, p, _, _) in world.jobs.items() if id not in world.running]
        if not world.free and level:
            strict += 1
    while world.jobs:
        need(world.ends, "jobs wait for ever: %d", len(world.jobs))
        world.run(world.ends[0][0])
        world.hand_out()
    waits = {}
    for _, prio, _, submitted, started, _ in world.finished:
        waits.setdefault(prio, []).append((started - submitted) / 1000)
    for prio in sorted(waits, reverse=True):
        w = waits[prio]
        print("bursts: level %d: %d jobs, wait p50 %.1f s, p95 %.1f s, p99 %.1f s, longest %.1f s"
              % (prio, len(w), percentile(w, 50), percentile(w, 95), percentile(w, 99), max(w)))
    need(len(world.finished) == a.burst_jobs, "%d of %d jobs ended", len(world.finished), a.burst_jobs)
    if strict:
        means = [sum(waits[p]) / len(waits[p]) for p in sorted(waits, reverse=True)]
        need(means == sorted(means), "a lower level waits less: %s", means)
    levels_strict(world.finished)


def levels_strict(finished):
    """No job of a lower level begins while one of the highest waits."""
    by = {}
    for _, prio, _, submitted, started, _ in finished:
        by.setdefault(prio, []).append((started, submitted))
    top = sorted(by[max(by)])
    starts = sorted(s for p in by if p != max(by) for s, _ in by[p])
    bad = 0
    for began, submitted in top:
        lo, hi = bisect.bisect_right(starts, submitted), bisect.bisect_left(starts, began)
        bad += hi > lo
    print("bursts: a lower level went before a waiting higher one: %d of %d times" % (bad, len(top)))
    need(bad == 0, "levels are not strict")


def gangs(q, a, rng):
    """Hosts of four, jobs of 1, 2 and 4 devices; every one of them runs, and warm workers are preferred."""
    hosts = max(2, a.workers // 40)
    crew = [("g%d.%d" % (h, i), "h%d" % h) for h in range(hosts) for i in range(4)]
    q.hello(crew)
    n, warm = {}, set(w for w, h in crew if int(h[1:]) % 2 == 0)
    sizes = [rng.choices((1, 2, 4), (6, 3, 1))[0] for _ in range(a.gang_jobs)]
    ids = q.submit([("x%d" % rng.randrange(5), 5, 4000, g) for g in sizes])
    size_of, state, busy, ends = dict(zip(ids, sizes)), {}, {}, []
    gathered, polls, until = 0, 0, q.now + 3_600_000
    while len(state) < len(ids) or busy:
        need(q.now < until, "after an hour %d of %d jobs have not begun", len(ids) - len(state), len(ids))
        while ends and ends[0][0] <= q.now:
            _, id, attempt = heapq.heappop(ends)
            q.settles([(id, attempt, 0)])
            for w in [w for w, j in busy.items() if j == id]:
                del busy[w]
        for w, h in rng.sample(crew, len(crew)):
            if w in busy:
                continue
            got = q.claims([(w, h, "avatar" if w in warm else "")])[0]
            polls += 1
            if got["got"]:
                id = msgpack.unpackb(got["record"])["id"]
                busy[w] = id
                need(got["size"] == size_of[id], "%s got %d devices, not %d", id, got["size"], size_of[id])
                need(got["attempt"] == 1, "%s runs again", id)
                if id not in state:
                    heapq.heappush(ends, (q.now + rng.randint(2000, 8000), id, got["attempt"]))
                state.setdefault(id, set()).add((got["rank"], h))
        q.at(q.now + 250)
    for id, ranks in state.items():
        need(len({r for r, _ in ranks}) == size_of[id], "%s: ranks %s", id, ranks)
        need(len({h for _, h in ranks}) == 1, "%s ran on several hosts", id)
        gathered += size_of[id] > 1
    print("gangs: %d hosts of 4, %d jobs, %d of them on 2 or 4 devices: all ran on one host, no deadlock; %.0f s simulated"
          % (hosts, len(ids), gathered, (q.now - START) / 1000))


def warmth(q, a, rng):
    """Few jobs, half of the workers have the generator loaded: who gets them?"""
    crew = ["c%d" % i for i in range(20)]
    q.hello([(w, "") for w in crew])
    hot, hits, total = set(crew[::2]), 0, 0
    for _ in range(a.warm_jobs):
        q.claims([(w, "", "avatar" if w in hot else "") for w in crew])  # all are idle and say so
        q.submit([("w", 5, 100, 1)])
        for _ in range(4):
            order = rng.sample(crew, len(crew))
            got = [(w, g) for w, g in zip(order, q.claims([(w, "", "avatar" if w in hot else "") for w in order])) if g["got"]]
            if got:
                break
            q.at(q.now + 200)
        need(len(got) == 1, "one worker has it")
        hits += got[0][0] in hot
        total += 1
        q.at(q.now + 100)
        q.settles([(msgpack.unpackb(got[0][1]["record"])["id"], got[0][1]["attempt"], 0)])
    print("warm first: %d of %d jobs went to a worker that has the generator loaded" % (hits, total))
    need(hits == total, "a cold worker took a job although a warm one was idle")


def cost(q, a, rng):
    """Redis' own microseconds of a claim, with few and with many jobs waiting for many tenants."""
    found, commands = [], []
    names = ["k%d" % i for i in range(a.tenants)]
    q.hello([("k%d" % i, "") for i in range(100)])
    q.submit([(rng.choice(names), rng.choice((5, 0, 9)), 50, 1) for _ in range(500)])
    for n in (1000, a.jobs):
        have = int(q.link.call("ZCARD", "{q}:wait"))
        while have < n:
            more = min(20000, n - have)
            q.submit([(rng.choice(names), rng.choice((5, 5, 5, 0, 9)), rng.uniform(1, 100), 1) for _ in range(more)])
            have += more
        best = 1e9
        for _ in range(8):
            q.link.call("CONFIG", "RESETSTAT")
            before = q.cpu()
            taken = q.claims([("k%d" % (i % 100), "", "avatar") for i in range(600)])
            best = min(best, (q.cpu() - before) / 600)
            sent = q.commands() / 600
            need(all(t["got"] for t in taken), "a claim got nothing")
            q.submit([(rng.choice(names), 5, rng.uniform(1, 100), 1) for _ in range(600)])
        found.append(best)
        commands.append(sent)
        print("cost: %d jobs of %d tenants wait: a claim takes %.1f us of Redis' CPU, %.1f commands"
              % (n, a.tenants, best, sent), flush=True)
    print("cost: ratio %.2f; Redis has %s" % (found[1] / found[0], memory(q)))
    need(commands[1] <= 1.02 * commands[0], "a claim needs %.1f commands instead of %.1f", commands[1], commands[0])
    # Fewer jobs are measured while other tests disturb; a claim that walked along its line would take twenty times as long.
    need(found[1] <= (1.5 if a.long else 2.5) * found[0], "a claim's cost grows with the queue")


def memory(q):
    text = q.link.call("INFO", "memory").decode()
    return text.split("used_memory_human:")[1].split("\r")[0]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--workers", type=int, default=200)
    p.add_argument("--tenants", type=int, default=50)
    p.add_argument("--jobs", type=int, default=20000, help="waiting, for the cost of a claim")
    p.add_argument("--fair-jobs", type=int, default=8000)
    p.add_argument("--burst-jobs", type=int, default=6000)
    p.add_argument("--gang-jobs", type=int, default=150)
    p.add_argument("--warm-jobs", type=int, default=30)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", help="one test")
    p.add_argument("--long", action="store_true", help="10,000 workers, 1,000 tenants, 1,000,000 jobs: minutes")
    p.add_argument("--lua", help="folder of another library, to try a change")
    a = p.parse_args()
    if a.long:
        a.workers, a.tenants, a.jobs, a.fair_jobs, a.burst_jobs, a.gang_jobs = 10000, 1000, 1000000, 200000, 300000, 2000
    text = library(clock="time", **({"folder": a.lua} if a.lua else {}))
    passed = failed = 0
    for test in (fairness, bursts, gangs, warmth, cost):
        if a.only not in (None, test.__name__):
            continue
        began = time.time()
        with Server() as server:
            try:
                test(Queue(server.link(), text), a, random.Random(a.seed))
                passed += 1
            except Failure as e:
                print("%s FAILED (seed %d): %s" % (test.__name__, a.seed, e))
                failed += 1
        print("   %.1f s" % (time.time() - began), flush=True)
    print("%d passed, %d failed, 0 skipped" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
