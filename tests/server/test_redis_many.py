"""Three dispatchers on one Redis: it does not matter at which of them a client asks."""
import threading
import time

import pytest

from api_tools import Client, Dispatcher, Redis, Worker, png, wav
from cluster_tools import until


@pytest.fixture
def three(folder, redis_server):
    programs = [Dispatcher(folder, redis_server.path) for _ in range(3)]
    yield [Client(p.port) for p in programs]
    assert [p.stop() for p in programs] == [0, 0, 0], [p.log() for p in programs]


@pytest.fixture
def player(redis_server):
    redis = Redis(redis_server.path)
    yield Worker(redis)
    redis.close()


def test_one_stream_everywhere(three, player):
    a, b, c = three
    job = a.submit()
    streams = [client.events(job) for client in three]
    for s in streams:
        assert next(s)[2]["state"] == "queued"
    polled = []
    thread = threading.Thread(target=lambda: polled.append(c("GET", "/v1/jobs/%s?wait=20" % job).json))
    thread.start()
    got, attempt = player.claim()
    for step in range(1, 6):
        player.progress(got, attempt, "denoise", step, 5, 5.0 - step)
    player.settle(got, attempt, {"video": "1-video.mp4"})
    seen = [[e for e in s if e[0]] for s in streams]
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) == 7, seen # running, five steps, done: same ids, same words
    thread.join(20)
    assert polled[0]["state"] == "done"
    # what one of them told can be gone on with at another, from any point
    for k, (_, _, _) in enumerate(seen[0]):
        rest = [e for e in three[k % 3].events(job, last=seen[0][k][0]) if e[0]] if k < 6 else []
        assert rest == seen[0][k + 1:]
    assert b.events(job, last=seen[0][6][0]).status == 204


def test_cancel_at_another(three, player):
    a, b, c = three
    waiting, running = a.submit(priority=1), b.submit(priority=9)
    got, attempt = player.claim()
    assert got == running
    stream, polled = c.events(running), []
    next(stream)
    thread = threading.Thread(target=lambda: polled.append(b("GET", "/v1/jobs/%s?wait=20" % waiting).json))
    thread.start()
    until(lambda: "troupe_" in a("GET", "/metrics").body.decode())
    time.sleep(0.1)
    assert c("POST", "/v1/jobs/%s/cancel" % waiting).status == 200
    thread.join(20)
    assert polled[0]["state"] == "cancelled"
    assert a("POST", "/v1/jobs/%s/cancel" % running).status in (200, 202)
    assert player.progress(running, attempt, "denoise", 1, 5, 1.0)["stop"]
    player.settle(running, attempt, code="CANCEL", verdict="cancel")
    assert stream.until("end")[2]["state"] == "cancelled"


def test_one_request_at_two(three):
    """The same Idempotency-Key at two dispatchers at once: one job."""
    request = [("image", ("face.png", png(8, 8))), ("audio", ("speech.wav", wav(0.5)))]
    for k in range(5):
        answers = []
        key = "k%d" % k
        threads = [threading.Thread(target=lambda c=c: answers.append(c.form("/v1/jobs", request, Idempotency_Key=key)))
                   for c in three]
        for t in threads:
            t.start()
        for t in threads:
            t.join(20)
        assert len({x.json["id"] for x in answers}) == 1, [x.body for x in answers]
        assert all(x.status in (200, 201) for x in answers), [x.status for x in answers]
