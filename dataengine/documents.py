"""Documents the engine reads and writes: strict models, safe YAML and JSON, canonical bytes, digests.

Also the one resolver of the spec folders (`converters/`, `schemas/`, `pipelines/`): beside the package in a wheel
(`dataengine/_specs/`), or at the checkout's root.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import orjson
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dataengine.errors import FormatError, SpecError

MAX_YAML_BYTES = 1 << 20
MAX_JSON_DEPTH = 64
_SINGULAR = {
    "converters": "converter",
    "pipelines": "recipe",
    "schemas/catalogues": "catalogue",
    "schemas/embodiments": "embodiment",
    "schemas/layouts": "layout",
    "schemas/prompts": "prompt form",
    "schemas/relabel_prompts": "relabelling prompt",
}
_ENVELOPE_KEYS = {"body", "sha256"}


class Strict(BaseModel):
    """A frozen document model: unknown fields are errors, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def canonical(self) -> Any:
        """The document as plain JSON values, defaults included, ready for `canonical_json`."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return sha256_json(self.canonical())

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Validate `value`; a mistake becomes a `SpecError` that names every wrong field."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise SpecError(_explain(error), where=where, fix="correct the named fields") from None


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "(top level)"
        if item["type"] == "missing":
            lines.append(f"{field}: required and missing")
        elif item["type"] == "extra_forbidden":
            lines.append(f"{field}: unknown field")
        else:
            lines.append(f"{field}: {item['msg']}")
    return "; ".join(lines)


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, shortest floats: the only byte form that is ever hashed."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """sha256 in hex of the canonical JSON."""
    return sha256_bytes(canonical_json(value))


def seal(body: Mapping[str, Any]) -> bytes:
    """Canonical JSON of `body` with a digest of itself, so that any flipped bit is seen."""
    return canonical_json({"body": body, "sha256": sha256_json(body)})


def unseal(data: bytes, where: str) -> dict[str, Any]:
    """The body of a sealed document; `FormatError` when a byte of it changed."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise FormatError("digest_mismatch", "not a readable document", where=where) from None
    if not isinstance(document, dict) or document.keys() != _ENVELOPE_KEYS or seal(document["body"]) != data:
        raise FormatError("digest_mismatch", "the document does not match its own digest", where=where)
    body = document["body"]
    if not isinstance(body, dict):
        raise FormatError("digest_mismatch", "the document holds no body", where=where)
    return body


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # (the C loader composes past `compose_node`)
    """Safe YAML that refuses duplicate keys and aliases (alias bombs; nothing here needs them)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"the key {sorted(map(str, twice))[0]!r} stands twice")
        result: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return result


def load_yaml(path: Path) -> Any:
    """Read one YAML file safely (no tags, no aliases, no duplicate keys, at most 1 MiB)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot read: {error.strerror}", where=str(path), fix="check the path") from None
    if len(data) > MAX_YAML_BYTES:
        raise SpecError("larger than 1 MiB", where=str(path), fix="split the document")
    try:
        return yaml.load(data, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader, made stricter
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(f"not valid YAML: {_told(error)}", where=str(path), fix="correct the file") from None


def _told(error: Exception) -> str:
    """What is wrong and where, without the line itself: it may hold what no output should."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
    mark = error.problem_mark
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    return f"{', '.join(filter(None, (error.context, error.problem)))}{place}"


def load_json(data: bytes, where: str, *, constants: bool = False) -> Any:
    """Untrusted JSON: no NaN tokens, no duplicate keys, bounded depth. Raises `FormatError` with a reason.

    With `constants` the tokens NaN, Infinity and -Infinity are the floats that Python's `json` writes so.

    Numbers beyond 64 bits and lone surrogates pass: they spoil one row, not the file, so formats refuse them where
    they take values (`formats.fields`).
    """
    import json

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise FormatError("json_duplicate_key", "an object holds the same key twice", where=where)
        return result

    def constant(token: str) -> float:
        if constants:
            return float(token)
        raise FormatError("json_nan", f"the token {token} is not JSON", where=where)

    try:
        value = json.loads(data, object_pairs_hook=pairs, parse_constant=constant)
    except UnicodeDecodeError:
        raise FormatError("invalid_utf8", "not UTF-8 text", where=where) from None
    except RecursionError:
        raise FormatError("json_too_deep", "nested deeper than any data is", where=where) from None
    except ValueError as error:
        raise FormatError("json_invalid", f"not valid JSON: {error}", where=where) from None
    if _depth_exceeds(value, MAX_JSON_DEPTH):
        raise FormatError("json_too_deep", f"nested deeper than {MAX_JSON_DEPTH}", where=where)
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def spec_root(kind: str) -> Path:
    """The folder of shipped specs: `kind` is `converters`, `schemas` or `pipelines`."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "_specs" / kind, package.parent / kind):
        if candidate.is_dir():
            return candidate
    raise SpecError(f"the shipped folder {kind}/ is missing", where=str(package), fix="reinstall dataengine")


def spec_files(kind: str) -> dict[str, Path]:
    """Shipped YAML files of one kind by name (the file's stem), sorted."""
    return {path.stem: path for path in sorted(spec_root(kind).rglob("*.yaml"))}


def find_spec(kind: str, name: str) -> Path:
    """A shipped spec's path by name, or a file given by path. Unknown names suggest the nearest."""
    known = spec_files(kind)
    if name in known:
        return known[name]
    path = Path(name)
    if path.is_file():
        return path
    if "/" in name or name.endswith((".yaml", ".yml")):
        what = f"{name} is a folder, not a file" if path.is_dir() else f"no such file: {name}"
        import difflib

        near = difflib.get_close_matches(path.stem, known, n=3)
        told = f" such as {', '.join(near)}" if near else ""
        raise SpecError(what, fix=f"give the path of a YAML file, or one of {len(known)} shipped names{told}")
    error = unknown_name(_SINGULAR[kind], name, known)
    raise SpecError(error.what, fix=f"{error.fix}; or give the path of a YAML file")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> SpecError:
    """A `SpecError` for a name nobody knows, with the nearest known one."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return SpecError(f"unknown {kind} {name!r}", fix=f"{hint}known: {', '.join(names) or 'none'}")


def inline_files(value: Any, folder: Path, where: str) -> Any:
    """Replace every mapping `{file: PATH}` of a document by what the file holds: YAML or JSON, or text (`.txt`).

    A relative path starts at `folder`. What a file holds is not searched for further files.
    """
    if isinstance(value, list):
        return [inline_files(item, folder, where) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"file"} or not isinstance(value["file"], str):
        return {key: inline_files(item, folder, where) for key, item in value.items()}
    path = folder / value["file"]
    if path.suffix in (".yaml", ".yml", ".json"):
        return load_yaml(path)
    if path.suffix != ".txt":
        raise SpecError(f"{{file: {value['file']}}}", where=where, fix="name a .yaml, .yml, .json or .txt file")
    try:
        data = path.read_bytes()
        if len(data) > MAX_YAML_BYTES:
            raise SpecError("larger than 1 MiB", where=str(path), fix="shorten the text")
        return data.decode()
    except OSError as error:
        raise SpecError(f"cannot read: {error.strerror}", where=str(path), fix="check the path") from None
    except UnicodeDecodeError:
        raise SpecError("not UTF-8 text", where=str(path), fix="save it as UTF-8") from None


_PARAMETER = re.compile(r"\$\{([a-z][a-z0-9_]*)\}")


def substitute(value: Any, parameters: Mapping[str, str], where: str) -> Any:
    """Replace `${name}` in every string of a document by plain text; never a format string."""
    if isinstance(value, str):

        def replace(match: re.Match[str]) -> str:
            name = match.group(1)
            if name not in parameters:
                raise SpecError(f"${{{name}}} has no value", where=where, fix=f"add --set {name}=VALUE")
            return parameters[name]

        return _PARAMETER.sub(replace, value)
    if isinstance(value, list):
        return [substitute(item, parameters, where) for item in value]
    if isinstance(value, dict):
        return {key: substitute(item, parameters, where) for key, item in value.items()}
    return value
