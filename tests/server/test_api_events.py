"""Server-sent events: order, replay, the end, dead clients, outages and restarts."""
import socket
import time

from api_tools import Client, Dispatcher


def run_job(worker, stages=(("denoise", 10),), result=None):
    job, attempt = worker.claim()
    for stage, total in stages:
        for step in range(1, total + 1):
            worker.progress(job, attempt, stage, step, total, float(total - step))
    worker.settle(job, attempt, result or {"video": "1-video.mp4"})
    return job


def test_a_whole_life(api, worker):
    job = api.submit()
    stream = api.events(job)
    assert stream.status == 200 and stream.response.headers["Content-Type"] == "text/event-stream"
    first = next(stream)
    assert first[1] == "job" and first[2]["state"] == "queued" and first[2]["position"] == 0
    run_job(worker)
    seen = list(stream)
    names = [e[1] for e in seen]
    assert names == ["state"] + ["progress"] * 10 + ["state", "job", "end"], names
    assert [e[2]["step"] for e in seen if e[1] == "progress"] == list(range(1, 11))
    assert seen[-2][2]["state"] == "done" and seen[-2][2]["links"]["video"]
    ids = [e[0] for e in seen if e[0]]
    assert len(ids) == 12 and ids == sorted(ids, key=lambda i: [int(x) for x in i.split("-")])
    assert api.events(job, last=ids[-1]).status == 204


def test_last_event_id_replays(api, worker):
    job, other = api.submit(), api.submit()
    stream = api.events(job)
    next(stream)
    got, attempt = worker.claim()
    assert got == job
    for step in range(1, 6):
        worker.progress(job, attempt, "denoise", step, 10, 1.0)
    at = stream.until("progress", step=3)[0]
    stream.close()
    again = api.events(job, last=at)
    for step in range(6, 9):
        worker.progress(job, attempt, "denoise", step, 10, 1.0)
    worker.settle(job, attempt, {})
    events = list(again)
    assert [e[2]["step"] for e in events if e[1] == "progress"] == [4, 5, 6, 7, 8]
    assert events[-1][1] == "end"
    assert all(e[2].get("job", job) == job for e in events)
    events = list(api.events(job, last=at))
    assert [e[2]["step"] for e in events if e[1] == "progress"] == [4, 5, 6, 7, 8]
    assert [e[1] for e in events][-2:] == ["job", "end"]
    assert api.events(other, last=at).status == 200


def test_events_of_an_ended_job(api, worker):
    job = api.submit()
    run_job(worker)
    assert [e[1] for e in api.events(job)] == ["job", "end"]


def test_position_moves(api, worker):
    first, second = api.submit(), api.submit()
    stream = api.events(second)
    assert next(stream)[2]["position"] == 1
    api("POST", "/v1/jobs/%s/cancel" % first)
    assert stream.until("job")[2]["position"] == 0
    stream.close()


def test_cancel_and_delete_end_the_stream(api):
    job = api.submit()
    stream = api.events(job)
    next(stream)
    api("POST", "/v1/jobs/%s/cancel" % job)
    assert stream.until("end")[2]["state"] == "cancelled"
    assert list(stream) == []


def test_bad_requests(api):
    job = api.submit()
    a = api("GET", "/v1/jobs/%s/events" % job, Last_Event_ID="yesterday")
    assert (a.status, a.json["field"]) == (422, "last-event-id")
    assert api("GET", "/v1/jobs/none/events").status == 404
    assert api("GET", "/v1/jobs/none/events", Last_Event_ID="5-1").status == 404
    assert api("HEAD", "/v1/jobs/%s/events" % job).status == 200


def test_clients_that_vanish(api, worker, dispatcher):
    job = api.submit()
    for _ in range(50):
        s = socket.create_connection(("127.0.0.1", dispatcher.port))
        s.sendall(b"GET /v1/jobs/%s/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % job.encode())
        s.recv(10)
        s.close()
    run_job(worker, (("denoise", 30),))
    deadline = time.time() + 10
    while time.time() < deadline:
        text = api("GET", "/metrics").body.decode()
        if "troupe_event_streams 0\n" in text:
            return
        time.sleep(0.1)
    raise AssertionError(text)


def test_restart_of_the_dispatcher_is_invisible(folder, redis_server, worker, dispatcher, api):
    job = api.submit()
    stream = api.events(job)
    next(stream)
    job, attempt = worker.claim()
    worker.progress(job, attempt, "denoise", 1, 4, 3.0)
    at = stream.until("progress", step=1)[0]
    assert dispatcher.stop() == 0
    assert list(stream) == []
    worker.progress(job, attempt, "denoise", 2, 4, 2.0)
    second = Dispatcher(folder, redis_server.path)
    stream = Client(second.port).events(job, last=at)
    worker.progress(job, attempt, "denoise", 3, 4, 1.0)
    worker.settle(job, attempt, {})
    events = list(stream)
    assert [e[2]["step"] for e in events if e[1] == "progress"] == [2, 3]
    assert events[-1][1] == "end"
    assert second.stop() == 0


def test_two_dispatchers_show_one_stream(folder, redis_server, worker, api):
    second = Dispatcher(folder, redis_server.path)
    job = api.submit()
    stream = Client(second.port).events(job)
    assert next(stream)[2]["id"] == job
    run_job(worker)
    assert [e[1] for e in stream][-1] == "end"
    assert second.stop() == 0
