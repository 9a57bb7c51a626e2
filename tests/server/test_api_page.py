"""The page in a real browser: submit with files, watch, play, cancel, keyboard, phone width, dark; no console errors."""
import os

import pytest

import browser
from api_tools import Dispatcher, png, wav

pytestmark = pytest.mark.skipif(not browser.available(), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def page():
    b = browser.Browser()
    yield b
    b.close()


@pytest.fixture
def inputs(folder):
    paths = {"image": os.path.join(folder, "face.png"), "audio": os.path.join(folder, "speech.wav")}
    with open(paths["image"], "wb") as f:
        f.write(png(64, 64))
    with open(paths["audio"], "wb") as f:
        f.write(wav(1.0))
    return paths


def fill(page, inputs):
    page.keys("input[name=image]", inputs["image"])
    page.keys("input[name=audio]", inputs["audio"])


def test_from_files_to_video(page, shared, inputs):
    page.go("http://127.0.0.1:%d/" % shared.port)
    page.wait("document.querySelectorAll('#fields .field').length > 5")
    page.click("#submit")
    assert "portrait is needed" in page.text("#problem") and page.visible("#problem")
    fill(page, inputs)
    page.wait("document.querySelector('#drop-image').classList.contains('full')")
    page.click("summary")
    page.keys("#f-seed", "7")
    page.keys("#prompt", "hello")
    page.click("#submit")
    page.wait("!document.querySelector('#stage').hidden")
    assert page.text("#stage-text") == "Next in line" and not page.visible("#problem")
    job, attempt = shared.worker.claim()
    params = shared.client("GET", "/v1/jobs/" + job).json["params"]
    assert params["seed"] == 7 and params["prompt"] == "hello"
    page.wait("document.querySelector('#stage-title').textContent === 'Running'")
    shared.worker.progress(job, attempt, "denoise", 3, 10, 30.0)
    page.wait("/Denoise · step 3 of 10 · about \\d+ s left/.test(document.querySelector('#stage-text').textContent)")
    page.wait("document.querySelector('#steps .now').textContent === 'denoise'")
    results = os.path.join(shared.volume, "results", job)
    os.makedirs(results)
    with open(os.path.join(results, "1-video.mp4"), "wb") as f:
        f.write(b"not a video, but served as one")
    with open(os.path.join(results, "1-thumbnail.jpg"), "wb") as f:
        f.write(png(8, 8))
    shared.worker.settle(job, attempt, {"video": "1-video.mp4", "thumbnail": "1-thumbnail.jpg", "width": 64,
                                        "height": 64, "seconds": 1.0, "seed": 7,
                                        "warnings": ["no face was found; the whole image is used"]})
    page.wait("document.querySelector('#stage-title').textContent === 'Done'")
    assert page.visible("#stage-video") and "64 × 64 · 1.0 s · seed 7" in page.text("#stage-text")
    assert page.run("return document.querySelector('#stage-video').src").endswith("/v1/jobs/%s/video" % job)
    assert page.text("#stage-warnings") == "no face was found; the whole image is used"
    assert page.run("return document.querySelector('#stage-links a').getAttribute('href')").endswith("video?download=1")
    page.wait("document.querySelector('#jobs li.open')")


def test_refusal_is_shown_at_its_field(page, shared, inputs):
    page.go("http://127.0.0.1:%d/" % shared.port)
    page.wait("document.querySelectorAll('#fields .field').length > 5")
    fill(page, inputs)
    page.click("summary")
    page.keys("#f-guidance_scale", "99")
    page.click("#submit")
    page.wait("!document.querySelector('#problem').hidden")
    assert page.text("#problem") == "guidance_scale: 99 is not allowed; a number from 0 to 20 is"
    assert page.run("return document.activeElement.id") == "f-guidance_scale"
    assert [e for e in page.console() if "422" not in e["message"] and "/video" not in e["message"]] == []


def test_cancel_and_text_is_text(page, shared, inputs):
    shared.client("POST", "/v1/queue/purge")
    page.go("http://127.0.0.1:%d/" % shared.port)
    fill(page, inputs)
    page.click("#submit")
    page.wait("!document.querySelector('#stage').hidden")
    page.click("#stage-cancel")
    page.wait("document.querySelector('#stage-title').textContent === 'Cancelled'")
    job = shared.client.submit()
    got, attempt = shared.worker.claim()
    assert got == job
    shared.worker.settle(job, attempt, code="MEDIA", error="<img src=x onerror=alert(1)> & \"quotes\"")
    page.go("http://127.0.0.1:%d/?job=%s" % (shared.port, job))
    page.wait("document.querySelector('#stage-title').textContent === 'Failed'")
    assert page.text("#stage-text") == "<img src=x onerror=alert(1)> & \"quotes\""
    assert page.run("return document.querySelectorAll('#stage img[src=x], #jobs img[src=x]').length") == 0


def test_page_outlives_outage_and_restart(page, folder, redis_server, dispatcher, api, worker):
    job = api.submit()
    page.go("http://127.0.0.1:%d/?job=%s" % (dispatcher.port, job))
    page.wait("document.querySelector('#stage-text').textContent === 'Next in line'")
    got, attempt = worker.claim()
    worker.progress(job, attempt, "denoise", 1, 4, 9.0)
    page.wait("/step 1 of 4/.test(document.querySelector('#stage-text').textContent)")
    port = dispatcher.port
    assert dispatcher.stop() == 0
    worker.progress(job, attempt, "denoise", 2, 4, 9.0)
    second = Dispatcher(folder, redis_server.path, "--port", str(port))
    page.wait("/step 2 of 4/.test(document.querySelector('#stage-text').textContent)")
    worker.settle(job, attempt, {})
    page.wait("document.querySelector('#stage-title').textContent === 'Done'")
    assert second.stop() == 0


def test_key_is_asked_for(page, folder, redis_server, inputs):
    d = Dispatcher(folder, redis_server.path, env={"TROUPE_API_KEY": "other,se cret/ü+%"})
    page.go("http://127.0.0.1:%d/" % d.port)
    page.wait("document.querySelector('#key-dialog').open")
    page.keys("#key", "wrong")
    page.click("#key-form button")
    page.wait("document.querySelector('#key-dialog').open && document.querySelector('#key').value === ''")
    page.keys("#key", "se cret/ü+%")
    page.click("#key-form button")
    page.wait("document.querySelectorAll('#fields .field').length > 5")
    assert not page.run("return document.querySelector('#key-dialog').open")
    fill(page, inputs)
    page.click("#submit")
    page.wait("document.querySelector('#stage-text').textContent === 'Next in line'")
    page.run("document.cookie = 'troupe_key=; Path=/; Max-Age=0'")
    assert d.stop() == 0


def test_keyboard_reaches_everything(page, shared):
    page.go("http://127.0.0.1:%d/" % shared.port)
    page.wait("document.querySelectorAll('#fields .field').length > 5")
    reached = []
    for _ in range(12):
        page.press("\ue004")
        reached.append(page.run("const n = document.activeElement; return n.name || n.id || n.tagName"))
    for name in ["A", "image", "audio", "prompt", "SUMMARY", "submit"]:
        assert name in reached, reached


@pytest.mark.parametrize("dark", [False, True])
def test_phone_width_and_contrast(shared, dark):
    b = browser.Browser(360, 740, dark)
    try:
        for path in ["/", "/docs"]:
            b.go("http://127.0.0.1:%d%s" % (shared.port, path))
            assert b.run("return document.documentElement.scrollWidth <= innerWidth"), path
        b.go("http://127.0.0.1:%d/" % shared.port)
        low = b.run("""
            const lum = (c) => c.map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                                .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
            const rgb = (t) => t.match(/[\\d.]+/g).map(Number);
            const back = (n) => { for (; n; n = n.parentElement) {
                const c = rgb(getComputedStyle(n).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3); }
                return [255, 255, 255]; };
            return [...document.querySelectorAll("h1, h2, p, b, label, small, summary, button, a, span")]
                .filter((n) => n.offsetParent && n.textContent.trim())
                .map((n) => { const a = lum(rgb(getComputedStyle(n).color).slice(0, 3)), c = lum(back(n));
                              return [n.tagName + "." + n.className, (Math.max(a, c) + .05) / (Math.min(a, c) + .05)]; })
                .filter((x) => x[1] < 4.5);""")
        assert low == []
    finally:
        b.close()
