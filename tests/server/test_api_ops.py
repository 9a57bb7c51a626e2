"""For operators: health, metrics, queue, workers, documents; keys, origins, other browsers' pages."""
import json
import re
import socket

import pytest

from api_tools import Client, Dispatcher, Redis, Worker, png, wav


def test_health(shared):
    assert shared.client("GET", "/healthz").json["live"] is True
    assert shared.client("GET", "/v2/health/live").json["live"] is True
    for path in ["/readyz", "/v2/health/ready"]:
        a = shared.client("GET", path)
        assert a.status == 200 and a.json["ready"] is True and a.json["live"] is True
    assert shared.client("HEAD", "/healthz").status == 200


def test_ping_and_workers(shared):
    assert shared.client("GET", "/ping").status == 204
    assert shared.client("GET", "/v1/workers").json["workers"] == []
    shared.worker.hello()
    assert shared.client("GET", "/ping").status == 200
    one, = shared.client("GET", "/v1/workers").json["workers"]
    assert one["name"] == "test-1" and one["device"] == "cpu" and one["pid"] == 1 and one["seen_at"].endswith("Z")
    assert one["components"] == [{"name": "dit", "status": "ready"}]
    assert shared.client("POST", "/v1/workers/test-1/quiet").status == 200
    assert shared.worker.offer()["quiet"] is True
    assert shared.client("POST", "/v1/workers/test-1/quiet?off=1").status == 200
    assert shared.client("POST", "/v1/workers/nobody/quiet").status == 404


def test_queue(shared):
    job = shared.client.submit()
    q = shared.client("GET", "/v1/queue").json
    assert q["waiting"] == 1 and q["running"] == 0
    assert shared.client("POST", "/v1/queue/pause").status == 200
    assert shared.client("GET", "/v1/queue").json["paused"] is True and shared.worker.claim() is None
    assert shared.client("POST", "/v1/queue/resume").status == 200
    assert shared.client("POST", "/v1/queue/purge").json == {"cancelled": 1}
    assert shared.client("GET", "/v1/jobs/" + job).json["state"] == "cancelled"


def test_scoped_pauses(api, worker):
    worker.hello()
    job = api.submit()
    for query in ["generator=avatar", "tenant="]:
        assert api("POST", "/v1/queue/pause?" + query).status == 200
        assert api("POST", "/v1/queue/pause?" + query).status == 200 # twice: the same
        q = api("GET", "/v1/queue").json
        assert q["paused"] is False and q["paused_list"] == [query.replace("=", ":")]
        assert worker.claim() is None
        why = api("GET", "/v1/jobs/%s/why" % job).json
        assert why["reason"] == "paused" and "paused" in why["why"]
        assert api("POST", "/v1/queue/resume?" + query).status == 200
    assert api("GET", "/v1/queue").json["paused_list"] == []
    assert api("POST", "/v1/queue/pause?tenant=acme").status == 200 # somebody else
    assert worker.claim()[0] == job
    for query, status, word in [("generator=avatr", 404, "avatar"), ("generator=avatar&tenant=a", 422, "not both"),
                                ("tenant=a%20b", 422, "tenant"), ("tenant=" + "x" * 49, 422, "48"), ("generator=", 404, "no ")]:
        for verb in ["pause", "resume"]:
            a = api("POST", "/v1/queue/%s?%s" % (verb, query))
            assert a.status == status and word in a.json["detail"], query
    assert api("GET", "/v1/queue").json["paused_list"] == ["tenant:acme"]


