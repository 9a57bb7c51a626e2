import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "server")]

from api_tools import temporary_folder  # noqa: E402

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
