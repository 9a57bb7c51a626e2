"""Redis, dispatcher and workers as real processes: what a person sees when one of them dies, stops, stalls or is full.

test_worker.c shows, on real workers without a dispatcher: the second attempt after kill -9 and its one result, a worker that
was stopped beyond its lease, the job given back at SIGTERM without an attempt burnt, Redis killed and started again, and
equal bytes twice in a row. Those are not repeated here.
"""
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from api_tools import RedisServer, dispatcher_program
from cluster_tools import DEMO, TINY, Cluster, clean_environment, cli_program, die_with_parent, until, worker_program


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ---- workers ----

def test_cancel_frees_the_worker_within_a_step(cluster):
    cluster.worker()
    long = cluster.submit(num_inference_steps=100, num_frames=129)
    stream = cluster.api.events(long)
    times = []
    for _, name, data in stream: # two steps apart: how long one takes here and now
        if name == "progress" and data.get("stage") == "denoise" and data.get("step", 0) >= 1:
            times.append((data["step"], time.time()))
            if times[-1][0] - times[0][0] >= 2:
                break
    stream.close()
    step = (times[-1][1] - times[0][1]) / (times[-1][0] - times[0][0])
    follower = cluster.submit()
    began = time.time()
    assert cluster.cancel(long).status in (200, 202)
    until(lambda: cluster.job(follower)["state"] != "queued", 30, 0.005)
    gone = time.time() - began
    assert gone < step + 1, "freed after %.2f s, a step takes %.2f s" % (gone, step)
    assert cluster.job(long)["state"] == "cancelled"
    assert cluster.done(follower)["attempt"] == 1
    folder = os.path.join(cluster.volume, "results", long)
    assert not os.path.exists(folder) or os.listdir(folder) == []


def test_many_jobs_on_three_workers_run_once_each(cluster):
    workers = [cluster.worker() for _ in range(3)]
    jobs = [cluster.submit(seed=i, num_inference_steps=1) for i in range(9)]
    for job in jobs:
        v = cluster.done(job)
        assert (v["attempt"], v["fails"], v["deaths"]) == (1, 0, 0)
        assert len([n for n in os.listdir(os.path.join(cluster.volume, "results", job)) if n.endswith("video.mp4")]) == 1
    claimed = [c for w in workers for c in w.claimed()]
    assert sorted(claimed) == sorted((job, 1) for job in jobs)
    assert sum(1 for w in workers if w.claimed()) >= 2, "one worker took all"


def test_kill_of_a_worker_as_its_client_sees_it(cluster):
    """One stream of events from the first attempt through the death to the one result."""
    first = cluster.worker(name="first")
    job = cluster.submit(num_inference_steps=30)
    stream = cluster.api.events(job, timeout=60)
    stream.until("progress", stage="denoise")
    first.kill()
    cluster.worker(name="second")
    seen = [(name, data) for _, name, data in stream]
    assert [d["attempt"] for n, d in seen if n == "job" and d.get("state") == "done"][-1:] == [2], seen[-4:]
    v = cluster.job(job)
    assert (v["state"], v["attempt"], v["deaths"], v["fails"], v["worker"]) == ("done", 2, 1, 0, "second")
    files = sorted(os.listdir(os.path.join(cluster.volume, "results", job)))
    assert [re.sub(r"^2-[0-9a-f]{8}-", "", f) for f in files] == ["report.json", "thumbnail.png", "video.mp4"], files
    assert cluster.video(job)[4:8] == b"ftyp"


def test_a_worker_that_dies_with_every_job(cluster):
    """A job that kills its worker each time ends as failed; the next one is served."""
    job = cluster.submit(num_inference_steps=100, num_frames=129)
    for _ in range(10):
        w = cluster.worker("--max-fails", "2")
        until(lambda: w.claimed() or cluster.job(job)["state"] == "failed", 20)
        if cluster.job(job)["state"] == "failed":
            break
        w.kill()
    v = cluster.end_of(job)
    assert v["state"] == "failed" and v["deaths"] >= 2 and v["error"]["detail"], v
    cluster.done(cluster.submit())


# ---- the dispatcher ----

