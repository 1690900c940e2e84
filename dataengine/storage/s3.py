"""Results on S3: created by a PUT that fails when the name exists, read back and compared when an answer was lost.

Endpoint, region and credentials come from the usual AWS environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, a profile, an
instance role) and stand in no document, log or error. boto3 tries a failed request again by itself; what it does not
see, a body that ends early, is read again here. Objects are written with one PUT, so no half of an upload can stay.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from dataengine.errors import StorageError
from dataengine.storage.local import sha256_file

PIECE = 16 << 20
ATTEMPTS = 8
UPLOAD_SECONDS = 24 * 3600.0
"""An upload in parts that was begun longer ago is of a process that is gone."""
_CONFIG = Config(
    retries={"max_attempts": 6, "mode": "standard"}, connect_timeout=10, read_timeout=60, max_pool_connections=32
)
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_STANDS = frozenset({"412", "PreconditionFailed"})
_AGAIN = frozenset({"409", "ConditionalRequestConflict", "OperationAborted"})
_BROKEN = (IncompleteReadError, ResponseStreamingError, HTTPClientError, NoConnectionError)


@cache
def _client(_process: int) -> Any:
    """One client a process: connections are not shared over a fork."""
    return boto3.session.Session().client("s3", config=_CONFIG)


def client() -> Any:
    """The S3 client of this process."""
    try:
        return _client(os.getpid())
    except (BotoCoreError, ValueError) as error:
        raise _told(error, "S3") from None


class S3Backend:
    """A prefix of a bucket, `s3://BUCKET/PREFIX`.

    `writers` "single" is for a store that ignores conditions: a name is looked up before it is written, which is safe
    for one writer at a time only.
    """

    def __init__(self, url: str, writers: Literal["conditional", "single"] = "conditional") -> None:
        self.bucket, self.prefix = split_url(url)
        self.writers = writers
        self._staging: Path | None = None

    def at(self, name: str) -> str:
        """Where a name lies, for people."""
        return f"s3://{self.bucket}/{self._key(name)}"

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def staging(self) -> Path:
        """A folder of this machine for files that are being written."""
        if self._staging is None:
            self._staging = Path(tempfile.mkdtemp(prefix="dataengine-staging-"))
            weakref.finalize(self, shutil.rmtree, self._staging, ignore_errors=True)
        return self._staging

    def size(self, name: str) -> int | None:
        """Bytes of an object; None where there is none."""
        head = self._head(name)
        return None if head is None else int(head["ContentLength"])

    def age(self, name: str) -> float | None:
        """Seconds since an object was written, by the server's own clock; None where there is none."""
        head = self._head(name)
        if head is None:
            return None
        sent = head["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(sent).timestamp() if sent else time.time()
        return max(0.0, now - float(head["LastModified"].timestamp()))

    def renew(self, name: str) -> None:
        """Write an object again, so that its age is 0; one that is gone stays gone."""
        if self._head(name) is not None:
            data = self.read(name)
            self._call(name, lambda: client().put_object(Bucket=self.bucket, Key=self._key(name), Body=data))

    def _head(self, name: str) -> Any:
        try:
            return client().head_object(Bucket=self.bucket, Key=self._key(name))
        except ClientError as error:
            if _code(error) in _GONE:
                return None
            raise _told(error, self.at(name)) from None
        except BotoCoreError as error:
            raise _told(error, self.at(name)) from None

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """An object's bytes, or `length` of them from `start`; a missing one is a `StorageError`."""
        if length == 0:
            return b""
        asked = {"Range": f"bytes={start}-{'' if length is None else start + length - 1}"} if start or length else {}

        def get() -> bytes:
            found = client().get_object(Bucket=self.bucket, Key=self._key(name), **asked)
            data = bytes(found["Body"].read())
            if len(data) != int(found["ContentLength"]):
                raise IncompleteReadError(actual_bytes=len(data), expected_bytes=int(found["ContentLength"]))
            return data

        data: bytes = self._call(name, get)
        return data

    def _call(self, name: str, action: Callable[[], Any]) -> Any:
        """Run a request, again where its body or its connection broke; what fails for good is a `StorageError`."""
        for attempt in range(ATTEMPTS):
            try:
                return action()
            except _BROKEN as error:
                if attempt == ATTEMPTS - 1:
                    raise _told(error, self.at(name)) from None
                _pause(attempt)
            except (ClientError, BotoCoreError) as error:
                raise _told(error, self.at(name)) from None
        raise AssertionError  # the loop returns or raises

    def names(self, prefix: str) -> list[str]:
        """Objects below a folder (`""`: all), at any depth, sorted."""
        below = self._key(prefix.rstrip("/")).rstrip("/")
        below = f"{below}/" if below else ""
        cut = len(self.prefix) + 1 if self.prefix else 0

        def listed() -> list[str]:
            pages = client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below)
            return sorted(entry["Key"][cut:] for page in pages for entry in page.get("Contents", ()))

        found: list[str] = self._call(prefix, listed)
        return found

    def states(self) -> dict[str, tuple[int, str]]:
        """Size and entity tag of every object, by name."""
        below = f"{self.prefix}/" if self.prefix else ""

        def listed() -> dict[str, tuple[int, str]]:
            pages = client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below)
            entries = (entry for page in pages for entry in page.get("Contents", ()))
            return {e["Key"][len(below) :]: (int(e["Size"]), e["ETag"]) for e in entries if not e["Key"].endswith("/")}

        found: dict[str, tuple[int, str]] = self._call("", listed)
        return found

    def state(self, name: str) -> tuple[int, str] | None:
        """Size and entity tag of one object; None where there is none."""
        head = self._head(name)
        return None if head is None else (int(head["ContentLength"]), str(head["ETag"]))

    def create(self, name: str, staged: Path) -> bool:
        """PUT a file under a name that must be free. False when something stands there already.

        A name that turns out taken only when a request was repeated may be our own: then the bytes decide.
        """
        if self.writers == "single" and self._head(name) is not None:
            return False
        condition = {} if self.writers == "single" else {"IfNoneMatch": "*"}
        repeated = False
        for attempt in range(ATTEMPTS):
            try:
                with staged.open("rb") as body:
                    client().put_object(Bucket=self.bucket, Key=self._key(name), Body=body, **condition)
            except ClientError as error:
                if _code(error) in _STANDS:
                    repeated |= error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    return repeated and self._is(name, staged)
                if _code(error) not in _AGAIN or attempt == ATTEMPTS - 1:
                    raise _told(error, self.at(name)) from None
            except BotoCoreError as error:
                if not isinstance(error, _BROKEN) or attempt == ATTEMPTS - 1:
                    raise _told(error, self.at(name)) from None
            else:
                return True
            repeated = True
            _pause(attempt)
        raise AssertionError  # the loop returns or raises

    def _is(self, name: str, staged: Path) -> bool:
        if self.size(name) != staged.stat().st_size:
            return False
        with self.local(name) as path:
            return sha256_file(path) == sha256_file(staged)

    def remove(self, name: str) -> None:
        """Remove an object; one that is gone is no error."""
        self._call(name, lambda: client().delete_object(Bucket=self.bucket, Key=self._key(name)))

    def uploads(self) -> dict[tuple[str, str], float]:
        """Uploads in parts below the prefix that were begun and neither finished nor given up: seconds since they were
        begun, by (name, upload id). They hold parts that cost space and that no listing shows."""
        below = f"{self.prefix}/" if self.prefix else ""

        def listed() -> dict[tuple[str, str], float]:
            found: dict[tuple[str, str], float] = {}
            pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=below)
            for page in pages:
                sent = page["ResponseMetadata"]["HTTPHeaders"].get("date")
                now = parsedate_to_datetime(sent).timestamp() if sent else time.time()
                for entry in page.get("Uploads", ()):
                    if entry["Key"].startswith(below):
                        age = max(0.0, now - float(entry["Initiated"].timestamp()))
                        found[entry["Key"][len(below) :], entry["UploadId"]] = age
            return found

        uploads: dict[tuple[str, str], float] = self._call("", listed)
        return uploads

    def abort_uploads(self, older_than: float = UPLOAD_SECONDS) -> int:
        """Give up uploads in parts that a process which is gone left below the prefix; returns how many.

        Only those begun more than `older_than` seconds ago: a younger one may be at work.
        """
        stale = [place for place, age in self.uploads().items() if age >= older_than]
        for name, upload in stale:
            asked = {"Bucket": self.bucket, "Key": self._key(name), "UploadId": upload}
            try:
                self._call(name, partial(client().abort_multipart_upload, **asked))
            except StorageError as error:
                if "NoSuchUpload" not in error.what:  # finished or given up meanwhile
                    raise
        return len(stale)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A copy of the object, read in pieces, for as long as the context lasts."""
        size = self.size(name)
        if size is None:
            raise StorageError("cannot read: there is no such object", where=self.at(name), fix="run verify")
        with tempfile.TemporaryDirectory(prefix="dataengine-") as folder:
            path = Path(folder) / "object"
            with path.open("wb") as file:
                for start in range(0, size, PIECE):
                    file.write(self.read(name, start, min(PIECE, size - start)))
            yield path

    def conditional(self) -> bool:
        """Whether the store refuses a second write under one name, tried with an object of its own."""
        name = f"staging/probe-{os.urandom(8).hex()}"
        probe = S3Backend(f"s3://{self.bucket}/{self.prefix}")
        with tempfile.TemporaryDirectory() as folder:
            one, two = Path(folder) / "1", Path(folder) / "2"
            one.write_bytes(b"1")
            two.write_bytes(b"2")
            try:
                probe.create(name, one)
                return not probe.create(name, two) and probe.read(name) == b"1"
            except StorageError as error:
                if "NotImplemented" in error.what:
                    return False
                raise
            finally:
                probe.remove(name)


def split_url(url: str) -> tuple[str, str]:
    """`s3://BUCKET/PREFIX` into bucket and prefix, the latter without slashes at its ends."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise StorageError(f"{url!r} is no address of S3", fix="write s3://BUCKET/PREFIX")
    return bucket, prefix.strip("/")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _pause(attempt: int) -> None:
    time.sleep(min(5.0, 0.1 * 2**attempt) * (0.5 + random.random() / 2))  # noqa: S311 - no secret


def _told(error: Exception, where: str) -> StorageError:
    """The failure in words; the error's own text may hold the endpoint and is left out."""
    if isinstance(error, ClientError):
        code = _code(error) or "unknown"
        fix = {
            "NoSuchBucket": "make the bucket, or correct its name",
            "AccessDenied": "check that these credentials may read and write there",
            "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            "SignatureDoesNotMatch": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        }.get(code, "run the same command again: finished work is kept")
        if code in _GONE:
            return StorageError("cannot read: there is no such object", where=where, fix="run verify")
        return StorageError(f"S3 answered {code}", where=where, fix=fix)
    if isinstance(error, NoCredentialsError):
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return StorageError("there are no S3 credentials", where=where, fix=fix)
    return StorageError(
        f"S3 cannot be reached ({type(error).__name__})",
        where=where,
        fix="check AWS_ENDPOINT_URL and the network, then run the same command again: finished work is kept",
    )
