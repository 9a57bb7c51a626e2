"""GET /metrics: what it says, after known things happened; promtool reads it; its histograms are whole."""
import re
import shutil
import subprocess
import time

import pytest

from api_tools import Client, Dispatcher, Redis, Worker

LINE = re.compile(r'(troupe_[a-z0-9_]+)(\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? ([0-9.e+-]+|\+Inf)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
TYPES = {"gauge", "counter", "histogram"}


class Metrics:
    """{name: type}, {(name, frozenset of labels): value}; every line must be of the format."""

    def __init__(self, text):
        self.text, self.kinds, self.helps, self.samples = text, {}, {}, {}
        family = None
        for line in text.splitlines():
            if line.startswith("# HELP "):
                _, _, family, words = line.split(" ", 3)
                assert family not in self.helps and words.strip(), line
                self.helps[family] = words
            elif line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                assert name == family and name not in self.kinds and kind in TYPES, line
                self.kinds[name] = kind
            else:
                found = LINE.fullmatch(line)
                assert found, line
                tails = ("_bucket", "_sum", "_count") if self.kinds[family] == "histogram" else ("",)
                assert found[1] in [family + t for t in tails], line # no sample outside of its family
                key = found[1], frozenset(LABEL.findall(found[3] or ""))
                assert key not in self.samples, line
                self.samples[key] = float(found[4])

    def __call__(self, name, **labels):
        return self.samples[("troupe_" + name, frozenset(labels.items()))]

    def has(self, name):
        return any(k[0] == "troupe_" + name for k in self.samples)

    def histograms(self):
        """{(name, labels): ([(bound, count)], sum, count)}"""
        found = {}
        for (name, labels), value in self.samples.items():
            base, _, part = name.rpartition("_")
            if self.kinds.get(base) != "histogram":
                continue
            rest = frozenset(x for x in labels if x[0] != "le")
            h = found.setdefault((base, rest), {"bucket": []})
            if part == "bucket":
                h["bucket"].append((float(dict(labels)["le"]), value))
            else:
                h[part] = value
        return {k: (h["bucket"], h["sum"], h["count"]) for k, h in found.items()}


def scrape(client):
    a = client("GET", "/metrics")
    assert a.status == 200 and a.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Metrics(a.body.decode())


def check(metrics):
    """The rules for names and histograms; then promtool's own."""
    for name, kind in metrics.kinds.items():
        assert name.startswith("troupe_") and (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|millis|minutes|kib|mib|percent)(_|$)", name), name
    for (name, labels), (buckets, total, count) in metrics.histograms().items():
        bounds, counts = [b for b, _ in buckets], [n for _, n in buckets]
        assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf"), name
        assert counts == sorted(counts) and counts[-1] == count, (name, labels)
        assert total >= 0 and (count > 0 or total == 0), name
        low = sum((n - m) * b for (b, m), n in zip([(0, 0)] + buckets[:-1], counts)) # each at its bucket's lower end
        assert low - 1e-3 * count <= total, (name, low, total)
    if shutil.which("promtool"):
        done = subprocess.run(["promtool", "check", "metrics"], input=metrics.text, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_before_anything_happened(api):
    m = scrape(api)
    check(m)
    for state in ["queued", "running", "delayed", "failed", "ended"]:
        assert m("jobs", state=state) == 0
    assert m("workers", state="taking") == m("workers", state="quiet") == m("workers_busy") == 0
    assert m("redis_up") == 1 and m("queue_paused") == 0 and m("jobs_submitted_total") == 0
    assert [m("queue_waiting", priority=str(p)) for p in range(10)] == [0] * 10
    assert not m.has("execution_seconds_count")
    build, = [k for k in m.samples if k[0] == "troupe_build_info"]
    assert {x[0] for x in build[1]} == {"version", "build"} and m.samples[build] == 1


def test_promtool_is_strict():
    if not shutil.which("promtool"):
        pytest.skip("needs promtool (package prometheus)")
    bad = "# HELP troupe_a_total x\n# TYPE troupe_a_total gauge\ntroupe_a_total 1\n"
    assert subprocess.run(["promtool", "check", "metrics"], input=bad.encode(), capture_output=True).returncode != 0


def played_day(api, worker, redis_path):
    """Two done, one failed, one cancelled while it ran, one retried and delayed, two waiting; a second worker is quiet."""
    worker.hello(device='card "A" \\ 1')
    other = Worker(Redis(redis_path), 'other"\\')
    other.hello()
    for stages in ({"denoise": 4.5, "decode": 0.7}, {"denoise": 0.02}):
        api.submit()
        job, attempt = worker.claim(device='card "A" \\ 1')
        time.sleep(0.06)
        assert worker.settle(job, attempt, {"x": 1}, stages=stages)["state"] == "done"
    api.submit()
    worker.settle(*worker.claim(), code="MEDIA", error="no picture")
    stopped = api.submit()
    job, attempt = worker.claim()
    assert api("POST", "/v1/jobs/%s/cancel" % stopped).json["stopping"]
    time.sleep(0.03)
    assert worker.settle(job, attempt, code="CANCEL", error="stopped", verdict="stop")["state"] == "cancelled"
    api.submit()
    assert worker.settle(*worker.claim(), code="IO", error="no volume", verdict="retry")["state"] == "delayed"
    worker.settle("none", 1, {})
    api.submit(priority=9)
    api.submit(priority=2)
    api.submit()
    assert worker.claim() # runs on
    assert api("POST", "/v1/workers/other%22%5C/quiet").status == 200
    other.redis.close()


def test_a_played_day(api, worker, redis_server):
    began = time.time()
    played_day(api, worker, redis_server.path)
    api("POST", "/v1/queue/pause?tenant=acme")
    m = scrape(api)
    check(m)
    assert m("jobs_submitted_total") == 8
    assert [m("jobs_finished_total", state=s) for s in ("done", "failed", "cancelled", "timed_out")] == [2, 1, 1, 0]
    assert [m("jobs", state=s) for s in ("running", "failed", "ended")] == [1, 1, 3]
    assert m("jobs", state="queued") + m("jobs", state="delayed") == 3 # the retry is due after a tenth of a second
    assert m("queue_waiting", priority="2") == 1 and m("queue_waiting", priority="9") == 0
    assert m("queue_waiting_work_seconds", priority="2") > 0 and m("queue_backlog_seconds") > 0
    assert m("jobs_retried_total") == 1 and m("queue_oldest_age_seconds") < time.time() - began + 1
    assert (m("workers", state="taking"), m("workers", state="quiet"), m("workers_busy")) == (1, 1, 1)
    assert m("queue_paused") == 0 and m("queue_paused_parts", scope="tenant") == 1
    assert m("queue_paused_parts", scope="generator") == 0
    assert 0.12 <= m("gpu_seconds_total", device=r'card \"A\" \\ 1') < 2
    assert m("queue_wait_seconds_count") == 6 and m("execution_seconds_count") >= 2
    assert m("execution_seconds_sum") >= 0.12
    assert m("cancel_latency_seconds_count") == 1 and 0.03 <= m("cancel_latency_seconds_sum") < 2
    assert m("stage_seconds_count", stage="denoise") == 2 and m("stage_seconds_sum", stage="denoise") == 4.52
    assert m("stage_seconds_bucket", stage="denoise", le="0.05") == 1 and m("stage_seconds_count", stage="decode") == 1
    api("POST", "/v1/queue/pause")
    assert scrape(api)("queue_paused") == 1


def test_a_late_and_a_stale_result(api, worker):
    worker.hello()
    api.submit()
    job, attempt = worker.claim()
    assert worker.call("release", id=job, attempt=attempt, why="stopping")["r"] == "OK"
    assert worker.claim() == (job, attempt + 1)
    assert worker.settle(job, attempt, {"x": 1})["r"] == "LOST"
    m = scrape(api)
    assert m("late_result_total") == 1 and m("stale_result_total") == 1 and m("jobs_released_total") == 1


def test_names_that_workers_choose_are_bounded(api, worker):
    worker.hello()
    for at in range(3):
        api.submit()
        worker.settle(*worker.claim(), {}, stages={"stage_" + "abc"[at] + chr(97 + i): 0.1 for i in range(15)})
    m = scrape(api)
    check(m)
    assert len([k for k in m.samples if k[0] == "troupe_stage_seconds_count"]) == 32


def test_http_requests(api):
    for path, times in [("/healthz", 3), ("/v1/jobs/none", 2), ("/nowhere", 1), ("/v1/queue?x=1", 1)]:
        for _ in range(times):
            api("GET", path)
    job = api.submit()
    assert api("HEAD", "/healthz").status == 200
    assert api("GET", "/v1/jobs/%s?wait=1" % job).status == 200
    stream = api.events(job)
    assert api("POST", "/v1/jobs/%s/cancel" % job).status == 200
    assert [e[1] for e in stream][-1] == "end"
    stream.close()
    m = scrape(api)
    check(m)

    def count(route, code="2xx", method="GET"):
        return m("http_requests_total", method=method, route=route, code=code)
    assert count("/healthz") == 4 and count("/v1/jobs/{id}", "4xx") == 2 and count("/v1/queue") == 1
    assert count("other", "4xx", "other") == 1 and count("/v1/jobs", method="POST") == 1
    assert count("/v1/jobs/{id}/events") == 1 and count("/v1/jobs/{id}") == 1
    # what waits because it was asked to is counted, but not timed
    assert m("http_request_duration_seconds_count", method="GET", route="/v1/jobs/{id}") == 2
    assert m("http_request_duration_seconds_count", method="GET", route="/v1/jobs/{id}/events") == 0
    assert m("http_request_duration_seconds_count", method="GET", route="/healthz") == 4
    assert m("http_request_duration_seconds_sum", method="GET", route="/healthz") < 1
    assert m("redis_rtt_seconds_count") > 5 and job not in m.text


def test_while_redis_is_away(folder, redis_server):
    d = Dispatcher(folder, redis_server.path)
    client = Client(d.port)
    assert scrape(client)("redis_up") == 1
    redis_server.stop(kill=True)
    m = scrape(client)
    check(m)
    assert m("redis_up") == 0 and not m.has("jobs") and m("http_requests_total", method="GET", route="/metrics", code="2xx") == 1
    redis_server.start()
    deadline = time.time() + 10
    while scrape(client)("redis_up") != 1:
        assert time.time() < deadline
        time.sleep(0.05)
    assert scrape(client)("redis_connections_lost_total") == 1 and scrape(client).has("jobs")
    assert d.stop() == 0
