"""A real Redis Cluster of three nodes: the queue lives in one slot, wherever that is."""
import threading
import time

import pytest

from api_tools import Client, Dispatcher
from cluster_tools import WorkerProcess, until
from redis_tools import SMALL, RedisCluster, submit_real


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    c = RedisCluster(str(tmp_path_factory.mktemp("cluster")))
    yield c
    c.stop()


@pytest.fixture
def dispatcher(nodes, folder):
    others = [n for n in nodes.nodes if n.process and n is not nodes.owner()]
    program = Dispatcher(folder, nodes.seeds(*others)) # never the right one at first
    yield program
    assert program.stop() == 0, program.log()


@pytest.fixture
def api(dispatcher):
    return Client(dispatcher.port)


def until_or(what, seconds):
    try:
        return until(what, seconds)
    except AssertionError:
        return None


def move_slot(cluster, to, during=None):
    """As redis-cli --cluster reshard does; `during` runs when half of the keys are gone."""
    home, slot = cluster.owner(), cluster.slot
    ids = {n: n("CLUSTER", "MYID") for n in cluster.nodes if n.process}
    to("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[home])
    home("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
    keys = home("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    half = len(keys) // 2
    for part in (keys[:half], keys[half:]):
        if part:
            home("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *part)
        if during:
            during()
            during = None
    to("CLUSTER", "BUMPEPOCH")
    for node in (to, home, *[n for n in ids if n not in (to, home)]):
        try:
            node("CLUSTER", "SETSLOT", slot, "NODE", ids[to])
        except RuntimeError as e:
            assert "replica" in str(e), e
    until(lambda: all(cluster.owner(n) is to for n in ids), 10)


def test_a_job_from_end_to_end(nodes, api, dispatcher, folder, need_worker):
    home = nodes.owner()
    assert "redis=127.0.0.1:%d" % home.port in dispatcher.log()
    w = WorkerProcess(folder, nodes.seeds(*[n for n in nodes.nodes if n is not home]), name="in-the-cluster")
    try:
        events = list(api.events(submit_real(api), timeout=150))
        assert [e[1] for e in events][-2:] == ["job", "end"] and events[-2][2]["state"] == "done", events[-3:]
        assert any(e[1] == "progress" for e in events)
        assert {k.split(b"}")[0] for n in nodes.nodes for k in n("KEYS", "*")} == {b"{avatar"}
        assert not any(n("DBSIZE") for n in nodes.nodes if n is not home)
    finally:
        assert w.stop() == 0, w.log()


def test_a_slot_that_moves_while_people_submit(nodes, api, dispatcher):
    """What comes in while half of the queue is on each side waits, and is answered by the new owner."""
    before = [api.submit(**SMALL) for _ in range(3)]
    stream = api.events(before[2], timeout=30)
    next(stream)
    home = nodes.owner()
    to = next(n for n in nodes.nodes if n is not home)
    answers, threads = [], []

    def submit():
        began = time.time()
        answers.append((api.submit(**SMALL), time.time() - began))

    def during():
        for _ in range(3):
            threads.append(threading.Thread(target=submit))
            threads[-1].start()
        time.sleep(0.5)
        assert not answers
    move_slot(nodes, to, during)
    for t in threads:
        t.join(10)
    assert len(answers) == 3 and all(seconds < 5 for _, seconds in answers), answers
    assert nodes.owner() is to and to("DBSIZE") > 0 and home("DBSIZE") == 0
    for job in before + [a[0] for a in answers]:
        assert api("GET", "/v1/jobs/" + job).json["state"] == "queued"
        assert api("POST", "/v1/jobs/%s/cancel" % job).status == 200
    assert stream.until("end")[2]["state"] == "cancelled"
    assert "redis=127.0.0.1:%d" % to.port in dispatcher.log()


def test_a_slot_that_does_not_arrive_is_told(nodes, api):
    """At the deadline there is a sentence, not a hang."""
    home = nodes.owner()
    to = next(n for n in nodes.nodes if n is not home)
    to("CLUSTER", "SETSLOT", nodes.slot, "IMPORTING", home("CLUSTER", "MYID"))
    home("CLUSTER", "SETSLOT", nodes.slot, "MIGRATING", to("CLUSTER", "MYID"))
    try:
        began = time.time()
        answer = api("GET", "/v1/jobs/01234567890123456789012345")
        assert answer.status == 503 and "being moved to another node" in answer.json["detail"], answer.body
        assert 4 < time.time() - began < 8
    finally:
        home("CLUSTER", "SETSLOT", nodes.slot, "STABLE")
        to("CLUSTER", "SETSLOT", nodes.slot, "STABLE")
    assert api("GET", "/v1/jobs/01234567890123456789012345").status == 404


def test_failover_to_a_replica(nodes, api, dispatcher, folder, need_worker):
    """First an orderly one, then the master dies: the replica is elected, and every accepted job is there."""
    replica = nodes.add_replica()
    w = WorkerProcess(folder, nodes.seeds(), name="stays")
    assert api("POST", "/v1/queue/pause").status == 200
    jobs = [api.submit(**SMALL) for _ in range(2)]
    home = nodes.owner()
    for _ in range(4): # an election may be lost: the masters' votes are a second apart
        replica("CLUSTER", "FAILOVER")
        if until_or(lambda: nodes.owner(replica) is replica, 3):
            break
    until(lambda: nodes.owner(home) is replica, 10)
    jobs += [api.submit(**SMALL) for _ in range(2)]
    until(lambda: b"master_link_status:up" in home("INFO", "replication"), 15, 0.05)
    replica("WAIT", 1, 5000)
    nodes.nodes = [n for n in nodes.nodes if n is not replica] + [replica]
    replica.kill()
    answers = []
    deadline = time.time() + 30
    while time.time() < deadline:
        answer = api("GET", "/v1/jobs/" + jobs[0])
        answers.append(answer.status)
        if answer.status == 200:
            break
        assert answer.status == 503, answer.body
        time.sleep(0.1)
    assert answers[-1] == 200 and nodes.owner(home) is home, answers
    jobs.append(api.submit(**SMALL))
    for job in jobs:
        assert api("GET", "/v1/jobs/" + job).json["state"] == "queued"
    # the worker has found the way too
    assert api("POST", "/v1/queue/resume").status == 200
    until(lambda: api("GET", "/v1/jobs/" + jobs[0]).json["state"] in ("done", "failed"), 120, 0.05)
    assert w.stop() == 0, w.log()
