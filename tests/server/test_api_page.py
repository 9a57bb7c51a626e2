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


def contrast(b):
    """What stands out too little from its background (WCAG: 4.5)."""
    return b.run("""
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


@pytest.mark.parametrize("dark", [False, True])
def test_phone_width_and_contrast(shared, dark):
    b = browser.Browser(360, 740, dark)
    try:
        shared.worker.hello()
        shared.client("POST", "/v1/queue/pause?tenant=a-tenant-with-a-rather-long-name.example.org")
        shared.client.submit()
        shared.worker.settle(*shared.worker.claim(), code="MEDIA", error="aWordThatIsFarTooLongForAPhone" * 4)
        for path in ["/", "/docs", "/#board"]:
            b.go("about:blank")
            b.go("http://127.0.0.1:%d%s" % (shared.port, path))
            if "board" in path:
                b.wait("document.querySelectorAll('#dead li').length > 0")
            assert b.run("return document.documentElement.scrollWidth") <= 360, path # innerWidth grows with what is too wide
            assert path == "/docs" or contrast(b) == []
    finally:
        b.close()


# ---- the operator's tab ----

def opened_board(page, port):
    page.go("about:blank")
    page.console() # what other tests left
    page.go("http://127.0.0.1:%d/#board" % port)
    page.wait("document.querySelectorAll('#tiles div').length === 7")
    assert page.visible("#board") and not page.visible("#make")


def tiles(page):
    return page.run("return Object.fromEntries([...document.querySelectorAll('#tiles div')].map((d) => "
                    "[d.querySelector('dt').textContent, d.querySelector('dd').firstChild.textContent]))")


def test_board_shows_the_queue(page, dispatcher, api, worker):
    worker.hello(device="card 1")
    for priority in (9, 5, 5, 2):
        api.submit(priority=priority)
    api.submit(priority=9)
    job, attempt = worker.claim()
    worker.progress(job, attempt, "denoise", 3, 12, 75.0)
    worker.redis("DEL", "{avatar}:hist") # ten waits of 30 to 60 s
    worker.redis("HSET", "{avatar}:hist", "wait:10", 10, "wait:sum", 450000)
    opened_board(page, dispatcher.port)
    shown = tiles(page)
    assert (shown["Waiting"], shown["Running"], shown["Failed"], shown["Runs"]) == ("4", "1", "0", "–")
    assert shown["Waits"] == "45 s" and "9 of 10 under 57 s" in page.text("#tiles")
    assert page.text("#workers li b") == "test-1"
    assert page.text("#workers li span") == "denoise · step 3 of 12 · about 1 min 15 s left — card 1"
    assert page.run("return document.querySelector('#workers .bar').getAttribute('aria-valuenow')") == "25"
    levels = page.run("return [...document.querySelectorAll('#levels li')].map((n) => [n.querySelector('b').textContent, "
                      "n.querySelector('.bar i').style.width, n.querySelector('span').textContent.split(',')[0]])")
    assert levels == [["9", "50%", "1 job"], ["5", "100%", "2 jobs"], ["2", "50%", "1 job"]]
    assert page.visible("#dead-empty") and not page.visible("#redrive-all") and not page.visible("#tenants-card")
    worker.settle(job, attempt, {})
    page.wait("/^Idle/.test(document.querySelector('#workers li span').textContent)")
    assert tiles(page)["Runs"].endswith(" s")
    page.click("#tab-make")
    page.wait("document.querySelector('#board').hidden && !document.querySelector('#make').hidden")
    assert page.run("return document.querySelector('#tab-make').getAttribute('aria-current')") == "page"
    assert [e for e in page.console() if "/thumbnail" not in e["message"]] == [] # the played result has none


def test_board_pauses_and_resumes(page, dispatcher, api, worker):
    worker.hello()
    worker.call("tenant", name="acme", weight=2.0, max_running=3, max_queued=0, gpu_s_day=7200.0, rate=0.0, burst=0)
    api("POST", "/v1/queue/pause?generator=avatar")
    opened_board(page, dispatcher.port)
    page.wait("document.querySelector('#chips li span').textContent === 'Generator avatar is paused'")
    page.click("#pause-all")
    page.wait("document.querySelectorAll('#chips li').length === 2")
    assert page.text("#pause-all") == "Resume" and api("GET", "/v1/queue").json["paused"]
    page.click("#chips li button") # sorted: the generator first
    page.wait("document.querySelectorAll('#chips li').length === 1")
    assert api("GET", "/v1/queue").json["paused_list"] == ["queue"]
    page.click("#pause-all")
    page.wait("document.querySelectorAll('#chips li').length === 0")
    page.wait("document.querySelector('#tenants li b').textContent === 'acme'")
    assert "weight 2 · at most 3 running · at most 2 h 0 min a day" in page.text("#tenants li span")
    page.click("#tenants li button")
    page.wait("document.querySelector('#tenants li button').textContent === 'Resume'")
    assert page.text("#chips li span") == "Tenant acme is paused"
    page.click("#workers li button")
    page.wait("document.querySelector('#workers li button').textContent === 'Work on'")
    assert worker.offer()["quiet"] is True
    page.click("#workers li button")
    page.wait("document.querySelector('#workers li button').textContent === 'Quiet'")
    assert page.run("return document.activeElement.textContent") == "Quiet" # redrawn, and the focus stays
    assert page.console() == []


def test_board_redrives(page, dispatcher, api, worker):
    worker.hello()
    for why in ["<img src=x onerror=alert(1)>", "second", "third"]:
        job = api.submit()
        worker.settle(*worker.claim(), code="MEDIA", error=why)
    opened_board(page, dispatcher.port)
    page.wait("document.querySelectorAll('#dead li').length === 3")
    assert page.run("return [...document.querySelectorAll('#dead b')].map((n) => n.textContent)") == [
        "third", "second", "<img src=x onerror=alert(1)>"]
    assert page.run("return document.querySelectorAll('#board img').length") == 0
    assert page.run("return document.querySelector('#dead a').getAttribute('href')") == "/?job=" + job
    page.click("#dead li button")
    page.wait("document.querySelectorAll('#dead li').length === 2")
    assert api("GET", "/v1/jobs/" + job).json["state"] == "queued"
    page.click("#redrive-all")
    page.wait("document.querySelector('#ask-dialog').open")
    assert page.text("#ask-title") == "Retry 2 failed jobs?"
    page.press("\ue00c") # Escape
    page.wait("!document.querySelector('#ask-dialog').open")
    assert api("GET", "/v1/queue").json["dead"] == 2
    page.click("#redrive-all")
    page.click("#ask-dialog button[value=yes]")
    page.wait("document.querySelectorAll('#dead li').length === 0")
    assert api("GET", "/v1/queue").json["dead"] == 0 and page.visible("#dead-empty")
    assert page.console() == []


def test_board_says_what_is_wrong(page, folder, redis_server):
    d = Dispatcher(folder, redis_server.path)
    opened_board(page, d.port)
    port = d.port
    assert d.stop() == 0
    page.wait("document.querySelector('#board-problem').textContent.includes('cannot be reached')")
    d = Dispatcher(folder, redis_server.path, "--port", str(port))
    page.wait("document.querySelector('#board-problem').hidden")
    assert d.stop() == 0


def test_when_a_job_starts(page, dispatcher, api, worker):
    first, second = api.submit(), api.submit()
    page.go("http://127.0.0.1:%d/?job=%s" % (dispatcher.port, second))
    page.wait("document.querySelectorAll('#jobs li').length === 2")
    assert "starts" not in page.text("#jobs") # nobody could run them
    worker.hello()
    page.wait("/^Waiting · starts in about \\d+ s · /.test(document.querySelector('#jobs li .open-job span').textContent)")
    page.wait("/^1 job is before this one · starts in about \\d+ s$/.test(document.querySelector('#stage-text').textContent)")
