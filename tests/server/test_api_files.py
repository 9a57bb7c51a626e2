"""Files: blobs by content, results with ranges, the page's own files."""
import hashlib
import os
import time

import pytest

from api_tools import form_data, png, wav

VIDEO = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def done(shared):
    job = shared.client.submit()
    got, attempt = shared.worker.claim()
    assert got == job
    folder = os.path.join(shared.volume, "results", job)
    os.makedirs(folder)
    files = {"1-video.mp4": VIDEO, "1-thumbnail.jpg": b"\xff\xd8\xff thumb", "1-report.json": b'{"seed": 1}'}
    for name, data in files.items():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
    shared.worker.settle(job, attempt, {
        "video": "1-video.mp4", "video_bytes": len(VIDEO), "video_sha256": hashlib.sha256(VIDEO).hexdigest(),
        "thumbnail": "1-thumbnail.jpg", "report": "1-report.json"})
    return "/v1/jobs/" + job


def test_whole_files(shared, done):
    a = shared.client("GET", done + "/video")
    assert (a.status, a.body, a.headers["Content-Type"]) == (200, VIDEO, "video/mp4")
    assert a.headers["Accept-Ranges"] == "bytes" and "inline" in a.headers["Content-Disposition"]
    assert "attachment" in shared.client("GET", done + "/video?download=1").headers["Content-Disposition"]
    a = shared.client("GET", done + "/thumbnail")
    assert (a.status, a.body, a.headers["Content-Type"]) == (200, b"\xff\xd8\xff thumb", "image/jpeg")
    a = shared.client("GET", done + "/report")
    assert (a.json, a.headers["Content-Type"]) == ({"seed": 1}, "application/json")


@pytest.mark.parametrize("asked, first, last", [
    ("bytes=0-0", 0, 0), ("bytes=100-199", 100, 199), ("bytes=102399-", 102399, 102399),
    ("bytes=5-999999", 5, 102399), ("bytes=-10", 102390, 102399), ("bytes=-999999", 0, 102399)])
def test_ranges(shared, done, asked, first, last):
    a = shared.client("GET", done + "/video", Range=asked)
    assert a.status == 206 and a.body == VIDEO[first:last + 1]
    assert a.headers["Content-Range"] == "bytes %d-%d/%d" % (first, last, len(VIDEO))
    assert int(a.headers["Content-Length"]) == last - first + 1


@pytest.mark.parametrize("asked", ["bytes=102400-", "bytes=999999-1000000", "bytes=-0"])
def test_ranges_outside(shared, done, asked):
    a = shared.client("GET", done + "/video", Range=asked)
    assert (a.status, a.headers["Content-Range"], a.body) == (416, "bytes */%d" % len(VIDEO), b"")


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", "bytes=-", "bytes",
                                   "bytes=99999999999999999999-"])
def test_ranges_ignored(shared, done, asked):
    a = shared.client("GET", done + "/video", Range=asked)
    assert (a.status, len(a.body)) == (200, len(VIDEO))


def test_head_and_etag(shared, done):
    a = shared.client("HEAD", done + "/video")
    assert (a.status, a.body, int(a.headers["Content-Length"])) == (200, b"", len(VIDEO))
    tag = a.headers["ETag"]
    for match in [tag, "W/" + tag, '"other", ' + tag, "*"]:
        b = shared.client("GET", done + "/video", If_None_Match=match)
        assert (b.status, b.body, b.headers["ETag"]) == (304, b"", tag), match
    assert shared.client("GET", done + "/video", If_None_Match='"other"').status == 200
    assert shared.client("GET", done + "/video", Range="bytes=1-2", If_Range=tag).status == 206
    assert shared.client("GET", done + "/video", Range="bytes=1-2", If_Range='"old"').status == 200
    assert shared.client("HEAD", done + "/video", Range="bytes=1-2").headers["Content-Length"] == "2"


