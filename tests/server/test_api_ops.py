"""For operators: health, metrics, queue, workers, documents; keys, origins, other browsers' pages."""
import json
import re
import socket

import pytest

from api_tools import Client, Dispatcher, png, wav


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


def test_metrics(shared):
    shared.client.submit()
    a = shared.client("GET", "/metrics")
    text = a.body.decode()
    assert a.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r'troupe_[a-z0-9_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [0-9.e+-]+', line), line
            samples[line.rpartition(" ")[0]] = float(line.rpartition(" ")[2])
    for name in {s.partition("{")[0] for s in samples}:
        assert text.count("# HELP %s " % name) == 1 and text.count("# TYPE %s " % name) == 1, name
    assert samples["troupe_jobs_queued"] == 1 and samples["troupe_redis_up"] == 1
    assert samples["troupe_jobs_submitted_total"] >= 1 and samples['troupe_http_responses_total{code="2xx"}'] >= 1


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
