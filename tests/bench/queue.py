#!/usr/bin/python3
"""queue.py --build DIR [--venv DIR] [--jobs N] [--repeat 3] [--only PART,..]: what the queue bears, beside others, in one run.

    python3 -m venv /tmp/others && /tmp/others/bin/pip install bullmq rq arq; apt install beanstalkd
    tests/bench/queue.py --build build --venv /tmp/others

Parts: through (empty jobs submit -> claim -> settle, straight through Redis), pickup (from a submit until a blocked worker
has the job), http (POST /v1/jobs of a dispatcher, while a worker drains), waiters (10,000 long-polls, then 10,000 event
streams; the dispatcher's memory for each), others (bullmq, rq, arq, beanstalkd; those that are not there are named). Each
figure is the median of the repetitions. Goals: 15,000 jobs/s, pickup p50 0.5 ms and p99 3 ms, 64 MiB for 10,000 waiters.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != HERE]  # here `queue` is this file, not Python's own

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

for folder in ("queue_model", "server"):
    sys.path.insert(0, os.path.join(HERE, "..", folder))
from link import Server, library  # noqa: E402

WAITERS = 10000


def line(name, text):
    print("%-34s %s" % (name, text), flush=True)


def run(*argv, timeout=300):
    got = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
    if got.returncode:
        raise RuntimeError(got.stderr.strip()[-400:] or "it ended with %d" % got.returncode)
    return json.loads(got.stdout.strip().splitlines()[-1])


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def cpu_us(link):
    text = link.call("INFO", "cpu").decode()
    return sum(float(x.split(":")[1]) * 1e6 for x in text.splitlines() if x.startswith("used_cpu_") and "_main_" in x)


def commands(link):
    """{command: calls} since the last reset."""
    text = link.call("INFO", "commandstats").decode().split()
    return {x.split(":")[0][8:]: int(x.split("calls=")[1].split(",")[0]) for x in text if x.startswith("cmdstat_")}


class Bench:
    def __init__(self, a):
        self.a = a
        self.load = os.path.join(a.build, "tests", "bench", "queue_load")
        self.text = library()

    def repeated(self, what):
        return [what() for _ in range(self.a.repeat)]

    # ---- straight through Redis ----

    def through(self):
        for depth in (1, 64):
            def once():
                with Server() as server:
                    link = server.link()
                    link.load(self.text)
                    link.call("CONFIG", "RESETSTAT")
                    n = self.a.jobs if depth > 1 else self.a.jobs // 10
                    got = run(self.load, "through", server.path, str(n), str(depth))
                    calls = commands(link)
                    return {**got, "cpu": cpu_us(link) / n, "commands": sum(calls.values()) / n}
            runs = self.repeated(once)
            line("submit-claim-settle, depth %d" % depth, "%.0f jobs/s (%.0f us of Redis' CPU and %.0f commands a job)"
                 % (median(runs, "per_s"), median(runs, "cpu"), median(runs, "commands")))

    def pickup(self):
        def once():
            with Server() as server:
                server.link().load(self.text)
                return run(self.load, "pickup", server.path, str(self.a.pickups))
        runs = self.repeated(once)
        line("pickup", "p50 %.2f ms, p99 %.2f ms" % (median(runs, "p50_us") / 1000, median(runs, "p99_us") / 1000))

    # ---- through HTTP ----

    def dispatcher(self, server, folder, *flags):
        os.environ["TROUPE_BUILD"] = self.a.build
        from api_tools import Dispatcher
        return Dispatcher(folder, "unix://" + server.path, "--max-queue", "1000000", "--log-level", "error", *flags)

    def body(self, d, folder):
        """A job whose inputs are there already."""
        from api_tools import Client, png, wav
        path = os.path.join(folder, "body.json")
        image, audio = (Client(d.port)("POST", "/v1/blobs", data).json["key"] for data in (png(8, 8), wav(0.1)))
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"image": image, "audio": audio}, f)
        return path

    def http(self):
        def once():
            folder = tempfile.mkdtemp(prefix="troupe-bench-")
            with Server() as server:
                d = self.dispatcher(server, folder)
                try:
                    body, n = self.body(d, folder), self.a.jobs // 5
                    drain = subprocess.Popen([self.load, "drain", server.path, str(n), "16"], stdout=subprocess.PIPE)
                    got = run(self.load, "http", "127.0.0.1:%d" % d.port, "/v1/jobs", body, str(n), "32")
                    drain.communicate(timeout=120)
                    return got
                finally:
                    d.stop()
                    shutil.rmtree(folder, ignore_errors=True)
        line("POST /v1/jobs, claimed and settled", "%.0f jobs/s over 32 connections" % median(self.repeated(once), "per_s"))

    def waiters(self):
        for name, path, head in (("long-polls", "/v1/jobs/%s?wait=60", b""),
                                 ("event streams", "/v1/jobs/%s/events", b"Accept: text/event-stream\r\n")):
            folder = tempfile.mkdtemp(prefix="troupe-bench-")
            with Server("--maxclients", "1000") as server:
                d = self.dispatcher(server, folder, "--max-connections", str(3 * WAITERS))
                try:
                    self.park(d, name, path % self.one_job(d, folder), head)
                finally:
                    d.process.kill()
                    d.process.wait()
                    shutil.rmtree(folder, ignore_errors=True)

    def one_job(self, d, folder):
        from api_tools import Client
        with open(self.body(d, folder), encoding="utf-8") as f:
            answer = Client(d.port)("POST", "/v1/jobs", json.load(f))
        return answer.json["id"]

    def park(self, d, name, path, head):
        before, began, parked = rss(d.process.pid), time.monotonic(), []
        request = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path.encode(), head)
        for i in range(WAITERS):
            s = socket.socket()
            s.bind(("127.0.%d.1" % (1 + i // 5000), 0))  # more than one address has ports
            s.connect(("127.0.0.1", d.port))
            s.sendall(request)
            parked.append(s)
        took = time.monotonic() - began
        time.sleep(2)
        asked = time.monotonic()
        with socket.create_connection(("127.0.0.1", d.port)) as s:
            one = path.split("?")[0].replace("/events", "").encode()
            s.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % one)
            s.recv(4096)
        answered = time.monotonic() - asked
        grown = rss(d.process.pid) - before
        line("%d %s" % (WAITERS, name), "%.1f MiB (%.1f KiB each), parked in %.1f s, a GET beside them %.1f ms"
             % (grown / 1024, grown / WAITERS, took, answered * 1000))
        for s in parked:
            s.close()

    # ---- others ----

    def others(self):
        python = os.path.join(self.a.venv, "bin", "python") if self.a.venv else sys.executable
        script = os.path.join(HERE, "others", "queue_others.py")
        for name in ("bullmq", "rq", "arq", "beanstalkd"):
            if not self.there(name, python):
                line(name, "not here")
                continue
            try:
                through = self.repeated(lambda: self.other(name, python, script, "through", self.a.jobs // 20))
                pickup = self.repeated(lambda: self.other(name, python, script, "pickup", 300))
                line(name, "%.0f jobs/s, pickup p50 %.2f ms, p99 %.2f ms" % (
                    median(through, "per_s"), median(pickup, "p50_us") / 1000, median(pickup, "p99_us") / 1000))
            except (RuntimeError, subprocess.TimeoutExpired) as e:
                line(name, "FAILED: %s" % e)

    def there(self, name, python):
        if name == "beanstalkd":
            return shutil.which(name) is not None
        return subprocess.run([python, "-c", "import %s" % name], capture_output=True).returncode == 0

    def other(self, name, python, script, what, n):
        if name != "beanstalkd":
            with Server() as server:
                return run(python, "-B", script, name, what, server.path, str(n))
        folder = tempfile.mkdtemp(prefix="troupe-bench-")
        path = os.path.join(folder, "b.sock")
        p = subprocess.Popen(["beanstalkd", "-l", "unix:" + path])
        try:
            while not os.path.exists(path):
                time.sleep(0.01)
            return run(python, "-B", script, name, what, path, str(n * 10 if what == "through" else n))
        finally:
            p.kill()
            p.wait()
            shutil.rmtree(folder, ignore_errors=True)


def rss(pid):
    """KiB"""
    with open("/proc/%d/status" % pid, encoding="utf-8") as f:
        return int([x for x in f if x.startswith("VmRSS")][0].split()[1])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--build", default="build")
    p.add_argument("--venv", help="a virtual environment that has bullmq, rq, arq")
    p.add_argument("--jobs", type=int, default=60000)
    p.add_argument("--pickups", type=int, default=2000)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--only", default="through,pickup,http,waiters,others")
    a = p.parse_args()
    a.build = os.path.abspath(a.build)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    bench = Bench(a)
    for part in a.only.split(","):
        getattr(bench, part)()


if __name__ == "__main__":
    main()
