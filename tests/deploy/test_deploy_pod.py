"""deploy/docker/start for real: a whole cluster as in a pod, and one program as in compose; and what deploy/docker/health says."""
import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from api_tools import Client, RedisServer
from cluster_tools import FACE, SPEECH, TINY, alive, descendants, read, until, words_of
from start_tools import Image

SMALL = {"size": 64, "num_inference_steps": 1, "num_frames": 5, "seed": 7}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Pod:
    """`start` with RUN_MODE=all. On this machine alone it has no key; TROUPE_BIND="" is what a container does."""

    def __init__(self, folder, image=None, wait=200, **env):
        self.image = image or Image(folder)
        self.port = free_port()
        self.log_path = os.path.join(folder, "log-%d" % time.monotonic_ns())
        self.env = {"TROUPE_PORT": self.port, "TROUPE_WEB_PORT": "-1", "TROUPE_CKPTS": TINY, "TROUPE_BIND": "127.0.0.1",
                    "TROUPE_DRAIN_S": "0", **env}
        self.began = time.time()
        with open(self.log_path, "wb") as log:
            self.process = self.image.start(log=log, **self.env)
        self.api = Client(self.port, timeout=60)
        self.seen = {}
        if wait:
            until(lambda: self.ping() == wait, 40, 0.005)

    def log(self):
        return read(self.log_path).decode()

    def ping(self):
        assert self.process.poll() is None, self.log()
        try:
            status = self.api("GET", "/ping").status
        except OSError:
            return None
        self.seen.setdefault(status, time.time() - self.began)
        return status

    def key(self):
        made = re.search(r"one was made: (\S{32}) ", self.log())
        return {"Authorization": "Bearer " + made[1]} if made else {}

    def submit(self, **fields):
        parts = [("image", ("image", read(FACE))), ("audio", ("audio", read(SPEECH)))]
        answer = self.api.form("/v1/jobs", parts + [(k, str(v)) for k, v in {**SMALL, **fields}.items()], **self.key())
        assert answer.status == 201, answer.body
        return answer.json["id"]

    def done(self, job):
        for _ in range(12):
            v = self.api("GET", "/v1/jobs/%s?wait=5" % job, **self.key()).json
            if v["state"] in ("done", "failed", "cancelled"):
                break
        assert v["state"] == "done", (v, self.log())
        return v

    def video(self, job):
        answer = self.api("GET", "/v1/jobs/%s/video" % job, **self.key())
        assert answer.status == 200
        return answer.body

    def family(self):
        """{program: [pid]}"""
        found = {}
        for p in descendants(self.process.pid):
            name = words_of(p)[0].split(b" ")[0] # Redis adds words of its own
            found.setdefault(os.path.basename(name).decode(), []).append(p)
        return found

    def stop(self):
        family = descendants(self.process.pid)
        began = time.time()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        until(lambda: not alive(family), 2)
        return code, time.time() - began


def test_from_nothing_to_a_video_and_again(folder):
    image = Image(folder)
    pod = Pod(folder, image, TROUPE_BIND="")
    assert pod.api("GET", "/v1/jobs").status == 401, "whoever knows a pod's name can reach it"
    assert (os.stat(os.path.join(image.data, "api-key")).st_mode & 0o777) == 0o600
    job = pod.submit()
    pod.done(job)
    assert pod.video(job)[4:8] == b"ftyp"
    assert image.health() == (0, "")
    key = pod.key()
    code, seconds = pod.stop()
    assert code == 0, (code, seconds, pod.log())
    assert image.health()[0] == 1
    pod = Pod(folder, image, TROUPE_BIND="")
    assert pod.key() == key and pod.video(job)[4:8] == b"ftyp", "the key and the jobs are there after a restart"
    assert pod.stop()[0] == 0


def test_204_until_a_worker_is_there(folder):
    image = Image(folder, copy=True)
    image.script("troupe-worker", "exec sleep 100")
    for _ in range(3): # the machine may be busy with something else
        pod = Pod(folder, image, wait=204)
        if pod.seen[204] < 1.0:
            break
        assert pod.stop()[0] == 0
    assert pod.seen[204] < 1.0, pod.seen
    assert pod.ping() == 204 and image.health() == (0, "")
    assert pod.stop()[0] == 0


def test_a_dead_worker_is_started_again(folder):
    pod = Pod(folder)
    worker = pod.family()["troupe-worker"][0]
    os.kill(worker, signal.SIGKILL)
    until(lambda: [p for p in pod.family().get("troupe-worker", []) if p != worker], 30)
    assert "a program ended and is started again (1 so far)" in pod.log()
    assert pod.stop()[0] == 0