def test_why_and_when(api, worker):
    first, second, urgent = api.submit(), api.submit(), api.submit(priority=9)
    why = api("GET", "/v1/jobs/%s/why" % first).json
    assert (why["reason"], why["workers"], why["fitting"], why["state"]) == ("no_worker", 0, 0, "queued")
    assert api("GET", "/v1/jobs/" + first).json["start_s"] is None
    worker.hello()
    why = api("GET", "/v1/jobs/%s/why" % second).json
    assert (why["reason"], why["position"], why["ahead"], why["fitting"]) == ("behind", 2, 2, 1)
    assert why["ahead_s"] > 0 and why["start_s"] == pytest.approx(why["ahead_s"], rel=0.5)
    job = api("GET", "/v1/jobs/" + second).json
    assert job["position"] == 2 and job["start_s"] == pytest.approx(why["start_s"], rel=0.2)
    assert api("GET", "/v1/jobs/%s/why" % urgent).json["reason"] == "next"
    got, attempt = worker.claim()
    assert got == urgent
    assert api("GET", "/v1/jobs/%s/why" % urgent).json["reason"] == "running"
    assert api("GET", "/v1/jobs/" + urgent).json["start_s"] is None
    api("POST", "/v1/jobs/%s/cancel" % urgent)
    assert api("GET", "/v1/jobs/%s/why" % urgent).json["reason"] == "stopping"
    worker.settle(urgent, attempt, code="CANCEL", error="stopped", verdict="stop")
    assert api("GET", "/v1/jobs/%s/why" % urgent).json["reason"] == "ended"
    assert api("GET", "/v1/jobs/none/why").status == 404


def failed(api, worker, code, name, why="no"):
    """A job that failed with that code at a worker of that name."""
    before, worker.name = worker.name, name
    worker.hello()
    job = api.submit()
    worker.settle(*worker.claim(), code=code, error=why)
    worker.name = before
    return job


def ids(answer):
    assert answer.status == 200, answer.body
    return [j["id"] for j in answer.json["jobs"]]


def test_filters_and_the_dead_list(api, worker):
    media, fit, other = (failed(api, worker, code, name) for code, name in [("MEDIA", "w-a"), ("NOFIT", "w-b"), ("MEDIA", "w-b")])
    done = api.submit()
    worker.hello()
    worker.settle(*worker.claim(), {})
    waiting = api.submit()
    assert ids(api("GET", "/v1/queue/dead")) == [other, fit, media]
    for query, found in [("code=MEDIA", [other, media]), ("worker=w-b", [other, fit]), ("code=NOFIT&worker=w-a", []),
                         ("generator=avatar", [other, fit, media]), ("generator=tryon", []), ("tenant=", [other, fit, media]),
                         ("tenant=acme", []), ("code=", [other, fit, media])]:
        assert ids(api("GET", "/v1/queue/dead?" + query)) == found, query
        assert ids(api("GET", "/v1/jobs?state=failed&" + query)) == found, query
    assert ids(api("GET", "/v1/queue/dead?state=done")) == [other, fit, media] # it is what it is
    assert ids(api("GET", "/v1/jobs?worker=test-1")) == [done]
    assert ids(api("GET", "/v1/jobs?tenant=")) == [waiting, done, other, fit, media]
    one = api("GET", "/v1/queue/dead?limit=1").json
    assert one["jobs"][0]["error_code"] == "MEDIA" and one["jobs"][0]["error"] == "no" and one["jobs"][0]["worker"] == "w-b"
    assert ids(api("GET", "/v1/queue/dead?limit=2&cursor=" + one["cursor"])) == [fit, media]
    for query, field in [("code=MEDI", "code"), ("code=media", "code"), ("tenant=a%20b", "tenant"), ("state=dead", "state"),
                         ("worker=" + "x" * 64, "worker"), ("generator=%ff", "generator"), ("limit=0", "limit"),
                         ("cursor=%ff", "cursor")]:
        for path in ["/v1/jobs?", "/v1/queue/dead?"]:
            a = api("GET", path + query)
            assert (a.status, a.json["field"]) == (422, field), query
    assert "did you mean MEDIA?" in api("GET", "/v1/queue/dead?code=MEDI").json["detail"]


