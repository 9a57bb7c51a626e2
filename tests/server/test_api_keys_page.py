"""The page with a key of scope jobs: everything but the operator's tab, which says what it would need."""
import os

import pytest

import browser
from api_tools import RedisServer, png, temporary_folder, wav
from test_api_keys import USUAL, Setup, secret

pytestmark = pytest.mark.skipif(not browser.available(), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def two():
    folder, remove = temporary_folder()
    server = RedisServer(folder)
    s = Setup(folder, server, USUAL)
    b = browser.Browser()
    yield s, b
    b.close()
    s.stop()
    server.stop()
    remove()


def test_page_of_a_tenant(two):
    s, page = two
    others = s.bob.submit(prompt="nobody else's affair")
    page.go("http://127.0.0.1:%d/" % s.dispatcher.port)
    page.wait("document.querySelector('#key-dialog').open")
    page.keys("#key", secret("alice"))
    page.click("#key-form button")
    page.wait("document.querySelectorAll('#fields .field').length > 5")
    files = {"image": png(64, 64), "audio": wav(1.0)}
    for name, data in files.items():
        path = os.path.join(s.folder, name)
        with open(path, "wb") as f:
            f.write(data)
        page.keys("input[name=%s]" % name, path)
    page.click("#submit")
    page.wait("!document.querySelector('#stage').hidden")
    page.wait("document.querySelector('#jobs li')")
    page.wait("document.querySelector('#stage-text').textContent !== ''")
    assert page.run("return document.querySelectorAll('#jobs li').length") == 1
    mine = s.alice("GET", "/v1/jobs").json["jobs"][0]["id"]
    assert mine != others
    page.click("#stage-cancel")
    page.wait("document.querySelector('#stage-title').textContent === 'Cancelled'")
    page.go("http://127.0.0.1:%d/?job=%s" % (s.dispatcher.port, others))
    page.wait("document.querySelector('#stage').hidden || !document.querySelector('#problem').hidden || "
              "document.querySelector('#stage-text').textContent !== ''")
    assert "nobody else's affair" not in page.run("return document.body.textContent")
    page.click("#tab-board")
    page.wait("!document.querySelector('#board-problem').hidden")
    assert page.text("#board-problem") == "this needs a key of scope admin; the key alice is for the jobs of alpha"
    assert not page.run("return document.querySelector('#key-dialog').open")
    page.run("document.cookie = 'troupe_key=%s; Path=/'" % secret("root"))
    page.go("http://127.0.0.1:%d/#board" % s.dispatcher.port)
    page.wait("document.querySelectorAll('#tiles > *').length > 2")
    assert not page.visible("#board-problem")
