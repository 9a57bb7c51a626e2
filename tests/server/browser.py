"""Chromium through its driver, spoken to over plain HTTP (W3C WebDriver): as much of it as the page's tests need."""
import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def available():
    return bool(shutil.which("chromedriver") and shutil.which("chromium"))


class Browser:
    def __init__(self, width=1280, height=900, dark=False):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       text=True)
        self.base = None
        for line in self.driver.stdout:
            found = re.search(r"started successfully on port (\d+)", line)
            if found:
                self.base = "http://127.0.0.1:" + found[1]
                break
        options = {"binary": shutil.which("chromium"), "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--autoplay-policy=no-user-gesture-required"]}
        always = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self.post("/session", capabilities={"alwaysMatch": always})["sessionId"]
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.cdp("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"}])

    def post(self, path, method="POST", **body):
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def _do(self, path, method="POST", **body):
        return self.post("/session/" + self.session + path, method, **body)

    def cdp(self, command, **params):
        return self._do("/goog/cdp/execute", cmd=command, params=params)

    def go(self, url):
        self._do("/url", url=url)

    def run(self, script, *args):
        return self._do("/execute/sync", script=script, args=list(args))

    def find(self, css):
        return self._do("/element", using="css selector", value=css)[ELEMENT]

    def text(self, css):
        return self.run("return document.querySelector(arguments[0]).textContent", css)

    def visible(self, css):
        return self.run("const n = document.querySelector(arguments[0]); return !!n && n.offsetParent !== null", css)

    def click(self, css):
        self._do("/element/%s/click" % self.find(css))

    def keys(self, css, text):
        self._do("/element/%s/value" % self.find(css), text=text)

    def press(self, *keys):
        actions = [a for k in keys for a in ({"type": "keyDown", "value": k}, {"type": "keyUp", "value": k})]
        self._do("/actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def wait(self, script, seconds=10):
        deadline = time.time() + seconds
        while time.time() < deadline:
            value = self.run("return " + script)
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError("never true in the page: %s\n%s" % (script, self.run("return document.body.innerText")))

    def console(self):
        return [e for e in self._do("/se/log", type="browser") if e["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path, full=True):
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(shot))

    def close(self):
        try:
            self._do("", "DELETE")
        finally:
            self.driver.terminate()
            self.driver.wait(10)
            self.driver.stdout.close()
