"""The native API over HTTP: submit in all its forms, reading, waiting, cancelling, deleting."""
import base64
import json
import os
import socket
import threading
import time

import pytest

from api_tools import Client, form_data, png, wav

IMAGE, AUDIO = png(8, 8), wav(0.5)


def b64(data):
    return base64.b64encode(data).decode()


def finish(worker, result=None, **options):
    job, attempt = worker.claim()
    worker.settle(job, attempt, result, **options)
    return job


@pytest.fixture
def empty(shared):
    """No job waits, so that the next claim gets the test's own."""
    shared.client("POST", "/v1/queue/purge")
    return shared


def test_multipart(empty):
    a = empty.client.form("/v1/jobs", [("image", ("a.png", IMAGE)), ("prompt", "größer"), ("audio", ("b.wav", AUDIO)),
                                       ("seed", "7"), ("guidance_scale", "3.5")])
    assert a.status == 201
    job = a.json["id"]
    assert a.headers["Location"] == "/v1/jobs/" + job
    assert a.json["position"] == 0 and a.json["state"] == "queued"
    got = empty.client("GET", "/v1/jobs/" + job).json
    assert got["params"]["prompt"] == "größer" and got["params"]["seed"] == 7
    assert got["params"]["guidance_scale"] == 3.5 and got["state"] == "queued"
    assert got["params"]["image"].startswith("sha256:")
    assert empty.client("GET", "/v1/blobs/" + got["params"]["audio"]).body == AUDIO


@pytest.mark.parametrize("form", ["raw", "data", "blob", "broken lines"])
def test_json(empty, form):
    def value(data, kind):
        if form == "raw":
            return b64(data)
        if form == "data":
            return "data:%s;base64,%s" % (kind, b64(data))
        if form == "broken lines":
            return base64.encodebytes(data).decode()
        return empty.client("POST", "/v1/blobs", data, Content_Type="application/octet-stream").json["key"]
    a = empty.client("POST", "/v1/jobs", {"image": value(IMAGE, "image/png"), "audio": value(AUDIO, "audio/wav"),
                                          "seed": 2 ** 40})
    assert a.status == 201, a.body
    got = empty.client("GET", a.headers["Location"]).json
    assert got["params"]["seed"] == 2 ** 40
    assert empty.client("GET", "/v1/blobs/" + got["params"]["image"]).body == IMAGE


def test_blob_key_in_a_form(empty):
    key = empty.client("POST", "/v1/blobs", IMAGE).json["key"]
    a = empty.client.form("/v1/jobs", [("image", key), ("audio", ("b.wav", AUDIO))])
    assert a.status == 201, a.body


def test_form_in_tiny_pieces(empty):
    body, kind = form_data([("image", ("a.png", IMAGE)), ("audio", ("b.wav", AUDIO[:1500])), ("prompt", "slow")])
    s = socket.create_connection(("127.0.0.1", empty.port), timeout=20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n"
              b"Connection: close\r\n\r\n" % (kind.encode(), len(body)))
    for at in range(0, len(body), 7):
        s.sendall(body[at:at + 7])
    answer = b""
    while chunk := s.recv(65536):
        answer += chunk
    s.close()
    assert answer.startswith(b"HTTP/1.1 201"), answer


def test_idempotency(empty):
    parts = [("image", ("a.png", IMAGE)), ("audio", ("b.wav", AUDIO)), ("seed", "1")]
    first = empty.client.form("/v1/jobs", parts, Idempotency_Key="k-1")
    again = empty.client.form("/v1/jobs", parts, Idempotency_Key="k-1")
    body = {"image": b64(IMAGE), "audio": b64(AUDIO), "seed": 1}
    as_json = empty.client("POST", "/v1/jobs", body, Idempotency_Key="k-1")
    other = empty.client.form("/v1/jobs", parts[:2] + [("seed", "2")], Idempotency_Key="k-1")
    assert first.status == again.status == as_json.status == 201
    assert first.json["id"] == again.json["id"] == as_json.json["id"]
    assert again.headers["Idempotent-Replayed"] == "true" and first.headers["Idempotent-Replayed"] is None
    assert other.status == 422
    assert empty.client.form("/v1/jobs", parts, Idempotency_Key="x" * 300).status == 400


def test_list_pages_and_filters(empty):
    jobs = [empty.client.submit(prompt=str(i)) for i in range(5)]
    page = empty.client("GET", "/v1/jobs?limit=2").json
    assert [j["id"] for j in page["jobs"]] == jobs[:2:-1]
    second = empty.client("GET", "/v1/jobs?limit=2&cursor=" + page["cursor"]).json
    assert [j["id"] for j in second["jobs"]] == [jobs[2], jobs[1]]
    empty.client("POST", "/v1/jobs/%s/cancel" % jobs[0])
    waiting = empty.client("GET", "/v1/jobs?state=queued&limit=100").json["jobs"]
    assert {j["id"] for j in waiting} == set(jobs[1:])
    for query, field in [("state=odd", "state"), ("limit=0", "limit"), ("limit=x", "limit"), ("limit=101", "limit")]:
        a = empty.client("GET", "/v1/jobs?" + query)
        assert (a.status, a.json["field"]) == (422, field)
    for cursor in ["%ff%fe", "nonsense", "9" * 500]:
        assert empty.client("GET", "/v1/jobs?cursor=" + cursor).status in (200, 400, 422), cursor


def test_why_and_history(empty):
    job = empty.client.submit()
    assert empty.client("GET", "/v1/jobs/%s/why" % job).json["state"] == "queued"
    history = empty.client("GET", "/v1/jobs/%s?history=1" % job).json["history"]
    assert history[0]["what"] == "submit"


