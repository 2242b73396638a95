"""An S3 server on loopback (moto's), behind a proxy that is busy, loses answers, and denies what it did.

``python tests/faults/s3_server.py`` prints its address as its first line and ends when its input does.
Buckets are made by ``PUT /NAME``. ``GET /-/faults?share=0.05&seed=1`` lets one request in twenty fail from
then on, and ``GET /-/counts`` says how many came, and what became of those that failed. The bucket
``forbidden`` may not be used by anybody.
"""

from __future__ import annotations

import json
import logging
import random
import socketserver
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

#: What may become of a request.
KINDS = ("never came", "busy", "answer lost", "done and denied", "answer cut short")
#: What obstore needs to come here, and must not ask others for.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE000000000",
    "AWS_SECRET_ACCESS_KEY": "a secret of no worth, of forty characters",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
#: Moto wants to see a signature, and does not check it.
_SIGNED = "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE000000000/20260101/us-east-1/s3/aws4_request, Signature=0"
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>made by a test</Message></Error>"


class Faults:
    """Which requests fail, and how many did."""

    def __init__(self) -> None:
        self.share, self.counts, self._lock = 0.0, Counter[str](), threading.Lock()
        self._random = random.Random(0)

    def set(self, share: float, seed: int) -> None:
        with self._lock:
            self.share, self._random = share, random.Random(seed)
            self.counts.clear()

    def next(self) -> str | None:
        with self._lock:
            self.counts["requests"] += 1
            if self._random.random() >= self.share:
                return None
            kind = self._random.choice(KINDS)
            self.counts[kind] += 1
            return kind


def serve(faults: Faults) -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").disabled = True
    behind = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    behind.start()
    place = behind.get_host_and_port()
    conditional = threading.Lock()  # moto looks first and puts then; a store does both at once

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY

        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            if path.startswith("/-/"):
                self.tell(path)
                return
            if path.split("/")[1] == "forbidden":
                self.answer(403, _ERROR.format("AccessDenied").encode())
                return
            kind = None if "/" not in path.strip("/") and self.command == "PUT" else faults.next()
            if kind == "never came":
                self.hang_up()
            elif kind == "busy":
                self.answer(503, _ERROR.format("SlowDown").encode())
            else:
                self.forward(body, kind)

        def forward(self, body: bytes, kind: str | None) -> None:
            drop = ("host", "connection", "transfer-encoding")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in drop}
            is_conditional = any(name.lower().startswith("if-") for name in headers)
            with conditional if is_conditional else threading.Lock():
                connection = HTTPConnection(*place, timeout=60)
                connection.request(self.command, self.path, body, headers)
                found = connection.getresponse()
                data, status = found.read(), found.status
                connection.close()
            if kind == "answer lost":
                self.hang_up()
            elif kind == "done and denied":
                self.answer(500, _ERROR.format("InternalError").encode())
            else:
                keep = [one for one in found.getheaders() if one[0].lower() not in (*drop, "content-length")]
                length = found.getheader("Content-Length") if self.command == "HEAD" else None
                self.answer(status, data, keep, length, cut_short=kind == "answer cut short")

        def answer(
            self,
            status: int,
            data: bytes,
            headers: Any = (),
            length: str | None = None,
            *,
            cut_short: bool = False,
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut_short else data)
            if cut_short:
                self.hang_up()

        def hang_up(self) -> None:
            self.close_connection = True

        def tell(self, path: str) -> None:
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            if path == "/-/faults":
                faults.set(float(query["share"]), int(query.get("seed", 0)))
            self.answer(200, json.dumps(faults.counts).encode())

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815 - http.server's names

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            """A client that was killed hangs up."""

        def server_bind(self) -> None:
            socketserver.TCPServer.server_bind(self)  # without asking for the name of this host
            self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    with Server(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        sys.stdin.read()
    behind.stop()


class S3Server:
    """The server, in a process of its own; a context manager."""

    def __enter__(self) -> S3Server:
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the S3 server did not start"
        self.environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.url}
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, which ends it
        self._process.wait(20)

    def ask(self, path: str, method: str = "GET") -> bytes:
        """Make one plain request."""
        request = urllib.request.Request(self.url + path, method=method, headers={"Authorization": _SIGNED})
        with urllib.request.urlopen(request, timeout=60) as found:
            return bytes(found.read())

    def make_bucket(self, name: str) -> None:
        self.ask(f"/{name}", "PUT")

    def fail(self, share: float, seed: int = 0) -> dict[str, int]:
        """Let this share of the requests fail from now on; return how many came, and failed, before."""
        before: dict[str, int] = json.loads(self.ask("/-/counts"))
        self.ask(f"/-/faults?share={share}&seed={seed}")
        return before

    def tree(self, bucket: str, prefix: str) -> dict[str, bytes]:
        """Return every object below a prefix, without obstore: relative name -> bytes."""
        found, more = {}, ""
        while True:
            query = urllib.parse.urlencode({"list-type": 2, "prefix": prefix, "start-after": more})
            page = ElementTree.fromstring(self.ask(f"/{bucket}?{query}"))
            space = page.tag.partition("}")[0] + "}"
            names = [str(one.text) for one in page.iter(f"{space}Key")]
            for name in names:
                found[name[len(prefix) :].lstrip("/")] = self.ask(f"/{bucket}/{urllib.parse.quote(name)}")
            if page.findtext(f"{space}IsTruncated") != "true":
                return found
            more = names[-1]


if __name__ == "__main__":
    serve(Faults())
