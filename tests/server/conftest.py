import os

import pytest

from api_tools import Client, Dispatcher, Redis, RedisServer, Worker, dispatcher_program, temporary_folder
from cluster_tools import Cluster, worker_program


def pytest_configure(config):
    if not os.path.exists(dispatcher_program()):
        raise pytest.UsageError("no %s: build first, or set TROUPE_BUILD" % dispatcher_program())


SKIPPED = 77 # what meson counts as skipped


def pytest_sessionfinish(session, exitstatus):
    stats = session.config.pluginmanager.get_plugin("terminalreporter").stats
    if exitstatus == 0 and stats.get("skipped") and not stats.get("passed"):
        session.exitstatus = SKIPPED


@pytest.fixture
def folder():
    path, remove = temporary_folder()
    yield path
    remove()


@pytest.fixture
def redis_server(folder):
    server = RedisServer(folder)
    yield server
    server.stop()


@pytest.fixture
def dispatcher(folder, redis_server):
    program = Dispatcher(folder, redis_server.path)
    yield program
    assert program.stop() == 0, program.log()


@pytest.fixture
def api(dispatcher):
    return Client(dispatcher.port)


@pytest.fixture
def worker(redis_server, dispatcher):
    redis = Redis(redis_server.path)
    yield Worker(redis)
    redis.close()


# One pair of programs for a whole file of tests that do not disturb each other.
@pytest.fixture(scope="module")
def shared():
    path, remove = temporary_folder()
    server = RedisServer(path)
    program = Dispatcher(path, server.path)
    redis = Redis(server.path)
    program.client, program.worker, program.folder = Client(program.port), Worker(redis), path
    yield program
    code = program.stop()
    redis.close()
    server.stop()
    log = program.log()
    remove()
    assert code == 0, log


# ---- real workers ----

@pytest.fixture(scope="module")
def need_worker():
    if not os.path.exists(worker_program()):
        pytest.skip("no %s: build it first" % worker_program())


# Everything but the workers, which a test starts as it needs them.
@pytest.fixture
def cluster(folder, need_worker):
    c = Cluster(folder)
    yield c
    c.stop()


# One of everything for a whole file: two workers are too many for tests that must not disturb each other.
@pytest.fixture(scope="module")
def shared_cluster(need_worker):
    path, remove = temporary_folder()
    c = Cluster(path)
    c.worker()
    yield c
    c.stop()
    remove()
