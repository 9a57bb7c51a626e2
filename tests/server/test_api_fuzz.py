"""Valid requests, broken at random (a fixed seed): the dispatcher answers or hangs up, never dies, never queues nonsense."""
import base64
import concurrent.futures
import random
import re
import socket

from api_tools import form_data, png, wav

IMAGE, AUDIO = png(8, 8), wav(0.2)


def seeds():
    form, kind = form_data([("image", ("a.png", IMAGE)), ("audio", ("b.wav", AUDIO[:600])), ("seed", "7")])
    text = b'{"image": "%s", "audio": "%s", "prompt": "hi", "tags": ["a"]}' % (
        base64.b64encode(IMAGE), base64.b64encode(AUDIO[:600]))
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    yield head % (b"/v1/jobs", kind.encode(), len(form)) + form
    yield head % (b"/v1/jobs", b"application/json", len(text)) + text
    yield head % (b"/v1/blobs", b"audio/wav", 600) + AUDIO[:600]
    yield (b"POST /v1/blobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
           b"5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n")
    yield b"GET /v1/jobs?limit=5&state=done&cursor=1:x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    yield b"GET /v1/jobs/abc/video HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-5\r\nConnection: close\r\n\r\n"


def broken(random_, data):
    data = bytearray(data)
    for _ in range(random_.choice([1, 1, 2, 8, 40])):
        at = random_.randrange(len(data))
        kind = random_.randrange(6)
        if kind == 0:
            data[at] = random_.randrange(256)
        elif kind == 1:
            del data[at:at + random_.randrange(1, 30)]
        elif kind == 2:
            data[at:at] = bytes(random_.randrange(256) for _ in range(random_.randrange(1, 9)))
        elif kind == 3:
            data[at:at] = data[at:at + random_.randrange(1, 60)]
        elif kind == 4:
            data[at:at + 1] = random_.choice([b"\r\n", b"\0", b"\"", b"--", b"%", b"{", b"[" * 20, b"9" * 30, b"\xff"])
        else:
            del data[at:]
        if not data:
            return b"\r\n\r\n"
    return bytes(data)


def broken_request(random_, data):
    """Three times in four only the body is broken, and its length is then told truly."""
    head, _, body = data.partition(b"\r\n\r\n")
    if b"Content-Length" not in head or random_.randrange(4) == 0:
        return broken(random_, data)
    body = broken(random_, body)
    return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + b"\r\n\r\n" + body


PATIENCE_S = 0.5 # half a request is not answered: the dispatcher waits for the rest, we do not


def talk(port, data):
    s = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    out = b""
    try:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        while chunk := s.recv(65536):
            out += chunk
    except (ConnectionError, TimeoutError):
        pass
    finally:
        s.close()
    return out


def test_broken_requests(shared):
    random_ = random.Random(20261125)
    answers = {}
    requests = [broken_request(random_, data) for _ in range(250) for data in seeds()]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for out in pool.map(lambda data: talk(shared.port, data), requests):
            code = out[9:12].decode("latin-1") if out.startswith(b"HTTP/1.") else ""
            answers[code] = answers.get(code, 0) + 1
            assert code != "500", out
    assert shared.process.poll() is None and shared.client("GET", "/healthz").status == 200
    assert answers.get("400", 0) > 50 and answers.get("422", 0) > 10, answers
    for job in shared.client("GET", "/v1/jobs?limit=100").json["jobs"]:
        params = shared.client("GET", "/v1/jobs/" + job["id"]).json["params"]
        assert shared.client("GET", "/v1/blobs/" + params["image"]).body[:4] == b"\x89PNG"