def test_redrive(api, worker):
    a, b, c, d = (failed(api, worker, code, name)
                  for code, name in [("MEDIA", "w-a"), ("NOFIT", "w-b"), ("MEDIA", "w-b"), ("WEIGHTS", "w-a")])

    def states():
        return [api("GET", "/v1/jobs/" + j).json["state"] for j in (a, b, c, d)]
    for body, field in [({"cod": "x"}, "cod"), ({"code": 1}, "code"), ({"state": "done"}, "state"), ({"code": "X"}, "code")]:
        r = api("POST", "/v1/queue/redrive", body)
        assert (r.status, r.json["field"]) == (422, field), body
    assert "did you mean code?" in api("POST", "/v1/queue/redrive", {"cod": "x"}).json["detail"]
    assert api("POST", "/v1/queue/redrive", [1]).status == 400 and api("POST", "/v1/queue/redrive", b"{").status == 400
    assert states() == ["failed"] * 4
    assert api("POST", "/v1/queue/redrive?worker=nobody").json == {"n": 0}
    assert api("POST", "/v1/queue/redrive?code=MEDIA&worker=w-a").json == {"n": 1}
    assert states() == ["queued", "failed", "failed", "failed"]
    assert api("POST", "/v1/queue/redrive", {"worker": "w-b", "state": "failed"}).json == {"n": 2}
    assert states() == ["queued", "queued", "queued", "failed"]
    assert api("POST", "/v1/queue/redrive").json == {"n": 1} and api("POST", "/v1/queue/redrive").json == {"n": 0}
    job = api("GET", "/v1/jobs/%s?history=1" % a).json
    assert job["state"] == "queued" and job["fails"] == 0 and [e["what"] for e in job["history"]][-1] == "retry"
    assert api("GET", "/v1/queue/dead").json["jobs"] == []


