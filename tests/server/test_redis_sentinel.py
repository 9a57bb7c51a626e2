"""A master, a replica and three sentinels: the master dies, and nothing that was accepted is lost.

Replication is asynchronous: what Redis kept means what reached the replica, so the test waits (WAIT) before it kills.
"""
import subprocess
import threading
import time

import pytest

from api_tools import Client, Dispatcher, clean_environment, dispatcher_program, png, wav
from cluster_tools import WorkerProcess, until
from redis_tools import Sentinels, free_port

SMALL = {"size": 64, "num_inference_steps": 2, "num_frames": 9, "seed": 7}


@pytest.fixture
def group(folder):
    g = Sentinels(folder, password="sesame")
    yield g
    g.stop()


def test_the_master_dies(group, folder, need_worker):
    url = group.url("?sentinel_password=sesame")
    first, second = Dispatcher(folder, url), Dispatcher(folder, url)
    api, other = Client(first.port), Client(second.port)
    w = WorkerProcess(folder, url, name="stays")
    assert api("POST", "/v1/queue/pause").status == 200
    jobs = [api.submit(**SMALL) for _ in range(5)]
    stream = other.events(jobs[4], timeout=30)
    assert next(stream)[2]["state"] == "queued"
    group.master("WAIT", 1, 5000)
    old = group.master.port
    group.master.kill()
    refused, deadline = 0, time.time() + 30
    while True: # a client's view: 503 with a sentence until the replica is the master
        answer = api("GET", "/v1/jobs/" + jobs[0])
        if answer.status == 200:
            break
        assert answer.status == 503 and time.time() < deadline, answer.body
        refused += 1
        time.sleep(0.1)
    assert refused
    until(lambda: other("GET", "/readyz").status in (200, 503) and other("GET", "/v1/jobs/" + jobs[0]).status == 200, 10, 0.1)
    jobs.append(api.submit(**SMALL))
    for job in jobs:
        assert other("GET", "/v1/jobs/" + job).json["state"] == "queued"
    assert api("POST", "/v1/jobs/%s/cancel" % jobs[4]).status == 200
    assert stream.until("end")[2]["state"] == "cancelled"
    # The old master comes back as it was, for some seconds a second master: nobody goes to it.
    group.master.start()
    assert group.replica("ROLE")[0] == b"master"
    jobs.append(api.submit(**SMALL))
    assert other("GET", "/v1/jobs/" + jobs[6]).json["state"] == "queued"
    assert api("POST", "/v1/queue/resume").status == 200
    until(lambda: api("GET", "/v1/jobs/" + jobs[0]).json["state"] in ("done", "failed"), 30, 0.05)
    assert w.stop() == 0, w.log()
    for program in (first, second):
        assert program.stop() == 0, program.log()
        assert "sesame" not in program.log()
        assert "redis=127.0.0.1:%d" % old in program.log() and "redis=127.0.0.1:%d" % group.replica.port in program.log()


def test_a_planned_failover(group, folder):
    """For some seconds the old master lives on as one. It must not be the one that answers: without replicas it takes no
    changes (min-replicas-to-write), and the sentinels are asked again and again."""
    group.master("CONFIG", "SET", "min-replicas-to-write", "1")
    program = Dispatcher(folder, group.url("?sentinel_password=sesame"))
    api = Client(program.port)
    accepted, refused, stop = [], [], threading.Event()

    def submit():
        parts = [("image", ("face.png", png(8, 8))), ("audio", ("speech.wav", wav(0.5)))]
        while not stop.is_set():
            answer = api.form("/v1/jobs", parts)
            if answer.status == 201:
                accepted.append(answer.json["id"])
            else:
                assert answer.status == 503, answer.body
                refused.append(answer.json["detail"])
    thread = threading.Thread(target=submit)
    thread.start()
    until(lambda: len(accepted) > 20)
    assert group.sentinels[0].connection("SENTINEL", "FAILOVER", "mymaster") == "OK"
    until(lambda: "redis=127.0.0.1:%d" % group.replica.port in program.log(), 15)
    before = len(accepted)
    until(lambda: len(accepted) > before + 20)
    stop.set()
    thread.join(20)
    there = group.replica("KEYS", "{avatar}:job:*")
    assert group.replica("ROLE")[0] == b"master"
    lost = [job for job in accepted if b"{avatar}:job:" + job.encode() not in there]
    assert not lost, (len(accepted), lost, refused)
    assert program.stop() == 0, program.log()


def test_a_master_that_is_none_any_more_is_left(group, folder):
    """Nothing but the sentinels says that the master is another one."""
    program = Dispatcher(folder, group.url("?sentinel_password=sesame"))
    w = Client(program.port)
    old = group.master
    assert group.sentinels[0].connection("SENTINEL", "FAILOVER", "mymaster") == "OK"
    until(lambda: "redis=127.0.0.1:%d" % group.replica.port in program.log(), 15)
    assert old("ROLE")[0] == b"master" # it has not been told yet
    job = w.submit()
    assert group.replica("EXISTS", "{avatar}:job:" + job) == 1
    assert program.stop() == 0, program.log()


def start(folder, url):
    done = subprocess.run([dispatcher_program(), "--port", "0", "--web-port", "-1", "--volume", folder + "/v", "--redis", url,
                           "--redis-wait-s", "1"], capture_output=True, text=True, timeout=30, env=clean_environment())
    assert done.returncode == 3
    return done.stderr.splitlines()[-1]


def test_what_is_told(group, folder):
    url = group.url()
    assert "no sentinel names the master" in start(folder, url) and "wants a password" in start(folder, url)
    assert "does not know a master of the name 'other'" in start(folder, url.replace("mymaster", "other?sentinel_password=sesame"))
    gone = "redis+sentinel://127.0.0.1:%d/mymaster" % free_port()
    assert "no sentinel names the master: the sentinel at 127.0.0.1:" in start(folder, gone)
    # one dead sentinel among the seeds is passed over
    alive = "redis+sentinel://127.0.0.1:%d,127.0.0.1:%d/mymaster?sentinel_password=sesame" % (free_port(), group.sentinels[0].port)
    program = Dispatcher(folder, alive)
    assert program.stop() == 0
