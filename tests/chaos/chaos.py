#!/usr/bin/env python3
"""Kills, stops, starves and cuts off the queue's programs, and counts: jobs accepted, results visible, lost, double.

    chaos.py [--runs N] [--seed S] [--jobs N] [--only KIND] [--fence]      TROUPE_BUILD names the build folder

--runs    how many (default: each kind once)     --seed    of the first run; run i has seed S + i
--jobs    runs at a time                         --only    runs of one kind (crash, stop, power_always, ...)
--fence   the queue's functions without the fence: the runs must find that, and the program fails when they do not

A run: redis-server with an append-only file, two dispatchers, two or three workers with leases of a second, clients that
repeat every request until it is answered. The programs are those of tests/chaos/meson.build. Every run prints one line;
the last one has the sums. A point of common/crash.h that no run came to is a failure, when all kinds were run.
"""
import argparse
import multiprocessing
import os
import subprocess
import sys
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server")]

import kinds  # noqa: E402
from api_tools import BUILD  # noqa: E402
from programs import built, points  # noqa: E402
from run import Run  # noqa: E402

# Who owns a job: the state, and the attempt. Without it a worker that comes back after its lease is believed.
FENCE = ("job.state == 'running' and job.attempt == a.attempt", "job.state == 'running'")


def one(task):
    number, seed, index, mutate = task
    return Run(number, seed, kinds.matrix()[index], mutate).go()


def about_points():
    """Sentences of what is wrong with the points themselves."""
    for name in ("worker/troupe-worker", "dispatcher/troupe-dispatcher"):
        with open(os.path.join(BUILD, name), "rb") as f:
            if b"TROUPE_CRASH_AT" in f.read():
                yield "%s has crash points: it is what people install" % name
    for name in ("troupe-worker-quick", "troupe-dispatcher-crash"):
        done = subprocess.run([built(name), "--version"], env={**os.environ, "TROUPE_CRASH_AT": "worker_settled:x"},
                              capture_output=True, text=True)
        if done.returncode != 2 or "TROUPE_CRASH_AT" not in done.stderr:
            yield "%s takes a point that it does not understand: code %d" % (name, done.returncode)


def line_of(r):
    if r["skipped"]:
        return "run %3d  seed %d  %-14s skipped: %s" % (r["number"], r["seed"], r["kind"], r["skipped"])
    states = " ".join("%s %d" % s for s in r["states"].items())
    more = " ".join(r["faults"] + r["notes"])
    wrong = "".join("\n    WRONG: " + e for e in r["errors"])
    head = "run %3d  seed %d  %-14s %5.1f s  " % (r["number"], r["seed"], r["kind"], r["seconds"])
    return head + "accepted %d  visible %d  (%s, late %d, restarts %d)  lost %d  double %d  [%s]%s" % (
        r["accepted"], r["visible"], states, r["late"], r["restarts"], r["lost"], r["double"], more, wrong)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--runs", type=int)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--only")
    p.add_argument("--fence", action="store_true")
    a = p.parse_args()
    all_kinds = [i for i, k in enumerate(kinds.matrix()) if a.only in (None, k.name)]
    if not all_kinds:
        p.error("no kind %s" % a.only)
    n = a.runs or len(all_kinds)
    mutate = FENCE if a.fence else None
    tasks = [(i, a.seed + i, all_kinds[i % len(all_kinds)], mutate) for i in range(n)]
    began, found = time.time(), []
    print("chaos: %d runs, seed %d" % (n, a.seed), flush=True)
    wrong = list(about_points())
    for text in wrong:
        print("WRONG: " + text)
    with multiprocessing.Pool(a.jobs) as pool:
        for r in pool.imap_unordered(one, tasks):
            found.append(r)
            print(line_of(r), flush=True)
            if r["errors"] and not a.fence:
                print(r["logs"], flush=True)
    bad = [r for r in found if r["errors"]]
    skipped = [r for r in found if r["skipped"]]
    reached = {f for r in found for f in r["faults"]}
    missed = [name for name in points() if name not in reached]
    if a.only is None and n >= len(all_kinds):
        for name in missed:
            print("point %s: no run came to it" % name)
    else:
        missed = []
    total = {k: sum(r[k] for r in found) for k in ("accepted", "visible", "lost", "double", "late", "unsynced", "restarts")}
    print("%d runs in %.0f s: %d jobs accepted, %d results visible, lost %d, double %d; %d late results kept, %d programs "
          "started again, %d jobs of the last second before a power cut with everysec gone and submitted again" % (
              n, time.time() - began, total["accepted"], total["visible"], total["lost"], total["double"], total["late"],
              total["restarts"], total["unsynced"]))
    if a.fence:
        print("without the fence %d of %d runs are wrong%s" % (len(bad), n, "" if bad else ": that must not be missed"))
        return 0 if bad else 1
    failed = len(bad) + len(missed) + len(wrong)
    print("%d passed, %d failed, %d skipped" % (n - len(bad) - len(skipped), failed, len(skipped)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
