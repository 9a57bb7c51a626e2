"""A volume that is full or read-only: the requests that need it are refused, everything else goes on. (Needs mount.)"""
import os
import subprocess

import pytest

from api_tools import Client, Dispatcher, png, wav


@pytest.fixture
def small_volume(folder):
    path = os.path.join(folder, "volume")
    os.makedirs(path)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this user may not mount")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def submit(client, audio):
    return client.form("/v1/jobs", [("image", ("a.png", png(8, 8))), ("audio", ("a.wav", audio))])


def test_full(small_volume, folder, redis_server):
    d = Dispatcher(folder, redis_server.path)
    client = Client(d.port)
    job = client.submit()
    large = wav(0.5) + os.urandom(2 << 20)
    for a in [client("POST", "/v1/blobs", large), submit(client, large)]:
        assert a.status == 507 and a.json["code"] == "NOSPACE" and "no space left on the volume" in a.json["detail"]
    assert client("GET", "/v1/jobs/" + job).status == 200
    assert submit(client, wav(0.6)).status == 201
    assert client("GET", "/v1/queue").json["n_submitted"] == 2
    assert d.stop() == 0


def test_read_only(small_volume, folder, redis_server):
    d = Dispatcher(folder, redis_server.path)
    client = Client(d.port)
    job = client.submit()
    subprocess.run(["mount", "-o", "remount,ro", small_volume], check=True)
    for a in [client("POST", "/v1/blobs", wav(0.7)), submit(client, wav(0.7))]:
        assert a.status == 503 and "read-only" in a.json["detail"]
    assert client("GET", "/v1/jobs/" + job).status == 200
    assert d.stop() == 0
    d = Dispatcher(folder, redis_server.path, wait=False)
    assert d.process.wait(10) == 4 and "read-only" in d.log()