def test_cancel_waiting(empty):
    job = empty.client.submit()
    a = empty.client("POST", "/v1/jobs/%s/cancel" % job)
    assert (a.status, a.json["state"], a.json["stopping"]) == (200, "cancelled", False)
    assert empty.client("POST", "/v1/jobs/%s/cancel" % job, {}).json["state"] == "cancelled"
    assert empty.client("POST", "/v1/jobs/%s/retry" % job).json["state"] == "queued"
    assert empty.client("GET", "/v1/jobs/" + job).json["state"] == "queued"


def test_cancel_running(empty):
    job = empty.client.submit()
    assert empty.worker.claim()[0] == job
    a = empty.client("POST", "/v1/jobs/%s/cancel" % job)
    assert (a.json["state"], a.json["stopping"]) == ("running", True)
    assert empty.client("GET", "/v1/jobs/" + job).json["stopping"] is True
    assert empty.worker.progress(job, 1, "denoise", 1, 10, 5.0)["stop"] == 1
    assert empty.worker.settle(job, 1, code="CANCEL", error="asked to", verdict="stop")["state"] == "cancelled"


def test_cancel_done_conflicts(empty):
    job = empty.client.submit()
    finish(empty.worker)
    assert empty.client("POST", "/v1/jobs/%s/cancel" % job).status == 409
    assert empty.client("POST", "/v1/jobs/%s/retry" % job).status == 409


def test_failed_job_tells_why(empty):
    job = empty.client.submit()
    finish(empty.worker, code="MEDIA", error="audio: 0.5 s of silence")
    got = empty.client("GET", "/v1/jobs/" + job).json
    assert got["state"] == "failed" and got["error"] == {"code": "MEDIA", "detail": "audio: 0.5 s of silence"}
    assert empty.client("GET", "/v1/jobs/%s/video" % job).status == 404


def test_delete(empty):
    job = empty.client.submit()
    assert empty.client("DELETE", "/v1/jobs/" + job).status == 409
    folder = os.path.join(empty.volume, "results", job)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "1-video.mp4"), "wb") as f:
        f.write(b"x")
    finish(empty.worker, {"video": "1-video.mp4"})
    assert empty.client("DELETE", "/v1/jobs/" + job).status == 204
    assert not os.path.exists(folder)
    assert empty.client("GET", "/v1/jobs/" + job).status == 404
    assert empty.client("DELETE", "/v1/jobs/" + job).status == 404


def test_long_poll_ends_with_the_job(empty):
    job = empty.client.submit()
    box = {}

    def wait():
        start = time.time()
        box["answer"] = empty.client("GET", "/v1/jobs/%s?wait=20" % job)
        box["seconds"] = time.time() - start
    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    got, attempt = empty.worker.claim()
    assert got == job
    empty.worker.progress(job, attempt, "denoise", 1, 10, 5.0)
    time.sleep(0.2)
    assert thread.is_alive()
    empty.worker.settle(job, attempt, {"video": "1-video.mp4", "seed": 3})
    thread.join(5)
    assert box["answer"].json["state"] == "done" and box["answer"].json["result"]["seed"] == 3
    assert 0.4 < box["seconds"] < 3


def test_long_poll_deadline(empty):
    job = empty.client.submit()
    start = time.time()
    a = empty.client("GET", "/v1/jobs/%s?wait=1" % job)
    assert a.json["state"] == "queued" and 0.9 < time.time() - start < 3
    start = time.time()
    empty.client("POST", "/v1/jobs/%s/cancel" % job)
    assert empty.client("GET", "/v1/jobs/%s?wait=20" % job).json["state"] == "cancelled"
    assert time.time() - start < 2
    for bad in ["-1", "56", "1.5", "x", ""]:
        a = empty.client("GET", "/v1/jobs/%s?wait=%s" % (job, bad))
        assert (a.status, a.json["field"]) == (422, "wait"), bad


def test_many_long_polls(empty):
    job = empty.client.submit()
    connections = []
    for _ in range(300):
        c = empty.client.connect()
        c.request("GET", "/v1/jobs/%s?wait=30" % job)
        connections.append(c)
    time.sleep(0.5)
    assert empty.client("GET", "/healthz").status == 200
    empty.client("POST", "/v1/jobs/%s/cancel" % job)
    start = time.time()
    for c in connections:
        assert json.loads(c.getresponse().read())["state"] == "cancelled"
        c.close()
    assert time.time() - start < 5


def test_unknown_ids(shared):
    for path in ["/v1/jobs/nothing", "/v1/jobs/nothing/video", "/v1/jobs/nothing/events", "/v1/jobs/nothing/why"]:
        a = shared.client("GET", path)
        assert (a.status, a.headers["Content-Type"]) == (404, "application/problem+json"), path
    assert shared.client("POST", "/v1/jobs/nothing/cancel").status == 404
    assert shared.client("GET", "/v1/jobs/..%2f..%2fetc/video").status == 404
    assert shared.client("GET", "/v1/jobs/" + "x" * 200).status == 404


def test_queue_full(folder, redis_server):
    from api_tools import Dispatcher
    d = Dispatcher(folder, redis_server.path, "--max-queue", "2")
    client = Client(d.port)
    client.submit()
    client.submit()
    a = client.form("/v1/jobs", [("image", ("a.png", IMAGE)), ("audio", ("b.wav", AUDIO))])
    assert a.status == 429 and int(a.headers["Retry-After"]) >= 1 and a.json["retry_after_s"] >= 1
    assert d.stop() == 0
