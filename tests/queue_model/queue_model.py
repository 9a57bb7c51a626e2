#!/usr/bin/python3
"""queue_model.py [--ops N | --seconds S] [--seed K] [--mutants [N]] [--replay FILE]

Random operations on a real redis-server, each answer and the whole state compared with model.py; every function is sent
twice in a row. Time is ours (link.py). A failure prints the seed and the shortest list of operations that was found to
fail. --mutants breaks one line of the library after the other: each must be noticed.
"""
import argparse
import json
import multiprocessing
import os
import random
import sys
import time

import keys
from gen import Generator
from link import CLOCK, FORGET, ROOT, RedisError, Server, answer, command, library, packed
from model import Model
from parts import CALLS, ENDED, Mismatch, need

import msgpack

QUEUE, START = "q", 1_800_000_000_000
EPISODE = 400
MORE = ("purge", "redrive", "expire", "hook_take")  # they take "up to n": said twice, more
READS = ("get", "list", "why", "stats", "workers", "tenants", "models", "hooks")
NUMBERS = ("attempt", "fails", "deaths", "prio", "sub", "start", "fin", "exp", "retry", "step", "total", "stop")
# (name, a line of the library, what it becomes)
MUTANTS = [
    ("no fence", "if job and job.state == 'running' and job.attempt == a.attempt then", "if job and job.state == 'running' then"),
    ("no tenant cap", "elseif cap > 0 and tonumber(f[3] or 0) >= cap then", "elseif false then"),
    ("n_run is not counted down", "redis.call('HINCRBY', b .. ':tenant:' .. job.tenant, 'n_run', '-1')", ""),
    ("levels upside down", "redis.call('ZRANGE', b .. ':turns', 0, -1)", "redis.call('ZREVRANGE', b .. ':turns', 0, -1)"),
    ("cancel of the running", "set_job(b, id, 'stop', 1, 'stop_at', t)", "set_job(b, id, 'stop_at', t)"),
    ("late results are lost", "if #late < LATE_MAX then", "if #late < 0 then"),
    ("deaths are fails", "redis.call('HINCRBY', b .. ':job:' .. id, 'deaths', '1')", "redis.call('HINCRBY', b .. ':job:' .. id, 'fails', '1')"),
    ("no warm first", "return t - since < WARM_MS and", "return false and"),
    ("one virtual time for all weights", "(ms - (job.cost or 0)) / tonumber(weight or 1)", "(ms - (job.cost or 0))"),
    ("the key outlives its job", "if held and held:match('(%S+)$') == a.id then", "if false then"),
    ("labels are ignored", "(class.labels == '' or has_labels(o.labels, class.labels))", "true"),
    ("pause of a generator", "not off['generator:' .. class.gen] and ", ""),
    ("a page repeats its last", "or flat[i] < after then", "or flat[i] <= after then"),
    ("only a turn moves", "redis.call('ZADD', b .. ':turn:' .. turn, 'XX', mine, tenant)", ""),
    ("a budget is for ever", "tonumber(f[5] or 0) == math.floor(t / DAY_MS) and tonumber(f[6] or 0)", "tonumber(f[6] or 0)"),
    ("the second worker hears nothing", "me.untold == tostring(job.attempt) or", "false or"),
]


