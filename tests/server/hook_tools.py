"""A receiver of webhooks, and the check of their signatures by the letter of Standard Webhooks 1.0, on Python's own hmac."""
import base64
import hashlib
import hmac
import http.server
import json
import threading
import time

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(100, 140))).decode()


def verify(secret, hook, tolerance=300):
    """Raises unless one of the signatures is the secret's."""
    assert secret.startswith("whsec_")
    stamp = hook.headers["webhook-timestamp"]
    assert abs(time.time() - int(stamp)) < tolerance, stamp
    signed = hook.headers["webhook-id"].encode() + b"." + stamp.encode() + b"." + hook.body
    want = base64.b64encode(hmac.new(base64.b64decode(secret[6:]), signed, hashlib.sha256).digest()).decode()
    for one in hook.headers["webhook-signature"].split(" "):
        version, _, signature = one.partition(",")
        if version == "v1" and hmac.compare_digest(signature, want):
            return
    raise AssertionError("no signature of %d is right" % len(hook.headers["webhook-signature"].split(" ")))


def signed_by(secret, hook):
    try:
        verify(secret, hook)
        return True
    except AssertionError:
        return False


class Hook:
    def __init__(self, path, headers, body):
        self.path, self.headers, self.body, self.at = path, headers, body, time.time()
        self.id = headers["webhook-id"]
        self.json = json.loads(body)
        self.type, self.data = self.json["type"], self.json["data"]


class Receiver:
    """Keeps what comes; answers with answer(hook): a status, (status, headers, body), or None: nothing, and closes."""

    def __init__(self, answer=lambda hook: 204, context=None):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                hook = Hook(self.path, self.headers, self.rfile.read(int(self.headers["Content-Length"])))
                with receiver.lock:
                    receiver.hooks.append(hook)
                    receiver.lock.notify_all()
                answer = receiver.answer(hook)
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, body = answer if isinstance(answer, tuple) else (answer, {}, b"")
                try:
                    self.send_response(status)
                    for k, v in headers.items():
                        self.send_header(k, v)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    receiver.written += len(body)
                except OSError:
                    pass

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request, address):
                pass

        self.answer, self.hooks, self.written = answer, [], 0
        self.lock = threading.Condition()
        self.server = Server(("127.0.0.1", 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def url(self, path="/hook", host="127.0.0.1", scheme="http"):
        return "%s://%s:%d%s" % (scheme, host, self.port, path)

    def of(self, job):
        with self.lock:
            return [h for h in self.hooks if h.data["id"] == job]

    def wait(self, n=1, seconds=10, job=None):
        """Until n have come (of the job)."""
        def there():
            return [h for h in self.hooks if job is None or h.data["id"] == job]
        with self.lock:
            assert self.lock.wait_for(lambda: len(there()) >= n, seconds), "%d came, %d wanted" % (len(there()), n)
            return there()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


def log_of(api, job, n=1, seconds=5, done=lambda found: True):
    """The job's delivery log, once it has n tries."""
    deadline = time.time() + seconds
    while True:
        found = api("GET", "/v1/jobs/%s/webhooks" % job).json
        if len(found["log"]) >= n and done(found):
            return found
        assert time.time() < deadline, found
        time.sleep(0.01)
