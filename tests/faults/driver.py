"""A warm process that runs jobs in forks of itself, and lets them or their workers kill themselves at chosen moments.

One JSON document a line on standard input: `{"start": JOB}` forks and answers `{"pid": P}`; `{"wait": P}` answers
`{"status": S}`. A job names a function of `dataengine.api` with its arguments, an environment, and a folder of bombs.
A bomb is a file `ROLE.PHASE.NTH.MOMENT`: the process of that role (driver, worker) that enters the phase for the NTH
time takes the file away and dies: before it, after it, or so many microseconds into it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

from dataengine import api, errors, ingest, lake, reading  # noqa: E402 - warnings of a fork are no matter here
from dataengine.lake import tables  # noqa: E402
from dataengine.mixture import surveying  # noqa: E402
from dataengine.storage import StagedFile, s3  # noqa: E402

PUBLISHED = {"tasks": "task_record", "manifests": "documents", "refs": "ref", "runs": "run_facts"}
WRITTEN = {"shard": "shard_blobs", "index": "index"}
BOMBS = "FAULT_BOMBS"


class Bombs:
    """What this process counts, and where it dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.role = "driver" if __name__ == "__main__" else "worker"
        self.seen: Counter[str] = Counter()
        self.at = os.open(folder / f"at.{self.role}.{os.getpid()}", os.O_CREAT | os.O_WRONLY)
        self.set: dict[tuple[str, int], tuple[Path, str]] = {}
        for path in folder.glob(f"{self.role}.*.*.*"):
            _, phase, nth, moment = path.name.split(".")
            self.set[phase, int(nth)] = path, moment

    def around(self, phase: str, action: Callable[[], Any]) -> Any:
        """Run one operation of a phase, or die on the way."""
        self.seen[phase] += 1
        os.pwrite(self.at, f"{phase:<20}".encode(), 0)
        path, moment = self.set.get((phase, self.seen[phase]), (None, ""))
        if path is not None and not _taken(path):
            moment = ""
        if moment == "before":
            self.die(phase)
        if moment.isdigit():
            threading.Thread(target=self._later, args=(int(moment) / 1e6,), daemon=True).start()
        result = action()
        if moment == "after":
            self.die(phase)
        return result

    def _later(self, seconds: float) -> None:
        time.sleep(seconds)
        self.die(os.pread(os.open(self.folder / f"at.{self.role}.{os.getpid()}", os.O_RDONLY), 20, 0).decode().strip())

    def die(self, phase: str) -> None:
        """Leave the phase's name and end as `kill -9` ends a process."""
        log = os.open(self.folder / "deaths", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(log, f"{self.role} {phase}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def _taken(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def arm(folder: Path) -> Bombs:
    """Count what the phases do, in small batches, so that a small source has many of them."""
    bombs = Bombs(folder)
    read, append, merge = reading._read, lake.Lake._append_media, lake.Lake._merge
    episode, publish, write = lake.LakeReader.episode, StagedFile.publish, StagedFile.write

    def publishing(self: StagedFile, name: str) -> bool:
        kind = name.partition("/")[0]
        if kind == "blobs":
            kind = "index" if name.endswith(".idx") else "shard_blobs"
        phase = PUBLISHED.get(kind, kind)
        return bool(bombs.around(phase, lambda: publish(self, name)))

    def writing(self: StagedFile, data: bytes) -> None:
        phase = WRITTEN.get(self._path.name.partition(".")[0])
        bombs.around(phase, lambda: write(self, data)) if phase else write(self, data)

    def taking(self: Any, uid: str, *, media: bool = True) -> Any:
        phase = "shard_blobs" if media else "survey"
        return bombs.around(phase, lambda: episode(self, uid, media=media))

    reading._read = lambda *args: bombs.around("reading", lambda: read(*args))
    lake.Lake._append_media = lambda self, rows: bombs.around("media_appended", lambda: append(self, rows))
    lake.Lake._merge = lambda self, table: bombs.around("episodes_merged", lambda: merge(self, table))
    lake.LakeReader.episode, StagedFile.publish, StagedFile.write = taking, publishing, writing
    ingest.CHUNK_REFS, ingest.BATCH_EPISODES, surveying.SURVEY_EPISODES = 2, 2, 2
    return bombs


def job(spec: dict[str, Any]) -> None:
    """Run one job in this forked process; its outcome goes to a file."""
    os.setsid()
    folder = Path(spec["folder"])
    quiet = os.open(folder / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.environ.update(spec.get("env", {}))
    bombs = None
    if spec.get("bombs"):
        os.environ[BOMBS] = str(folder)
        bombs = arm(folder)
    if spec.get("impatient"):
        s3._CONFIG = s3._CONFIG.merge(s3.Config(retries={"max_attempts": 1}))
        s3.ATTEMPTS = 2
    if spec.get("refuse"):
        refuse_at(**spec["refuse"])
    outcome: dict[str, Any] = {"error": None}
    try:
        given = [value if value.endswith(".yaml") or "/" not in value else Path(value) for value in spec["args"]]
        getattr(api, spec["call"])(*given, **spec.get("options", {}))
    except BaseException as error:  # noqa: BLE001 - every end is told
        kind = type(error).__mro__
        outcome = {"error": type(error).__name__, "what": str(error), "ours": errors.DataEngineError in kind}
        outcome |= {"exit_code": getattr(error, "exit_code", None), "trace": traceback.format_exc()}
    outcome["seen"] = dict(bombs.seen) if bombs else {}
    with suppress(OSError):
        os.write(int(spec["_report"]), json.dumps(outcome).encode())
    os._exit(0)


# What seccomp needs to let system calls fail: numbers of the calls by machine, and the words of its programs.
CALLS = {
    "x86_64": {"write": (1, 18, 20), "link": (86, 265, 82, 264, 316), "mkdir": (83, 258), "create": (257,)},
    "aarch64": {"write": (64, 68, 66), "link": (37, 38, 276), "mkdir": (34,), "create": (56,)},
}
SECCOMP = {"x86_64": 317, "aarch64": 277}
LOAD, EQUAL, BITS, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
CREATES = os.O_CREAT


def refuse_at(call: str, nth: int, code: int, report: int) -> None:
    """From the lake's nth write on, every system call of a kind fails in every thread of this process.

    Writes to standard output and error and to the descriptor `report` stay allowed.
    """
    seen = 0

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == nth:
                _refuse(call, code, (1, 2, report))
            return function(*args, **kwargs)

        return called

    tables.write = before(tables.write)
    lake.Lake._merge = before(lake.Lake._merge)


def _refuse(call: str, code: int, allowed: tuple[int, ...]) -> None:
    machine = os.uname().machine
    fail = (RETURN, 0, 0, ERRNO | code)
    program: list[tuple[int, int, int, int]] = []
    for number in CALLS[machine][call]:
        if call == "create":  # opening is refused where it would create
            program += [(LOAD, 0, 0, 0), (EQUAL, 0, 3, number), (LOAD, 0, 0, 16 + 2 * 8), (BITS, 0, 1, CREATES), fail]
        elif call == "write":
            # 8 bytes are what wakes another thread
            exempt = [(EQUAL, len(allowed) - place, 0, fd) for place, fd in enumerate(allowed)]
            wakes = [(LOAD, 0, 0, 16 + 2 * 8), (EQUAL, len(allowed) + 2, 0, 8)]
            program += [(LOAD, 0, 0, 0), (EQUAL, 0, len(allowed) + 4, number), *wakes, (LOAD, 0, 0, 16), *exempt, fail]
        else:
            program += [(LOAD, 0, 0, 0), (EQUAL, 0, 1, number), fail]
    program.append((RETURN, 0, 0, ALLOW))
    words = b"".join(c.to_bytes(2, "little") + bytes((t, f)) + k.to_bytes(4, "little") for c, t, f, k in program)
    held = ctypes.create_string_buffer(words)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    wanted = Program(len(program), ctypes.addressof(held))
    if libc.syscall(SECCOMP[machine], 1, 1, ctypes.byref(wanted)) != 0:
        raise RuntimeError(f"seccomp: {os.strerror(ctypes.get_errno())}")


def serve() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = {"status": os.waitpid(asked["wait"], 0)[1]}
        else:
            spec = asked["start"]
            report = os.open(Path(spec["folder"]) / f"outcome.{spec['name']}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            spec["_report"] = report
            if "refuse" in spec:
                spec["refuse"]["report"] = report
            pid = os.fork()
            if pid == 0:
                job(spec)
            os.close(report)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
elif BOMBS in os.environ:  # a worker of a job's pool
    arm(Path(os.environ[BOMBS]))
