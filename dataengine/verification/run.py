"""Verify a mixture: all files, then the versions, then what was asked for besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataengine.documents import load_json, sha256_bytes, unseal
from dataengine.engine.base import Engine
from dataengine.errors import BadInput, DataEngineError, MissingError
from dataengine.lake import Lake
from dataengine.mixture import described
from dataengine.mixture.recheck import inputs_of, recheck
from dataengine.mixture.statistics import stored
from dataengine.mixture.store import MARKER, MixtureStore, split_address
from dataengine.specs.records import Manifest
from dataengine.storage.local import irregular
from dataengine.verification.chain import FORGED, Chain
from dataengine.verification.figures import check_figures
from dataengine.verification.files import FileCheck, is_folder, is_shard
from dataengine.verification.raw import RawCheck, parse_sources
from dataengine.verification.report import FROM_COPY, MAX_NAMED, Advice, VerifyReport
from dataengine.verification.samples import read_shard
from dataengine.verification.shard import ShardFacts, check_shard

Progress = Callable[[str, int, int], None]
AS_BUILT = (
    "its bytes are as they were built: compare them with the lake (dataengine rebuild --shard N --check), correct the"
    " source or the step that made it, and build a new version"
)
Versions = dict[str, tuple[str, Manifest]]


@dataclass(frozen=True)
class Asked:
    """What to check beyond files, chains and counts.

    Args:
        share: of the samples of every shard to decode, in (0, 1]; None: none.
        seed: which of them.
        sources: where raw files lie, as `raw.parse_sources` reads it.
        lake: where the versions' statistics are computed again, and which knows the raw files' digests.
    """

    share: float | None = None
    seed: int = 0
    sources: Sequence[str] = ()
    lake: Lake | None = None


def verify(address: str, engine: Callable[[int], Engine], tell: Progress, asked: Asked | None = None) -> VerifyReport:
    """Check every file of `M`, or `M@V`, then the chain of that version, or of all.

    `engine` makes the engine for so many bytes of shards; the caller ends it.
    """
    path, version = split_address(address)
    run = _Run(MixtureStore(path, damaged=True), engine, tell)
    run.files()
    run.versions(version)
    asked = asked or Asked()
    if asked.share is not None:
        run.read(asked.share, asked.seed)
    if asked.lake is not None:
        run.recompute(asked.lake)
    if asked.sources:
        run.raw(asked.sources, asked.lake)
    return run.report


class _Run:
    def __init__(self, store: MixtureStore, engine: Callable[[int], Engine], tell: Progress) -> None:
        self.store, self.make_engine, self.tell = store, engine, tell
        self.report = VerifyReport()
        self.advice = Advice(store.address)
        others = dict(irregular(store.root)) if store.is_local and store.root.is_dir() else {}
        self.others = {name: what for name, what in others.items() if name.split("/")[0] != "staging"}
        self.odd = frozenset(self.others)
        self.names = [name for name in store.files() if name not in self.odd]
        if not any(name == MARKER or name.startswith(("refs/", "manifests/", "blobs/")) for name in self.names):
            raise MissingError(f"there is no mixture at {store.address}", fix="check the path, or build it first")
        self.found: Versions = {}
        self.shards: dict[str, ShardFacts] = {}
        for name in [name.removeprefix("refs/") for name in self.names if name.startswith("refs/")]:
            known = self._known(name)
            if known is not None:
                self.found[name] = known
                digests = {number: shard.sha256 for number, shard in enumerate(known[1].shards)}
                self.advice.know(name, digests)

    def _known(self, version: str) -> tuple[str, Manifest] | None:
        """A version's manifest; None where ref or manifest cannot be read, of which the files tell."""
        try:
            sha = unseal(self.store.read(f"refs/{version}"), version).get("manifest")
            name = f"manifests/{sha}.json"
            if not isinstance(sha, str) or name in self.odd:
                return None
            self.advice.refs.setdefault(sha, []).append(version)
            if not self.store.exists(name):
                self.report.add(name, "missing_file", f"the manifest of {version} is missing", self.advice.of(name))
                return None
            data = self.store.read(name)
        except DataEngineError:
            return None
        if sha256_bytes(data) != sha:
            return None
        try:
            return sha, Manifest.parse(load_json(data, name), name)
        except DataEngineError as error:
            self.report.add(name, "manifest_damaged", error.what, FORGED)
            return None

    def files(self) -> None:
        """Every file by itself, and what is no file."""
        for name, what in sorted(self.others.items()):
            if what != "a folder":
                self.report.add(name, "not_a_regular_file", f"{what}, and no file", self.advice.of(name))
            elif not is_folder(name):
                self.report.add(name, "unknown_folder", "no folder of a mixture", self._instead(name))
        if MARKER not in self.names:
            self.report.add(MARKER, "missing_file", "the mark of a mixture is missing", self.advice.of(MARKER))
        shards = [name for name in self.names if is_shard(name)]
        plain = [name for name in self.names if not is_shard(name)]
        check = FileCheck(self.store, self.odd)
        for done, name in enumerate(plain, start=1):
            self._file(check, name)
            self.tell("files", done, len(self.names))
        self._blobs(shards, len(plain))
        self.report.files = len(self.names)

    def _instead(self, name: str) -> str:
        return f"remove it; where a file of this name belongs: {self.advice.of(name)}"

    def _file(self, check: FileCheck, name: str) -> None:
        try:
            check.check(name)
        except BadInput as error:
            self.report.add(name, error.reason, error.what, self._fix(error, name))
        except DataEngineError as error:
            self.report.add(name, "unreadable_file", error.what, self.advice.of(name))
        except OSError as error:
            self.report.add(name, "unreadable_file", f"cannot read: {error.strerror}", self.advice.of(name))

    def _fix(self, error: BadInput, name: str) -> str:
        """The error's own where it knows better than the file's kind."""
        return error.fix if error.fix is not None and error.fix != described.FIX else self.advice.of(name)

    def _blobs(self, names: Sequence[str], before: int) -> None:
        size = sum(self.store.size(name) or 0 for name in names)
        tasks = [{"store": self.store.address, "sha256": name[-68:-4]} for name in names]
        for done, (index, result) in enumerate(self._ran(size, check_shard, tasks), start=1):
            if result is None:
                what = "reading it ended the process"
                self.report.add(names[index], "unreadable_file", what, self.advice.of(names[index]))
            elif result["problem"] is not None:
                file, reason, what = result["problem"]
                self.report.add(file, reason, what, self.advice.of(file))
            else:
                self.shards[tasks[index]["sha256"]] = result["facts"]
            self.tell("files", before + done, len(self.names))

    def _ran(
        self, size: int, function: Callable[[dict[str, Any]], dict[str, Any]], tasks: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any] | None]]:
        engine = self.make_engine(size)
        try:
            yield from engine.run(function, tasks)
        finally:
            engine.close()

    def versions(self, version: str | None) -> None:
        """The chains: of `version`, a name or a tag, or of all."""
        wanted = None if version is None else self._resolved(version)
        self._runs()
        chain = Chain(self.store, self.report, self.advice, self.shards, self.odd)
        every = self.found if wanted is None else {n: f for n, f in self.found.items() if n == wanted}
        frozen = self._frozen(every.values())
        for name, (sha, manifest) in every.items():
            self.report.versions.append(name)
            try:
                chain.check(sha, manifest)
                self._figures(chain, sha, manifest, frozen)
            except (DataEngineError, OSError) as error:
                told = str(error).splitlines()[0]
                self.report.add(f"refs/{name}", "version_damaged", told, self.advice.of(f"refs/{name}"))
        self.found = every

    def _resolved(self, version: str) -> str:
        """The version's name; one whose ref is damaged is still that version."""
        if f"refs/{version}" in self.names:
            return version
        return self.store.resolve(version)

    def _runs(self) -> None:
        """Refs and tags against what the runs say: who built a version knows its manifest."""
        made: dict[str, set[str]] = {}
        for name in (name for name in self.names if name.startswith("runs/") and name.endswith(".json")):
            try:
                facts = unseal(self.store.read(name), name)
            except DataEngineError:
                continue
            if isinstance(facts.get("version"), str) and isinstance(facts.get("manifest"), str):
                made.setdefault(facts["version"], set()).add(facts["manifest"])
        named = {sha for sha, _ in self.found.values()}
        for version, manifests in sorted(made.items()):
            name, found = f"refs/{version}", self.found.get(version)
            if found is not None and found[0] not in manifests:
                what = f"no run on record made {version} of this manifest, but of {min(manifests)}"
                self.report.add(name, "wrong_manifest", what, self.advice.of(name))
            there = sorted(sha for sha in manifests - named if f"manifests/{sha}.json" in self.names)
            if name not in self.names and name not in self.odd and there:
                what = f"a run made {version} of the manifest {there[0]}, and the ref is missing"
                fix = f"{self.advice.of(name)}; where it was removed on purpose: dataengine gc {self.store.address}"
                self.report.add(name, "missing_file", what, f"{fix} --delete")
        for name in (name for name in self.names if name.startswith("tags/")):
            self._tag(name)

    def _tag(self, name: str) -> None:
        try:
            version = unseal(self.store.read(name), name).get("version")
        except DataEngineError:
            return
        if f"refs/{version}" not in self.names:
            self.report.add(
                name, "missing_version", f"it stands for {version}, which is not there", self.advice.of(name)
            )

    def _frozen(self, versions: Any) -> Mapping[str, bytes]:
        """Documents of versions that others of this mixture reuse."""
        wanted = {
            (manifest.recipe.get("normalization", {}).get("reuse") or {}).get("sha256") for _, manifest in versions
        }
        found = {}
        for sha, manifest in self.found.values():
            name = f"{self.store.documents(sha)}/normalization.json"
            if manifest.normalization_sha256 in wanted and name in self.names:
                found[manifest.normalization_sha256] = self.store.read(name)
        return {digest: data for digest, data in found.items() if sha256_bytes(data) == digest}

    def _figures(self, chain: Chain, sha: str, manifest: Manifest, frozen: Mapping[str, bytes]) -> None:
        if manifest.statistics_sha256 is None:
            return
        folder = self.store.documents(sha)
        document = chain.document(f"{folder}/normalization.json", manifest.normalization_sha256)
        binary = chain.document(f"{folder}/statistics.bin", manifest.statistics_sha256)
        if document is None or binary is None:
            return
        for own, reason, what in check_figures(manifest, document, binary, frozen)[:MAX_NAMED]:
            self.report.add(f"{folder}/{own}", reason, what, FORGED)

    def read(self, share: float, seed: int) -> None:
        """Decode samples of every shard that is whole; a shard of several versions once for each statistics."""
        tasks: dict[tuple[str, str], dict[str, Any]] = {}
        for sha, manifest in self.found.values():
            name = f"{self.store.documents(sha)}/normalization.json"
            data = self.store.read(name) if name in self.names else b""
            if sha256_bytes(data) != manifest.normalization_sha256:
                continue  # told of before
            for entry in manifest.shards:
                if entry.sha256 in self.shards and entry.samples:
                    task = {"store": self.store.address, "entry": entry, "recipe": manifest.recipe, "share": share}
                    more = {"normalization": data, "normalization_sha256": manifest.normalization_sha256, "seed": seed}
                    tasks.setdefault((entry.sha256, manifest.normalization_sha256), {**task, **more})
        listed = list(tasks.values())
        size = sum(task["entry"].bytes for task in listed)
        for done, (index, result) in enumerate(self._ran(size, read_shard, listed), start=1):
            name = f"blobs/sha256/{listed[index]['entry'].sha256[:2]}/{listed[index]['entry'].sha256}.tar"
            if result is None:
                self.report.add(name, "unreadable_file", "decoding it ended the process", self.advice.of(name))
                continue
            self.report.decoded += result["samples"]
            for reason, what in result["problems"]:
                self.report.add(name, reason, what, AS_BUILT)
            self.tell("decode", done, len(listed))

    def recompute(self, lake: Lake) -> None:
        """Statistics of the versions, made again from the lake."""
        for version, (sha, manifest) in self.found.items():
            name = f"{self.store.documents(sha)}/normalization.json"
            engine = self.make_engine(sum(entry.bytes for entry in manifest.shards))
            try:
                found = stored(self.store, version)
                report = recheck(found, inputs_of(self.store, found, lake), engine, self.tell)
            except DataEngineError as error:
                if not self.report.names(name):
                    fix = error.fix or "give the lake that the version was built from"
                    self.report.add(name, "not_recomputed", f"{version}: {error.what}", fix)
                continue
            finally:
                engine.close()
            self.report.recomputed.append(version)
            for entry in report.differences[:MAX_NAMED]:
                what = f"{entry.where}: {entry.name} is {entry.stored}, and the lake gives {entry.computed}"
                self.report.add(name, "statistics_mismatch", what, f"{FROM_COPY}, or build a new version from the lake")

    def raw(self, given: Sequence[str], lake: Lake | None) -> None:
        """Raw files of the versions' sources."""
        known = sorted({source.source_id for _, manifest in self.found.values() for source in manifest.sources})
        RawCheck(self.store, self.report, lake).check(parse_sources(given, known), self.found, self.tell)