def gaps(folder, code, n):
    """Seconds between the first n starts of a worker that ends with this code."""
    image = Image(os.path.join(folder, "image-%d" % time.monotonic_ns()), copy=True)
    times = os.path.join(image.folder, "times")
    image.script("troupe-worker", "date +%%s.%%N >>%s; exit %d" % (times, code))
    pod = Pod(folder, image, wait=204)
    until(lambda: os.path.exists(times) and len(read(times).split()) >= n, 30)
    at = [float(t) for t in read(times).split()]
    assert pod.stop()[0] == 0
    return [b - a for a, b in zip(at, at[1:])]


def test_how_soon(folder):
    """75 asks for it at once, the first time; everything else waits a second, then two, ..."""
    first, second = gaps(folder, 1, 3)[:2]
    assert first >= 0.9 and second >= 1.9, (first, second)
    assert any(gaps(folder, 75, 2)[0] < 0.8 for _ in range(3)), "the machine may be busy; not three times"
    assert gaps(folder, 75, 3)[1] >= 1.9, "and not for ever"


@pytest.mark.parametrize("program", ["troupe-dispatcher", "redis-server"])
def test_without_dispatcher_or_redis_the_container_ends(folder, program):
    pod = Pod(folder)
    family = pod.family()
    os.kill(family[program][0], signal.SIGKILL)
    assert pod.process.wait(20) == 1
    until(lambda: not alive([p for pids in family.values() for p in pids]), 5)
    title = {"troupe-dispatcher": "dispatcher", "redis-server": "redis"}[program]
    assert "troupe up: %s ended, and the rest is of no use without it: see the lines above" % title in pod.log()


def test_one_worker_a_device(folder):
    pod = Pod(folder, TROUPE_DEVICES="cpu,cpu_ref")
    until(lambda: b"--device cpu_ref" in b"\n".join(b" ".join(words_of(p)) for p in pod.family().get("troupe-worker", [])), 30)
    until(lambda: pod.log().count(" event=ready ") == 2, 30)
    assert pod.stop()[0] == 0


# ---- one program a container ----

def test_web_and_worker_beside_a_redis(folder):
    redis = RedisServer(folder)
    url = {"TROUPE_REDIS": "unix://" + redis.path}
    web, work = (Image(os.path.join(folder, name), *programs) for name, programs in
                 [("web", ["troupe-dispatcher"]), ("work", ["troupe-worker"])])
    port = free_port()
    assert web.health() == (1, "not started yet")
    d = web.start(RUN_MODE="web", TROUPE_PORT=port, TROUPE_WEB_PORT=free_port(), TROUPE_API_KEY="secret", **url)
    api = Client(port)

    def ping():
        try:
            return api("GET", "/ping").status
        except OSError:
            return None
    until(lambda: ping() == 204, 30)
    assert words_of(d.pid)[0].endswith(b"troupe-dispatcher"), "exec: signals reach it"
    assert web.health() == (0, "")
    w = work.start(RUN_MODE="worker", TROUPE_CKPTS=TINY, TROUPE_VOLUME=web.data, **url)
    until(lambda: ping() == 200, 30)
    assert words_of(w.pid)[0].endswith(b"troupe-worker") and not [p for p in descendants(w.pid) if b"bash" in words_of(p)[0]]
    assert work.health(**url) == (0, "")
    w.send_signal(signal.SIGSTOP)
    until(lambda: work.health(**url)[0] == 1, 10)
    assert work.health(**url)[1] == "the worker has no connection to Redis, or is stopped"
    w.send_signal(signal.SIGCONT)
    until(lambda: work.health(**url)[0] == 0, 10)
    for p, image in [(w, work), (d, web)]:
        p.send_signal(signal.SIGTERM)
        assert p.wait(30) == 0
    assert web.health() == (1, "nobody listens on port %d" % port)
    redis.stop()


def test_a_worker_without_redis_says_so(folder):
    image = Image(folder, "troupe-worker")
    log = os.path.join(folder, "log")
    with open(log, "wb") as f:
        p = image.start(log=f, RUN_MODE="worker", TROUPE_CKPTS=TINY, TROUPE_REDIS="redis://127.0.0.1:1", TROUPE_REDIS_WAIT_S="0.2")
    assert p.wait(10) == 1 and "Redis" in read(log).decode()


# ---- two of them, one volume ----

def test_one_cluster_a_folder(folder):
    """Without a pod's number the volume itself is the folder, and a second cluster is refused it."""
    image = Image(folder)
    pod = Pod(folder, image)
    second = image.start(log=subprocess.DEVNULL, **{**pod.env, "TROUPE_PORT": free_port()})
    assert second.wait(10) == 1
    assert pod.ping() == 200 and pod.stop()[0] == 0


def test_log_lines(folder):
    """All programs write to the container's log, and as JSON when asked."""
    pod = Pod(folder, TROUPE_LOG_FORMAT="json")
    assert pod.stop()[0] == 0
    programs = {json.loads(line)["program"] for line in pod.log().splitlines() if line.startswith("{")}
    assert programs == {"troupe-dispatcher", "troupe-worker"}