def test_not_yet_and_no_more(shared):
    job = shared.client.submit()
    a = shared.client("GET", "/v1/jobs/%s/video" % job)
    assert (a.status, a.json["field"]) == (409, "video")
    got, attempt = shared.worker.claim()
    shared.worker.settle(got, attempt, {"video": "../../../etc/passwd", "thumbnail": "1-gone.jpg"})
    assert shared.client("GET", "/v1/jobs/%s/video" % job).status == 404
    assert shared.client("GET", "/v1/jobs/%s/thumbnail" % job).status == 404
    assert shared.client("GET", "/v1/jobs/%s/report" % job).status == 404


def test_blobs(shared):
    data = wav(3.0)
    key = "sha256:" + hashlib.sha256(data).hexdigest()
    a = shared.client("POST", "/v1/blobs", data, Content_Type="audio/wav")
    assert (a.status, a.json) == (201, {"key": key, "bytes": len(data), "type": "audio/wav"})
    assert a.headers["Location"] == "/v1/blobs/" + key
    again = shared.client.form("/v1/blobs", [("file", ("x.wav", data))])
    assert (again.status, again.json["key"]) == (201, key)
    got = shared.client("GET", "/v1/blobs/" + key)
    assert (got.status, got.body, got.headers["Content-Type"]) == (200, data, "audio/wav")
    assert shared.client("GET", "/v1/blobs/" + key, Range="bytes=0-3").body == b"RIFF"
    head = shared.client("HEAD", "/v1/blobs/" + key)
    assert (head.status, int(head.headers["Content-Length"])) == (200, len(data))
    assert shared.client("GET", "/v1/blobs/sha256:" + "0" * 64).status == 404
    assert shared.client("HEAD", "/v1/blobs/sha256:" + "0" * 64).status == 404
    for bad in ["x", "sha256:xyz", "sha256:" + "A" * 64, "..%2f..%2fx"]:
        assert shared.client("GET", "/v1/blobs/" + bad).status in (404, 422), bad


def test_blobs_refused(shared):
    a = shared.client("POST", "/v1/blobs", b"")
    assert a.status == 422 and "empty" in a.json["detail"]
    a = shared.client.form("/v1/blobs", [("a", "only text")])
    assert a.status == 422
    a = shared.client.form("/v1/blobs", [("a", ("x", b"1")), ("b", ("y", b"2"))])
    assert a.status == 422
    deadline = time.time() + 5 # the files go right after the answers
    while os.listdir(os.path.join(shared.volume, "tmp")) and time.time() < deadline:
        time.sleep(0.01)
    assert os.listdir(os.path.join(shared.volume, "tmp")) == []


def test_large_upload_streams(shared):
    data = os.urandom(1 << 20) * 24
    a = shared.client("POST", "/v1/blobs", data)
    assert a.json["key"] == "sha256:" + hashlib.sha256(data).hexdigest()
    with open("/proc/%d/status" % shared.process.pid) as f:
        peak = [int(line.split()[1]) for line in f if line.startswith("VmHWM")][0]
    assert peak < 64 * 1024, "peak resident size %d KiB for a 24 MiB upload" % peak
    body, kind = form_data([("image", ("i.png", png(8, 8))), ("audio", ("a.wav", wav(0.5) + data))])
    a = shared.client("POST", "/v1/jobs", body, Content_Type=kind)
    assert a.status == 201, a.body


def test_the_page(shared):
    for path, kind in [("/", "text/html"), ("/style.css", "text/css"), ("/page.js", "text/javascript")]:
        a = shared.client("GET", path)
        assert a.status == 200 and a.headers["Content-Type"].startswith(kind) and len(a.body) > 500
        assert shared.client("GET", path, If_None_Match=a.headers["ETag"]).status == 304
        assert "default-src 'self'" in a.headers["Content-Security-Policy"]
        assert b"http://" not in a.body.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in a.body
