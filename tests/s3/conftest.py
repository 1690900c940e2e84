"""S3 servers for tests: a real one, and one that ignores conditions. Started by a fixture, ended by their ids."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dataengine.lake import tables
from dataengine.storage import s3

KEY, SECRET = "AKTESTTESTTEST", "SECRETSECRETSECRET"
BUCKET = "bucket"


def free_ports(count: int) -> list[int]:
    """Free ports, each with the one 10,000 above it free as well (SeaweedFS takes both)."""
    found: list[int] = []
    held = []
    while len(found) < count:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        held.append(sock)
        port = sock.getsockname()[1]
        if port < 20_000 or port > 50_000:
            continue
        try:
            with socket.socket() as above:
                above.bind(("127.0.0.1", port + 10_000))
        except OSError:
            continue
        found.append(port)
    for sock in held:
        sock.close()
    return found


def program(name: str) -> str:
    """A program that a package of the test group installs."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else str(shutil.which(name))


def environment(port: int) -> dict[str, str]:
    """The AWS environment of a server."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[int]:
    """A server process, ready when its bucket is there."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _ready(port, process, log)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, connect_timeout=1, read_timeout=5),
    )
    until = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
            client.delete_object(Bucket=BUCKET, Key="ready")
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"].startswith("BucketAlready"):
                return
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.2)
        else:
            return


@contextmanager
def seaweed(folder: Path) -> Iterator[int]:
    """SeaweedFS: conditional writes, multipart, signatures checked."""
    s3, master, volume, filer = free_ports(4)
    identity = {"name": "a", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [program("weed"), "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3"]
    command += [
        f"-s3.port={s3}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={folder / 's3.json'}",
        "-volume.max=0",
    ]
    command += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
    with running(command, s3, folder / "log") as port:
        yield port


@contextmanager
def rclone(folder: Path) -> Iterator[int]:
    """rclone's S3 server: it ignores conditions and overwrites."""
    (port,) = free_ports(1)
    (folder / "data").mkdir()
    command = [program("rclone"), "serve", "s3", "--config", os.devnull, "--auth-key", f"{KEY},{SECRET}"]
    with running([*command, "--addr", f"127.0.0.1:{port}", str(folder / "data")], port, folder / "log") as found:
        yield found


@pytest.fixture(scope="session")
def seaweed_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as port:
        yield port


@pytest.fixture(scope="session")
def rclone_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with rclone(tmp_path_factory.mktemp("rclone")) as port:
        yield port


def _use(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    s3._client.cache_clear()


@pytest.fixture
def bucket(seaweed_port: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix of its own on the real server, named in the environment as users do."""
    _use(monkeypatch, seaweed_port)
    yield f"s3://{BUCKET}/{os.urandom(6).hex()}"
    s3._client.cache_clear()


@pytest.fixture
def careless_bucket(rclone_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same on a server that ignores conditions."""
    _use(monkeypatch, rclone_port)
    yield f"s3://{BUCKET}/{os.urandom(6).hex()}"
    s3._client.cache_clear()


class FaultProxy:
    """Passes HTTP requests on to a server, and spoils a share of them.

    A spoiled request is answered 503 or 500 without being passed on, cut before it is passed on, passed on but its
    answer lost, its answer cut short, or delayed: each chosen by a seeded draw.
    """

    FAULTS = ("503", "500", "reset", "ack_lost", "truncated", "delay")

    def __init__(self, upstream: int, seed: int, share: float) -> None:
        self.upstream, self.share, self.counts = upstream, share, dict.fromkeys(self.FAULTS, 0)
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _fault(self, request: BaseHTTPRequestHandler) -> str:
        with self._lock:
            if self._draw.random() >= self.share:
                return ""
            fault = self._draw.choice(self.FAULTS)
            self.counts[fault] += 1
            return fault

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        fault = self._fault(request)
        if request.headers.get("Expect", "").lower() == "100-continue":
            request.headers.replace_header("Expect", "")
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if fault.isdigit():
            request.send_response(int(fault))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if fault == "reset":
            request.close_connection = True
            return
        if fault == "delay":
            time.sleep(0.3)
        status, headers, data = self._passed_on(request, body)
        if fault == "ack_lost":
            request.close_connection = True
            return
        request.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                request.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(data)))
        request.send_header("Content-Length", length if request.command == "HEAD" else str(len(data)))
        request.end_headers()
        if fault == "truncated" and data:
            request.wfile.write(data[: len(data) // 2])
            request.close_connection = True
            return
        request.wfile.write(data)

    def _passed_on(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection("127.0.0.1", self.upstream, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class DoomProxy(FaultProxy):
    """Fails one write for good: from the Nth on, every write to the Nth one's address, however often it is repeated."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream, 0, 0.0)
        self.writes, self.hits = 0, 0
        self._nth, self._how, self._doomed = 0, "", ""

    def doom(self, nth: int, how: str) -> None:
        """Let the `nth` write from now on fail: by a status such as "507", or "reset". 0: none."""
        self.writes, self.hits, self._nth, self._how, self._doomed = 0, 0, nth, how, ""

    def _fault(self, request: BaseHTTPRequestHandler) -> str:
        if request.command not in ("PUT", "POST"):
            return ""
        with self._lock:
            self.writes += 1
            path = request.path.partition("?")[0]
            if self.writes == self._nth:
                self._doomed = path
            doomed = path == self._doomed
            self.hits += doomed
            return self._how if doomed else ""


@pytest.fixture
def doomed(seaweed_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[DoomProxy]:
    """A proxy that can fail a write for good, named in the environment; clients give up soon."""
    impatient = s3.Config(retries={"max_attempts": 1}, connect_timeout=5)
    monkeypatch.setattr(s3, "_CONFIG", s3._CONFIG.merge(impatient))
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    plain = tables.options
    few = {"client_max_retries": "1", "client_retry_timeout": "3"}
    monkeypatch.setattr(tables, "options", lambda place: (plain(place) or {}) | few if plain(place) else None)
    with DoomProxy(seaweed_port) as proxy:
        _use(monkeypatch, proxy.port)
        yield proxy
    s3._client.cache_clear()


@pytest.fixture
def faulty(seaweed_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, float], FaultProxy]]:
    """Make a proxy that spoils a share of the requests and name it in the environment."""
    made: list[FaultProxy] = []

    def make(seed: int, share: float) -> FaultProxy:
        proxy = FaultProxy(seaweed_port, seed, share).__enter__()
        made.append(proxy)
        _use(monkeypatch, proxy.port)
        return proxy

    yield make
    for proxy in made:
        proxy.__exit__()
    s3._client.cache_clear()
