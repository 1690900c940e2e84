"""A planted secret appears nowhere: not in what is printed, not in an error, not in a byte that is written.

The secret stands in the environment, in the user's AWS files, in addresses and in a recipe's parameter. Compressed
columns (Parquet, Lance) are read as well as their bytes.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import lance
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from dataengine.cli.main import app
from dataengine.documents import load_yaml, spec_files
from dataengine.testing.endpoint import ChatEndpoint, completion, failure

CANARY = "cAnArY9f27d1c0e4b8"
VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OPENAI_API_KEY", "HF_TOKEN", "MY_SERVICE_PASSWORD")
RECIPE = """
name: canary
sources:
  - {converter: pusht_lerobot, path: "${data}"}
window: {chunk: {steps: 8}, stride: 4}
steps:
  - {name: llm_relabel, model: tiny, prompt: rewrite_instruction, texts: 1, seed: 1}
split: {valid: 0.2}
shards: {buckets: {train: 2, valid: 1}, segment: 8}
normalization: {representations: [absolute]}
"""
Said = Callable[..., str]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """Run a command with the secret planted; its output, logs and what its workers printed. All of it is searched."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id = AKID\naws_secret_access_key = {CANARY}\n"
    )
    (home / ".netrc").write_text(f"machine example.org login me password {CANARY}\n")
    monkeypatch.setenv("HOME", str(home))
    for name in VARIABLES:
        monkeypatch.setenv(name, CANARY)
    lines: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)

    def run(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        text = result.output + "".join(capfd.readouterr()) + "\n".join(lines)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            text += f"{type(result.exception)}: {result.exception!r}"
        assert CANARY not in text
        assert result.exit_code == code, text
        return text

    yield run
    logging.getLogger().removeHandler(handler)


def searched(folder: Path) -> int:
    """How many files below a folder were searched for the secret, tables by their values as well."""
    count, plain = 0, CANARY.encode()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            count += 1
            assert CANARY not in path.name
            assert plain not in path.read_bytes(), path
            if path.suffix == ".parquet":
                assert CANARY not in str(pq.read_table(path).to_pydict()), path
        elif path.suffix == ".lance":
            table = lance.dataset(str(path)).to_table()
            assert plain not in b"".join(str(column.to_pylist()).encode() for column in table.columns), path
    return count


def test_what_is_searched_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(f"{{'key': '{CANARY}'}}")
    with pytest.raises(AssertionError):
        searched(tmp_path)


def test_no_byte_holds_the_secret(tmp_path: Path, pusht_raw: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    work, raw = tmp_path / "work", tmp_path / "raw"
    work.mkdir()
    shutil.copytree(pusht_raw, raw)
    recipe, lake, out, record = work / "canary.yaml", work / "lake", work / "out", work / "pusht.yaml"
    recipe.write_text(RECIPE)
    (raw / "data/chunk-000/episode_000004.parquet").write_bytes(b"PAR1 broken PAR1")
    bound = ("--set", f"data={raw}")
    said("source", "add", raw, "--converter", "pusht_lerobot", "--out", record)
    said("source", "check", record, raw)
    said("ingest", raw, "--converter", "pusht_lerobot", "--lake", lake, "--record", record, "--workers", 2, code=3)
    with ChatEndpoint() as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        endpoint.answer = lambda received: failure(401, f"{received.headers.get('Authorization')} is no key")
        said("relabel", recipe, *bound, "--lake", lake, code=1)
        endpoint.answer = lambda received: completion(f"{received.text[-9:]}, said otherwise")
        said("relabel", recipe, *bound, "--lake", lake)
        said("build", recipe, *bound, "--lake", lake, "--out", out, "--workers", 2, code=3)
    for command in (("audit", out), ("audit", out, "--drops"), ("verify", out), ("log", out), ("urls", out)):
        said(*command)
    said("lake", "ls", "--lake", lake)
    said("source", "show", f"{lake}:pusht_lerobot")
    with contextlib.suppress(ImportError):
        from dataengine.cli import report  # noqa: F401 - where there is one

        said("report", out, "--out", work / "report.html")
    assert searched(work) > 30


def credentials() -> list[str]:
    return [
        f"s3://AKID:{CANARY}@bucket/x",
        f"https://me:{CANARY}@example.org/x",
        f"https://example.org/x?token={CANARY}",
        f"s3://bucket/x?X-Amz-Signature={CANARY}",
        f"hf://me:{CANARY}@datasets/x",
    ]


@pytest.mark.parametrize("address", credentials(), ids=range(len(credentials())))
def test_addresses_with_a_secret_are_refused_before_anything_is_read(
    tmp_path: Path, address: str, said: Said, make_pusht: Callable[..., Path]
) -> None:
    raw, lake = make_pusht(tmp_path / "raw", [0], rows=4), tmp_path / "lake"
    recipe, mine, record = (tmp_path / name for name in ("r.yaml", "mine.yaml", "record.yaml"))
    recipe.write_text(RECIPE)
    document = load_yaml(spec_files("converters")["pusht_lerobot"])
    mine.write_text(yaml.safe_dump({**document, "source": {**document["source"], "url": address}}))
    written = sorted(path.name for path in tmp_path.iterdir())
    at = ("--lake", lake, "--out", tmp_path / "out")
    refused = [
        ("ingest", address, "--converter", "pusht_lerobot", "--lake", lake),
        ("ingest", raw, "--converter", mine, "--lake", lake),
        ("ingest", address, "--converter", "pusht_lerobot", "--lake", lake, "--dry-run"),
        ("inspect", address),
        ("build", recipe, "--set", f"data={address}", *at),
        ("build", recipe, "--set", f"data={address}", *at, "--dry-run"),
        ("relabel", recipe, "--set", f"data={address}", "--lake", lake),
        ("recipe", "check", recipe, "--set", f"data={address}"),
        ("source", "add", address, "--converter", "pusht_lerobot", "--out", record),
        ("source", "add", raw, "--converter", mine, "--out", record),
        ("source", "add", raw, "--converter", "pusht_lerobot", "--out", record, "--revision", address),
        ("source", "show", mine),
        ("source", "check", spec_files("converters")["pusht_lerobot"], address),
    ]
    if address.startswith("s3:"):
        refused += [
            ("ingest", raw, "--converter", "pusht_lerobot", "--lake", address),
            ("build", recipe, "--set", f"data={raw}", "--lake", lake, "--out", address),
            *((command, address) for command in ("audit", "verify", "log", "urls", "gc", "schedule")),
            ("audit", f"{address}@v0001"),
            ("lake", "ls", "--lake", address),
            ("source", "show", f"{address}:pusht_lerobot"),
        ]
    for command in refused:
        text = said(*command, code=2)
        if command[:2] != ("source", "check"):
            assert "a credential in it" in text, command
    assert sorted(path.name for path in tmp_path.iterdir()) == written, "nothing was made"


def test_a_secret_in_a_text_that_is_wrong_is_not_shown(tmp_path: Path, said: Said) -> None:
    for text in (f"name: x\nkey: {CANARY}: [\n", f"name: x\nkey: !!python/object {CANARY}\n"):
        (tmp_path / "r.yaml").write_text(text)
        said("recipe", "check", tmp_path / "r.yaml", code=2)
        said("ingest", tmp_path, "--converter", tmp_path / "r.yaml", "--lake", tmp_path / "lake", code=2)
    (tmp_path / "r.yaml").write_text(RECIPE)
    said("build", tmp_path / "r.yaml", "--set", f"key={CANARY}", "--lake", tmp_path / "l", "--out", tmp_path, code=2)