def test_restart_of_the_dispatcher_is_invisible_to_troupe_watch(folder, need_worker):
    c = Cluster(folder, "--port", str(free_port())) # the same port again
    try:
        c.worker()
        job = c.submit(num_inference_steps=100)
        c.running(job)
        watch = subprocess.Popen([cli_program(), "watch", job, "--server", c.url(), "--json"], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, env=clean_environment(), preexec_fn=die_with_parent, text=True)
        time.sleep(0.15)
        for how in (signal.SIGKILL, signal.SIGTERM):
            c.dispatcher.process.send_signal(how)
            c.dispatcher.process.wait(15)
            assert watch.poll() is None
            time.sleep(0.15)
            c.dispatcher = c.start_dispatcher()
            time.sleep(0.15)
        out, log = watch.communicate(timeout=120)
        assert watch.returncode == 0, (out, log)
        assert '"state":"done"' in out
        assert c.job(job)["attempt"] == 1
    finally:
        c.stop()


# ---- Redis ----

def test_kill_of_redis_loses_no_accepted_job(cluster):
    """As test_worker.c, with jobs accepted over HTTP until the very moment, and the dispatcher still the same process."""
    cluster.worker()
    running = cluster.submit(num_inference_steps=60)
    cluster.running(running)
    accepted = []

    def flood():
        for i in range(400):
            try:
                answer = cluster.send(seed=i, priority=1)
            except OSError:
                return
            if answer.status != 201:
                return
            accepted.append(answer.json["id"])

    # The AOF is synced once a second: what is accepted within the last second before a power cut may go, not at kill -9.
    thread = threading.Thread(target=flood)
    thread.start()
    until(lambda: len(accepted) >= 8, 20)
    cluster.redis.stop(kill=True)
    thread.join(30)
    cluster.redis.start()
    until(lambda: cluster.api("GET", "/readyz").status == 200, 20)
    for job in accepted:
        assert cluster.job(job)["state"] in ("queued", "running", "done"), job
    v = cluster.done(running)
    assert v["attempt"] == 1
    for job in accepted[2:]:
        assert cluster.cancel(job).status in (200, 202)
    for job in accepted[:2]:
        assert cluster.end_of(job)["state"] == "done"


GIVEN_UP = " (gave up waiting; start it, or name another with --redis)"
EVICTING = ("Redis may throw jobs away: its maxmemory-policy is allkeys-lru; set it to noeviction (CONFIG SET maxmemory-policy "
            "noeviction, and the same in redis.conf)")
START = [ # name, redis-server's flags, url, what the dispatcher and what the worker says; {} is the socket
    ("absent", None, "redis://127.0.0.1:1/0",
     ("TIMEOUT", "Redis at 127.0.0.1:1: cannot connect: Connection refused" + GIVEN_UP),
     ("REDIS", "Redis at 127.0.0.1:1 is not reachable: Connection refused" + GIVEN_UP)),
    ("no socket", None, "unix://{}",
     ("TIMEOUT", "Redis at {}: cannot connect: No such file or directory" + GIVEN_UP),
     ("REDIS", "Redis at {} is not reachable: No such file or directory" + GIVEN_UP)),
    ("no password", ["--requirepass", "right"], "unix://{}",
     ("AUTH", "Redis at {}: login refused; the setting redis takes a password (redis://:PASSWORD@host:port/0): "
      "NOAUTH Authentication required."),
     ("REDIS", "Redis wants a password: put it into the setting redis (redis://:PASSWORD@host:port/0)")),
    ("wrong password", ["--requirepass", "right"], "unix://{}?password=wrong",
     ("AUTH", "Redis at {}: login refused; the setting redis takes a password (redis://:PASSWORD@host:port/0): "
      "WRONGPASS invalid username-password pair or user is disabled."),
     ("REDIS", "Redis refuses the password of the setting redis: correct it (redis://:PASSWORD@host:port/0)")),
    ("evicting", ["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"], "unix://{}",
     ("REDIS", EVICTING), ("REDIS", EVICTING)),
]