class Run:
    """One queue on a server, and the model beside it."""

    def __init__(self, link):
        self.link, self.steps, self.careful = link, 0, False  # careful: a digest (slow) every time, not of one in eight

    def begin(self):
        self.link.call("FLUSHALL")
        self.link.call("HSET", "{q}:meta", *[w for c in CALLS for w in (c, 0)])
        self.m = Model(START)
        self.set_clock()

    def set_clock(self):
        now = self.m.now
        self.link.call("HSET", CLOCK, "s", now // 1000, "u", now % 1000 * 1000)

    def pass_time(self, ms):
        self.m.now += ms
        self.set_clock()
        gone = self.link.call("ZRANGE", FORGET, "-inf", "(%d" % self.m.now, "BYSCORE")
        if gone:
            self.link.send(command("DEL", *gone), command("ZREM", FORGET, *gone))

    def send(self, name, args, record, digest):
        """Twice, in one go: the digest before, and of each (answer, wake tokens, counts of calls, digest)."""
        once = [packed(QUEUE, name, args, record), command("XRANGE", "{q}:events", "-", "+"),
                command("XTRIM", "{q}:events", "MAXLEN", 0), command("LLEN", "{q}:wake"), command("DEL", "{q}:wake"),
                command("HMGET", "{q}:meta", *CALLS), command("HDEL", "{q}:meta", "passed"),
                command("DEBUG", "DIGEST") if digest else command("ECHO", "")]
        got = self.link.send(once[-2], once[-1], *once, *once)
        halves = []
        for half in (got[2:2 + len(once)], got[2 + len(once):]):
            head = answer(half[0])
            events = [msgpack.unpackb(e[1][1]) for e in half[1]]
            head["events"] = [(e["id"], e["what"], e["state"], e["attempt"]) for e in events]
            halves.append((head, half[3], [int(v or 0) for v in half[5]], half[7]))
        return got[1], halves

    def apply(self, name, args, record, got, wake, counts):
        """The model does the same."""
        m = self.m
        m.apply(name, args, record, got)
        need(sorted(m.events) == sorted(got["events"]), "events: %s, not %s", got["events"], m.events)
        for c, n in zip(CALLS, counts):
            need(m.n.get(c, 0) == n, "%s is %d, not %d", c, n, m.n.get(c, 0))
        if any(state == "queued" for _, _, state, _ in m.events):
            need(wake > 0, "a job waits and nobody is woken")
        self.read_dues()

    def read_dues(self):
        """Waits with jitter: within their bounds, and then as Redis has them."""
        m = self.m
        for job in m.jobs.values():
            if isinstance(job.retry, tuple):
                due = int(self.link.call("HGET", "{q}:job:" + job.id, "retry"))
                need(job.retry[1] <= due <= job.retry[2], "%s is due at %d, not %s", job.id, due, job.retry)
                job.retry = due
        for h in [h for h in m.hooks if isinstance(h.due, tuple)]:
            due = self.link.call("ZSCORE", "{q}:hooks", h.id)
            if due is None:
                need(h.due[2] > h.created + 36 * 3600000 - 1, "delivery %s was given up too early", h.id)
                m.hooks.remove(h)
                m.count("n_hooks_failed")
            else:
                need(h.due[1] <= int(due) <= h.due[2], "delivery %s is due at %s, not %s", h.id, due, h.due)
                h.due = int(due)
                h.hold = int(self.link.call("HGET", "{q}:hook:" + h.id, "hold"))

    def step(self, name, args, record, dt):
        if dt:
            self.pass_time(dt)
        self.steps += 1
        before, (first, second) = self.send(name, args, record, self.careful or self.steps % 8 == 0)
        self.apply(name, args, record, *first[:3])
        if name in READS:
            need(before == first[3], "reading changes nothing")
        more = name in MORE or name == "claim" and args["worker"] not in self.m.workers
        need(first[2] != second[2] or more or first[3] == second[3], "said again, it changed something")
        if not more:
            one, two = ({k: v for k, v in half[0].items() if k not in ("events", "again")} for half in (first, second))
            need(one == two, "said again, the answer is %s, not %s", two, one)
            need(name == "progress" or not second[0]["events"], "said again, there are events: %s", second[0]["events"])
        self.apply(name, args, record, *second[:3])

    def check_state(self):
        k = keys.Keys(self.link, QUEUE)
        jobs = keys.check(k)
        m = self.m
        need(set(jobs) == set(m.jobs), "jobs: %s", set(jobs) ^ set(m.jobs))
        for id, f in jobs.items():
            f = {n: int(v) if n in NUMBERS and v is not None else v for n, v in f.items()}
            m.check_fields(m.jobs[id], f)
        lease, clock = {}, {}
        for j in m.jobs.values():
            for name, t in j.leases.items():
                rank = j.ranks.index(name)
                lease[j.id + ("#%d" % rank if rank else "")] = t
            if j.clock is not None:
                clock[j.id] = j.clock
        need(k.get("lease") == lease, "leases: %s, not %s", k.get("lease"), lease)
        need(k.get("trash") == m.trash, "trash: %s, not %s", k.get("trash"), m.trash)
        need(k.get("again") == m.again, "again: %s, not %s", k.get("again"), m.again)
        need(k.get("clock") == clock, "clock: %s, not %s", k.get("clock"), clock)
        for state, limit in (("", 3), ("failed", 1), ("queued", 2)):
            self.walk(state, limit)
        need(sorted(k.get("hooks").values()) == sorted(h.due for h in m.hooks), "hooks")
        for (level, tenant), at in m.vt.items():
            has = k.get("vt:%d" % level).get(tenant, 0.0)
            need(abs(has - at) < 1e-3, "virtual time of '%s' in level %d: %s, not %s", tenant, level, has, at)

    def walk(self, state, limit):
        """The list page by page: each chosen job once, the newest first."""
        seen, cursor = [], ""
        while True:
            args = {"cursor": cursor, "limit": limit, **({"state": state} if state else {})}
            got = answer(self.link.send(packed(QUEUE, "list", args))[0])
            seen += [f["id"] for f in got["jobs"]]
            need(len(seen) <= len(self.m.jobs), "the list does not end")
            cursor = got["cursor"]
            if not cursor:
                break
        when = {j.id: j.fin if state == "failed" else j.sub for j in self.m.jobs.values() if state in ("", j.state)}
        need(seen == sorted(when, key=lambda id: (when[id], id), reverse=True), "the list in pages of %d: %s", limit, seen)

    def end(self):
        """Everything ends, is deleted, and leaves nothing behind."""
        m = self.m
        self.step("purge", {"max": 1000}, None, 0)
        for job in sorted(m.jobs):
            self.step("cancel", {"id": job, "who": "test"}, None, 0) if m.jobs[job].state == "running" else None
        for dt in (0, 3100, 31000, 6000, 6000):
            self.step("expire", {"max": 1000}, None, dt)
        for job in sorted(m.jobs):
            need(m.jobs[job].state in ENDED, "%s is still %s", job, m.jobs[job].state)
            self.step("delete", {"id": job}, None, 0)
        for job in sorted(m.trash):
            self.step("forgot", {"id": job}, None, 0)
        for worker in sorted(m.workers):
            self.step("bye", {"worker": worker}, None, 0)
        self.step("expire", {"max": 1000}, None, 3700000)
        self.pass_time(100000)
        self.check_state()
        keys.check_empty(keys.Keys(self.link, QUEUE))


def text_of(op):
    name, args, record, dt = op
    return json.dumps([name, args, record.hex() if record else None, dt])


def replay(run, ops, check=True):
    """The Mismatch of this list of operations, or None; and after how many. check: the whole state after each, and the end."""
    run.begin()
    run.careful = True
    n = 0
    try:
        for n, op in enumerate(ops):
            run.step(*op)
            if check:
                run.check_state()
        n = len(ops)
        if check:
            run.end()
    except Exception as e:
        return e, n
    return None, n


def shortest(run, ops, check, seconds):
    """Leaves out what is not needed for a failure."""
    until = time.time() + seconds
    error, n = replay(run, ops, check)
    if error is None:
        return ops, None
    ops, size = ops[:n + 1], max(1, n // 2)
    while time.time() < until:
        at = 0
        while at < len(ops) and time.time() < until:
            fewer = ops[:at] + ops[at + size:]
            e, n = replay(run, fewer, check)
            if e is not None and str(e)[-12:] == str(error)[-12:]:
                ops, error = fewer[:n + 1], e
            else:
                at += size
        if size == 1:
            break
        size = max(1, size // 2)
    return ops, error


def episode(run, seed, length):
    """The number of operations; or raises Failure."""
    rng, ops = random.Random(seed), []
    run.begin()
    run.careful = False
    gen, checking = Generator(rng, run.m), False
    try:
        for i in range(length):
            ops.append(gen.operation())
            checking = False
            run.step(*ops[-1])
            checking = True
            if i % 20 == 19:
                run.check_state()
        run.check_state()
        run.end()
    except Exception as e:
        e.ops, e.checking = ops, checking
        raise
    return len(ops)


def many_classes(run):
    """At most 256 classes wait at a time; more of one that waits already are welcome."""
    run.begin()
    run.careful = False
    for i in range(258):
        a = {"id": "c%d" % i, "gen": "avatar", "ver": 1, "prio": 5, "bytes": 0, "gflop": 0, "gmin": 1, "gmax": 1,
             "labels": "l%d" % (i if i < 257 else 3), "tenant": "", "ds": 0, "dr": 0, "ttl": 1000, "idem": "", "fp": "-", "cache": "",
             "due": 0, "delay": 0, "hook": "", "max": 10000}
        run.step("submit", a, b"\x80", 0)
    need(len(run.m.jobs) == 257, "%d jobs of 256 classes wait", len(run.m.jobs))
    run.end()


def explore(text, seed, seconds, most, shrink=20):
    """Episodes until the time is over: operations done and, where one failed, its sentence."""
    done, until = 0, time.time() + seconds
    with Server() as server:
        run = Run(server.link())
        run.link.load(text)
        if most > EPISODE:
            many_classes(run)
        while done < most and time.time() < until:
            try:
                done += episode(run, seed, EPISODE)
            except Exception as e:
                return done, tell(run, seed, e, shrink)
            seed += 1
    return done, None


def tell(run, seed, e, seconds):
    if not seconds:
        return repr(e)
    ops, error = shortest(run, e.ops, e.checking, seconds)
    if error is None:
        ops, error = e.ops, "%s (seen only with the checks every 20 operations)" % e
    return "seed %d: %s\nafter:\n%s" % (seed, repr(error), "\n".join(text_of(op) for op in ops))


def one_process(args):
    return explore(*args)


def mutants(seconds, which, folder):
    bad = 0
    for name, what, by in which:
        try:
            text = library(clock="shim", mutate=(what, by), folder=folder)
        except AssertionError as e:
            print("%-32s FAILED: %s" % (name, e))
            bad += 1
            continue
        n, error = explore(text, 1, seconds, 10 ** 9, 0)
        print("%-32s %s" % (name, "noticed in the first %d operations: %.90s" % (n + EPISODE, error) if error
                            else "FAILED: not noticed in %d operations" % n), flush=True)
        bad += error is None
    print("%d passed, %d failed, 0 skipped" % (len(which) - bad, bad))
    return bad


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--ops", type=int, default=10 ** 9)
    p.add_argument("--seconds", type=float, default=45)
    p.add_argument("--seed", type=int, default=1, help="of the first episode; the others follow")
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--mutants", type=int, nargs="?", const=len(MUTANTS), help="the first so many (all)")
    p.add_argument("--replay", help="a file of operations as a failure prints them")
    p.add_argument("--lua", default=os.path.join(ROOT, "common"), help="folder of another library, to try a change")
    a = p.parse_args()
    text = library(clock="shim", folder=a.lua)
    if a.mutants:
        return 1 if mutants(a.seconds, MUTANTS[:a.mutants], a.lua) else 0
    if a.replay:
        with open(a.replay, encoding="utf-8") as f:
            ops = [json.loads(line) for line in f if line.startswith("[")]
        with Server() as server:
            run = Run(server.link())
            run.link.load(text)
            error, n = replay(run, [(o[0], o[1], bytes.fromhex(o[2]) if o[2] else None, o[3]) for o in ops])
            print("after %d operations: %s" % (n, error))
            return 1 if error else 0
    jobs = [(text, a.seed + 1000000 * i, a.seconds, a.ops // a.processes) for i in range(a.processes)]
    with multiprocessing.Pool(a.processes) as pool:
        results = pool.map(one_process, jobs)
    for _, error in results:
        if error:
            print(error)
    failed = sum(error is not None for _, error in results)
    print("queue_model: %d operations, each sent twice, seeds from %s" % (sum(n for n, _ in results), [j[1] for j in jobs]))
    print("%d passed, %d failed, 0 skipped" % (len(results) - failed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