def test_more_than_a_thousand_at_once(folder, redis_server):
    d = Dispatcher(folder, redis_server.path, "--max-queue", "5000")
    client, worker = Client(d.port), Worker(Redis(redis_server.path))
    image, audio = (client("POST", "/v1/blobs", data, Content_Type="application/octet-stream").json["key"]
                    for data in (png(8, 8), wav(0.5)))
    connection = client.connect()
    for _ in range(1030):
        connection.request("POST", "/v1/jobs", json.dumps({"image": image, "audio": audio}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201
    connection.close()
    worker.hello()
    for _ in range(1030):
        worker.settle(*worker.claim(), code="MEDIA", error="no")
    assert client("GET", "/v1/queue").json["dead"] == 1030
    assert client("POST", "/v1/queue/redrive").json == {"n": 1030}
    assert client("GET", "/v1/queue").json["waiting"] == 1030
    assert client("POST", "/v1/queue/purge").json == {"cancelled": 1030}
    q = client("GET", "/v1/queue").json
    assert (q["waiting"], q["dead"], q["n_cancelled"]) == (0, 0, 1030)
    worker.redis.close()
    assert d.stop() == 0


def test_tenants(api, worker):
    assert api("GET", "/v1/tenants").json == {"object": "list", "tenants": []}
    worker.call("tenant", name="acme", weight=2.5, max_running=3, max_queued=0, gpu_s_day=60.0, rate=30.0, burst=5)
    api.submit()
    api("POST", "/v1/queue/pause?tenant=acme")
    t = {t["name"]: t for t in api("GET", "/v1/tenants").json["tenants"]}
    assert set(t) == {"", "acme"} and (t[""]["waiting"], t[""]["running"], t[""]["paused"]) == (1, 0, False)
    assert (t["acme"]["weight"], t["acme"]["max_running"], t["acme"]["gpu_s_day"], t["acme"]["rate"]) == (2.5, 3, 60, 30)
    assert t["acme"]["paused"] is True and t["acme"]["held"] == "paused"


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_stays_with_its_job(dispatcher, api):
    a = api.form("/v1/jobs", [("image", ("a.png", png(8, 8))), ("audio", ("a.wav", wav(0.5)))], traceparent=TRACE)
    assert a.status == 201
    assert api("GET", "/v1/jobs/" + a.json["id"]).json["traceparent"] == TRACE
    other = api.submit()
    assert api("GET", "/v1/jobs/" + other).json["traceparent"] is None
    lines = {job: [x for x in dispatcher.log().splitlines() if "job submitted" in x and job in x] for job in (a.json["id"], other)}
    assert ["trace=" + TRACE in x for x in lines[a.json["id"]]] == [True]
    assert ["trace=" in x for x in lines[other]] == [False]


def test_generators_and_openapi(shared):
    g = shared.client("GET", "/v1/generators").json["generators"][0]
    fields = {f["name"]: f for f in g["fields"]}
    assert g["name"] == "avatar" and fields["image"]["required"] and fields["image"]["type"] == "media"
    assert fields["num_inference_steps"]["max"] == 100
    doc = shared.client("GET", "/openapi.json").json
    assert doc["openapi"] == "3.1.0"
    submit = doc["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    for kind in ["multipart/form-data", "application/json"]:
        assert set(fields) == set(submit[kind]["schema"]["properties"]), kind
    for path, item in doc["paths"].items():
        for method, operation in item.items():
            wanted = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert wanted == set(re.findall(r"\{(\w+)\}", path)), path
            assert operation["summary"] and "default" in operation["responses"]
    for method, path, names in [("get", "/v1/jobs", {"state", "generator", "code", "worker", "tenant", "limit", "cursor"}),
                                ("get", "/v1/queue/dead", {"generator", "code", "worker", "tenant", "limit", "cursor"}),
                                ("post", "/v1/queue/redrive", {"generator", "code", "worker", "tenant"}),
                                ("post", "/v1/queue/resume", {"generator", "tenant"}), ("get", "/v1/queue", set()),
                                ("post", "/v1/jobs", set()), ("post", "/v1/workers/{name}/quiet", {"off"})]:
        assert {p["name"] for p in doc["paths"][path][method]["parameters"] if p["in"] == "query"} == names, path
    for path in ["/v1/jobs/{id}/events", "/v1/jobs/{id}/video", "/v1/blobs/{key}", "/metrics", "/healthz"]:
        assert path in doc["paths"]
    page = shared.client("GET", "/docs").body.decode()
    assert "guidance_scale" in page and "POST /v1/jobs" in page and 'id=TOOBIG' in page


def test_wrong_paths_and_methods(shared):
    a = shared.client("GET", "/v1/nothing")
    assert (a.status, a.json["code"], a.json["status"]) == (404, "NOTFOUND", 404)
    a = shared.client("PUT", "/v1/jobs")
    assert a.status == 405 and a.headers["Allow"] == "POST, GET"
    assert shared.client("DELETE", "/healthz").status == 405
    assert shared.client("GET", "/v1/jobs/").status == 404
    assert shared.client("GET", "//").status == 404


def raw(port, data):
    s = socket.create_connection(("127.0.0.1", port), timeout=10)
    s.sendall(data)
    out = b""
    try:
        while chunk := s.recv(65536):
            out += chunk
    except ConnectionError:
        pass
    s.close()
    return out


def test_broken_http(shared):
    assert raw(shared.port, b"HELLO\r\n\r\n").startswith((b"HTTP/1.", b""))
    assert raw(shared.port, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 400")
    huge = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Big: " + b"a" * 40000 + b"\r\n\r\n"
    assert raw(shared.port, huge).split(b"\r\n")[0].split()[1:2] in ([b"431"], [b"413"], [b"400"], [])
    assert raw(shared.port, b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 20000))[:12] in (
        b"HTTP/1.1 414", b"HTTP/1.1 431", b"HTTP/1.1 400", b"")
    bad_text = b"GET /\xff\xfe%ff%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert raw(shared.port, bad_text).startswith(b"HTTP/1.1 404")
    assert shared.client("GET", "/healthz").status == 200


def test_keep_alive_survives_a_refusal(shared):
    c = shared.client.connect()
    for method, path, status in [("GET", "/v1/nothing", 404), ("POST", "/v1/jobs", 415), ("GET", "/healthz", 200),
                                 ("GET", "/v1/jobs/none", 404), ("GET", "/v1/queue", 200)]:
        c.request(method, path, body=b"x" * 1000 if method == "POST" else None)
        r = c.getresponse()
        r.read()
        assert r.status == status, path
        assert r.headers["Connection"] is None
    c.close()


def test_other_pages_may_not_drive_us(shared):
    port = shared.port
    assert shared.client("GET", "/healthz", Host="evil.example").status == 403
    assert shared.client("GET", "/healthz", Host="127.0.0.1:%d" % port).status == 200
    assert shared.client("GET", "/healthz", Host="[::1]:%d" % port).status == 200
    assert shared.client("POST", "/v1/queue/purge", Origin="https://evil.example").status == 403
    assert shared.client("POST", "/v1/queue/purge", Origin="null").status == 403
    assert shared.client("POST", "/v1/queue/purge", Host="localhost:%d" % port,
                         Origin="http://localhost:%d" % port).status == 200
    a = shared.client("GET", "/healthz", Origin="https://evil.example")
    assert a.headers["Access-Control-Allow-Origin"] is None


def test_cors(folder, redis_server):
    d = Dispatcher(folder, redis_server.path, "--cors", "https://app.example")
    client = Client(d.port)
    a = client("OPTIONS", "/v1/jobs", Origin="https://app.example", Access_Control_Request_Method="POST")
    assert a.status == 204 and a.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "POST" in a.headers["Access-Control-Allow-Methods"]
    assert client("GET", "/v1/queue", Origin="https://app.example").headers["Access-Control-Allow-Origin"]
    assert client("GET", "/v1/queue", Origin="https://b.example").headers["Access-Control-Allow-Origin"] is None
    assert client("POST", "/v1/queue/purge", Origin="https://app.example").status == 200
    assert client("POST", "/v1/queue/purge", Origin="https://b.example").status == 403
    assert d.stop() == 0


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
def test_keys(folder, redis_server, bind):
    d = Dispatcher(folder, redis_server.path, "--bind", bind, env={"TROUPE_API_KEY": "first-key,second-key"})
    client = Client(d.port)
    for path in ["/healthz", "/readyz", "/ping", "/", "/docs", "/openapi.json"]:
        assert client("GET", path).status in (200, 204), path
    for path in ["/v1/jobs", "/v1/queue", "/metrics", "/v1/generators", "/v1/jobs/x/video", "/v1/none"]:
        a = client("GET", path)
        assert a.status == 401 and a.headers["WWW-Authenticate"] == "Bearer", path
        assert a.json["code"] == "AUTH"
    for good in ["Bearer first-key", "bearer second-key", "first-key"]:
        assert client("GET", "/v1/queue", Authorization=good).status == 200, good
    for bad in ["Bearer", "Bearer first-ke", "Bearer first-key2", "Bearer first-key,second-key", "Bearer ", "x" * 1000]:
        assert client("GET", "/v1/queue", Authorization=bad).status == 401, bad
    assert client("GET", "/v1/queue", Cookie="troupe_key=second-key").status == 200
    assert client("GET", "/v1/queue", Cookie="troupe_key=no").status == 401
    a = client.form("/v1/jobs", [("image", ("a.png", png(8, 8))), ("audio", ("a.wav", wav(0.5)))])
    assert a.status == 401
    assert client("GET", "/v1/queue", Authorization="Bearer first-key").json["waiting"] == 0
    assert json.loads(client("GET", "/openapi.json").body)["security"] == [{"key": []}]
    assert d.stop() == 0
