"""A master, a replica and three sentinels: the master dies, and nothing that was accepted is lost.

Replication is asynchronous: what Redis kept means what reached the replica, so the test waits (WAIT) before it kills.
"""
import subprocess
import time

import pytest

from api_tools import Client, Dispatcher, clean_environment, dispatcher_program
from cluster_tools import WorkerProcess, until
from redis_tools import SMALL, Sentinels, free_port


@pytest.fixture
def group(folder):
    g = Sentinels(folder, password="sesame")
    yield g
    g.stop()


@pytest.fixture(scope="module")
def shared_group(tmp_path_factory):
    g = Sentinels(str(tmp_path_factory.mktemp("group")), password="sesame")
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
    until(lambda: other("GET", "/v1/jobs/" + jobs[0]).status == 200, 10, 0.1)
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
    until(lambda: api("GET", "/v1/jobs/" + jobs[0]).json["state"] in ("done", "failed"), 120, 0.05)
    assert w.stop() == 0, w.log()
    for program in (first, second):
        assert program.stop() == 0, program.log()
        assert "sesame" not in program.log()
        assert "redis=127.0.0.1:%d" % old in program.log() and "redis=127.0.0.1:%d" % group.replica.port in program.log()


def start(folder, url, *, seconds="0.7"):
    words = [dispatcher_program(), "--port", "0", "--web-port", "-1", "--volume", folder + "/v", "--redis", url]
    done = subprocess.run(words + ["--redis-wait-s", seconds], capture_output=True, text=True, timeout=30,
                          env=clean_environment())
    assert done.returncode == 3
    text = done.stderr.splitlines()[-1]
    return start(folder, url, seconds="8") if "Redis did not answer" in text else text # a busy machine: with patience


def test_what_is_told(shared_group, folder):
    group = shared_group
    url = group.url()
    assert "no sentinel names the master" in start(folder, url) and "wants a password" in start(folder, url)
    other = url.replace("mymaster", "other?sentinel_password=sesame")
    assert "does not know a master of the name 'other'" in start(folder, other)
    gone = "redis+sentinel://127.0.0.1:%d/mymaster" % free_port()
    assert "no sentinel names the master: the sentinel at 127.0.0.1:" in start(folder, gone)
    # one dead sentinel among the seeds is passed over
    ports = free_port(), group.sentinels[0].port
    program = Dispatcher(folder, "redis+sentinel://127.0.0.1:%d,127.0.0.1:%d/mymaster?sentinel_password=sesame" % ports)
    assert program.stop() == 0


def test_a_master_that_is_none_any_more_is_left(shared_group, folder):
    """Nothing but the sentinels says that the master is another one."""
    group = shared_group
    program = Dispatcher(folder, group.url("?sentinel_password=sesame"))
    w = Client(program.port)
    old = group.master
    group.failover()
    until(lambda: "redis=127.0.0.1:%d" % group.replica.port in program.log(), 30)
    assert old("ROLE")[0] == b"master" # it has not been told yet
    job = w.submit()
    assert group.replica("EXISTS", "{avatar}:job:" + job) == 1
    assert program.stop() == 0, program.log()