@pytest.mark.parametrize("name, flags, url, dispatcher, worker", START, ids=[s[0] for s in START])
def test_redis_that_cannot_be_used(folder, need_worker, name, flags, url, dispatcher, worker):
    server = RedisServer(folder, *flags) if flags else None
    path = os.path.join(folder, "redis.sock")
    words = ["--redis", url.format(path), "--volume", os.path.join(folder, "v"), "--redis-wait-s", "0.3"]
    for program, code, (name, why) in [([dispatcher_program(), "--port", "0", "--web-port", "-1"], 3, dispatcher),
                                       ([worker_program(), "--ckpts", TINY], 1, worker)]:
        done = subprocess.run(program + words, capture_output=True, text=True, timeout=30, env=clean_environment())
        assert done.returncode == code
        assert 'code=%s why="%s"' % (name, why.replace("{}", path)) in done.stderr.splitlines()[-1]
    if server:
        server.stop()


# ---- the same bytes ----

@pytest.mark.parametrize("ckpts, steps", [(TINY, 2), (DEMO, 1)], ids=["tiny", "demo"])
def test_one_and_two_threads_give_the_same_bytes(cluster, ckpts, steps):
    videos = []
    for n in ("1", "2"):
        w = cluster.worker("--threads", n, ckpts=ckpts)
        jobs = [cluster.submit(num_inference_steps=steps, prompt="A person talks.") for _ in range(int(n))]
        videos += [(cluster.done(job), cluster.video(job)) for job in jobs]
        assert w.stop() == 0
    assert len({data for _, data in videos}) == 1, [v["result"]["video_sha256"] for v, _ in videos]
    other = cluster.worker(ckpts=ckpts)
    job = cluster.submit(num_inference_steps=steps, prompt="A person talks.", seed=8)
    cluster.done(job)
    assert cluster.video(job) != videos[0][1]
    assert other.process.poll() is None


# ---- the volume ----

@pytest.fixture
def small(folder, need_worker):
    path = os.path.join(folder, "volume")
    os.makedirs(path)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this user may not mount")
    c = Cluster(folder)
    yield c
    c.stop()
    subprocess.run(["umount", "-l", path], check=True)


def fill(path):
    """A file that takes all that is left."""
    with open(path, "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"\0" * 4096)
        except OSError:
            pass


def part_of(cluster, job, attempt):
    """A regular expression: the file that an attempt writes first."""
    return os.path.join(cluster.volume, "results", job, "%d-" % attempt) + r"[0-9a-f]{8}-video\.mp4\.part"


def test_full_volume(small):
    w = small.worker("--max-fails", "2")
    filler = os.path.join(small.volume, "filler")
    job = small.submit(num_inference_steps=12)
    behind = small.submit(seed=5, num_inference_steps=1)
    small.running(job)
    fill(filler)
    v = small.end_of(job)
    assert (v["state"], v["error"]["code"], v["attempt"], v["fails"]) == ("failed", "NOSPACE", 2, 2), v
    assert re.fullmatch("write %s: no space left on the volume; free some, or use a larger one" % part_of(small, job, 2),
                        v["error"]["detail"]), v["error"]
    os.unlink(filler)
    small.done(small.submit(seed=6))
    assert small.end_of(behind)["state"] in ("done", "failed")
    assert w.process.poll() is None and small.dispatcher.process.poll() is None


def test_volume_that_is_full_for_a_moment(small):
    """The job is tried again and gets done."""
    w = small.worker("--max-fails", "5", "--backoff-s", "0.5")
    filler = os.path.join(small.volume, "filler")
    job = small.submit(num_inference_steps=20)
    small.running(job)
    fill(filler)
    until(lambda: small.job(job)["fails"] >= 1, 60)
    os.unlink(filler)
    v = small.done(job)
    assert v["attempt"] >= 2 and v["fails"] >= 1
    assert w.process.poll() is None


def test_read_only_volume(small):
    w = small.worker("--max-fails", "2")
    job, good = small.submit(num_inference_steps=12), small.submit(num_inference_steps=1, priority=1)
    small.running(job)
    subprocess.run(["mount", "-o", "remount,ro", small.volume], check=True)
    v = small.end_of(job)
    assert (v["state"], v["error"]["code"], v["attempt"]) == ("failed", "IO", 2), v
    assert re.fullmatch("write %s: the volume is read-only; mount it writable" % part_of(small, job, 2),
                        v["error"]["detail"]), v["error"]
    v = small.end_of(good)
    assert (v["state"], v["error"]["code"]) == ("failed", "IO")
    subprocess.run(["mount", "-o", "remount,rw", small.volume], check=True)
    small.done(small.submit())
    assert w.process.poll() is None and small.dispatcher.process.poll() is None
