"""What must hold in Redis and on the volume when all jobs have ended, and when all are deleted."""
import hashlib
import os
import re

from api_tools import unpack_at

BASE = b"{avatar}:"
# What may be there when no job is: counters, statistics, settings, workers, events, folders that are looked at once more.
ALLOWED = (r"again|meta|events|wake|hist|rate|gpu|model|offers|workers|worker:.*|idle:.*|tenants|tenant:.*|vt:.*|paused")
OF_JOBS = r"wait|line:.*|turn:.*|turns|lines:.*|lease|delayed|clock|forming:.*|hooks|hook:.*|hookjob:.*"
FINAL = ("done", "failed", "cancelled", "timed_out")


def keys(redis):
    found, cursor = set(), b"0"
    while True:
        cursor, page = redis("SCAN", cursor, "COUNT", 1000)
        found.update(page)
        if cursor == b"0":
            return sorted(found)


def events(redis):
    return [unpack_at(fields[1])[0] for _, fields in redis("XRANGE", BASE + b"events", "-", "+")]


def ended_jobs(redis, jobs):
    """After the last job's end. Yields sentences."""
    ids = {j.id for j in jobs}
    there = {k[len(BASE) + 4:].decode() for k in keys(redis) if k.startswith(BASE + b"job:")}
    for job in sorted(ids - there):
        yield "job %s is not there any more" % job
    for job in sorted(there - ids):
        yield "job %s is there, nobody has submitted it: a key stood for two jobs" % job
    for k in keys(redis):
        if re.fullmatch(OF_JOBS, k[len(BASE):].decode()):
            yield "%s is left behind: %s" % (k.decode(), redis("TYPE", k))
    for k in keys(redis):
        if k.startswith(BASE + b"tenant:"):
            for field in ("n_wait", "n_run"):
                if int(redis("HGET", k, field) or 0) != 0:
                    yield "%s: %s is %s and nothing waits or runs" % (k.decode(), field, redis("HGET", k, field).decode())


def results(redis, jobs):
    """(results visible, results that were visible twice or changed). The stream has all of them: the runs are short."""
    done, ends = {}, {}
    for e in events(redis):
        if e["state"] in FINAL and e["what"] != "delete":
            ends[e["id"]] = ends.get(e["id"], 0) + 1
            done[e["id"]] = done.get(e["id"], 0) + (e["state"] == "done")
    double = sum(n > 1 for n in ends.values()) + sum(j.final_frames > 1 for j in jobs)
    return sum(n > 0 for n in done.values()), double


def all_deleted(redis, volume, unsynced):
    for k in keys(redis):
        name = k[len(BASE):].decode() if k.startswith(BASE) else None
        if name is None or not re.fullmatch(ALLOWED, name):
            yield "%s is left behind when all jobs are deleted" % k.decode()
    for name in sorted(set(os.listdir(os.path.join(volume, "results"))) - unsynced):
        yield "results/%s is left behind when all jobs are deleted: %s" % (
            name, ", ".join(sorted(os.listdir(os.path.join(volume, "results", name)))) or "empty")


def hooks(receiver, jobs):
    """Each job's end was told, and only one end: told again it has the same id."""
    for j in jobs:
        ends = [h for h in receiver.of(j.id) if h.type == "job.end"]
        if not ends:
            yield "job %s: no webhook told its end" % j.id
        elif len({h.id for h in ends}) != 1 or any(h.data["state"] not in FINAL for h in ends):
            yield "job %s: its end has come as %s" % (j.id, [(h.id, h.data["state"]) for h in ends])


def blobs(volume):
    for where, _, names in os.walk(os.path.join(volume, "blobs")):
        for name in names:
            with open(os.path.join(where, name), "rb") as f:
                if hashlib.sha256(f.read()).hexdigest() != name:
                    yield "blob %s has other bytes than its name says" % name
