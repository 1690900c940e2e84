"""Episodes kept in numpy's .npz: robosuite's raw recordings, and rollouts saved as one archive an episode.

`robosuite_npz`: a folder `ep_<time>` with `state_<time>.npz` for every hundred steps, `model.xml` and `ep_meta.json`
(ARISE-Initiative/robosuite, `robosuite/wrappers/data_collection_wrapper.py`, 1.5.2): `states` [n, 1 + nq + nv] (MuJoCo:
time, qpos, qvel; the first file begins with the state before the first action), `action_infos`, a pickled list of
dicts, which is interpreted and never unpickled, `env` and `successful`. The last file is often empty.

`gymnasium_npz`: one archive an episode, arrays by name with one row a step. It is a habit, not a standard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import load_json, sha256_bytes
from dataengine.episode import RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields, npz, pictures
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.storage import SourceRoot

STATES, INFOS = "states", "action_infos"
ACTIONS = ("action", "actions")
MODEL, META = "model.xml", "ep_meta.json"
MAX_MODEL = 1 << 28
_STATE_FILE = re.compile(r"(?:.*/)?state_(\d{1,12})_(\d{1,12})\.npz", re.DOTALL)
_PROBED = 8
Arrays = dict[str, NDArray[Any]]


class NpzEpisodesFormat:
    """Episodes in .npz files.

    Option `pictures`: raw pixels of `gymnasium_npz` as `png` (default) or `jpeg`.
    """

    name: ClassVar[str] = "npz_episodes"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "episodes in .npz: robosuite's DataCollectionWrapper, and one archive an episode"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "robosuite_npz",
            "simulation",
            "robosuite's raw recordings: a folder of state_*.npz an episode",
            "real files",
            4,
            "simulation/robosuite_1.5.2_lift/datacollection_npz, by robosuite 1.5.2",
        ),
        Layout(
            "gymnasium_npz",
            "simulation",
            "one .npz an episode, arrays by name",
            "real files",
            1,
            "simulation/gym_aloha/transfer_cube_50steps.npz, out of gym-aloha 0.1.5",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        for path in _files(root, only)[:_PROBED]:
            try:
                heads = _heads(root, path)
            except BadInput:
                continue
            if _STATE_FILE.fullmatch(path) and {STATES, INFOS} <= set(heads):
                told = f"{path} holds {STATES} and {INFOS}, as robosuite's DataCollectionWrapper writes them"
                return Detection(self.name, 0.85, (told,), layout="robosuite_npz")
            rows = _rows_of_actions(heads)
            if rows:
                told = f"{path} holds {rows} rows of actions beside other arrays of that length"
                return Detection(self.name, 0.4, (told,), layout="gymnasium_npz")
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every folder with `state_*.npz`, and every other .npz that has rows of actions, sorted by path.

        Only headers are read. In a folder, archives of another content are passed over; one named by itself that is
        no episode is a problem (`missing_key`), and so is one that has actions or shares names with the episodes.
        """
        check_options(options, ("pictures",), self.name)
        codec = pictures.picture_codec(options)
        folders: dict[str, list[str]] = {}
        of_episodes: set[str] = set(ACTIONS)
        others: dict[str, frozenset[str]] = {}
        for path in _files(root, only):
            if _STATE_FILE.fullmatch(path):
                folders.setdefault(path.rpartition("/")[0], []).append(path)
                continue
            try:
                heads = _heads(root, path)
                if _rows_of_actions(heads):
                    of_episodes |= set(heads)
                    yield EpisodeRef(path, {"file": path, "pictures": codec}, (path,))
                else:
                    others[path] = frozenset(heads)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
        for path, names in others.items():
            if only is not None or names & of_episodes:
                what = f"{path} holds no rows of actions beside another array of as many, or one more"
                yield ScanProblem("file", path, "missing_key", what)
        for folder, parts in sorted(folders.items()):
            files = [*sorted(parts, key=_moment), *(f"{folder}/{name}".lstrip("/") for name in (MODEL, META))]
            files = [path for path in files if root.exists(path)]
            yield EpisodeRef(folder or ".", {"folder": folder}, tuple(files))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        with root.unchanged(*ref.files):
            if "folder" in ref.locator:
                arrays, attributes = _robosuite(root, ref.files)
            else:
                arrays, attributes = _archive(root, ref.files[0])
            described = tuple(root.describe(path) for path in ref.files)
        digest = RawDigest()
        for name, array in arrays.items():
            digest.add_array(name, array)
        digest.add_json("attributes", attributes)
        codec: pictures.PictureCodec = "jpeg" if ref.locator.get("pictures") == "jpeg" else "png"
        shown = {name for name, array in arrays.items() if _is_pictures(array)}
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays={name: array for name, array in arrays.items() if name not in shown},
            media={name: pictures.from_pixels(name, arrays[name], codec) for name in sorted(shown)},
            attributes=attributes,
        )


def _files(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if only.endswith(".npz") else []
    return root.glob("**/*.npz")


def _heads(root: SourceRoot, path: str) -> dict[str, npz.NpyHead]:
    with root.open(path) as file:
        return npz.npz_heads(file, path)


def _moment(path: str) -> tuple[int, str]:
    """When a part was written: seconds and the digits behind the point, whose order as texts is that of fractions."""
    match = _STATE_FILE.fullmatch(path)
    return (int(match[1]), match[2]) if match is not None else (0, "")


def _rows_of_actions(heads: Mapping[str, npz.NpyHead]) -> int:
    """Rows of the array of actions, if there is one and another array has as many (or one more); else 0."""
    named = [heads[name] for name in ACTIONS if name in heads and len(heads[name].shape) > 1]
    rows = named[0].shape[0] if len(named) == 1 and named[0].dtype is not None else 0
    others = [head for name, head in heads.items() if name not in ACTIONS and head.dtype is not None]
    return rows if any(head.shape[:1] in ((rows,), (rows + 1,)) for head in others) else 0


def _is_pictures(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3


def _archive(root: SourceRoot, path: str) -> tuple[Arrays, dict[str, Any]]:
    """Arrays, and single values as attributes; texts of several rows and pickled objects are left unread."""
    heads = _heads(root, path)
    unread = [name for name, head in heads.items() if head.dtype is None]
    found = npz.read_npz(root.read(path, limit=npz.MAX_BYTES), path, only=set(heads) - set(unread))
    arrays: Arrays = {}
    attributes: dict[str, Any] = {}
    for name, array in found.items():
        if array.ndim == 0 and array.dtype.kind in "fiubU":
            attributes[name] = _single(array, f"{path}:{name}")
        elif array.dtype.kind in "fiub" and array.ndim:
            arrays[name] = array
        else:
            unread.append(name)
    if not any(len(arrays[name]) for name in ACTIONS if name in arrays):
        raise EpisodeError("empty_episode", f"{path} holds no rows of actions")
    return arrays, attributes | ({"unread": sorted(unread)} if unread else {})


def _single(array: NDArray[Any], where: str) -> Any:
    value = array.item()
    if isinstance(value, str):
        return fields.as_text(value, where)
    return fields.as_number(value, where) if isinstance(value, float) else value


def _robosuite(root: SourceRoot, paths: Sequence[str]) -> tuple[Arrays, dict[str, Any]]:
    """States and actions of an episode's parts in their order, and what the files beside say of it."""
    states: list[NDArray[Any]] = []
    actions: dict[str, list[NDArray[Any]]] = {}
    attributes: dict[str, Any] = {}
    count = 0
    for path in paths:
        if path.endswith(META):
            attributes["ep_meta"] = fields.as_object(load_json(root.read(path, limit=MAX_MODEL), path), path)
            fields.canonical(attributes["ep_meta"], path)
        elif path.endswith(MODEL):
            attributes["model_file_sha256"] = sha256_bytes(root.read(path, limit=MAX_MODEL))
        else:
            part = npz.read_npz(root.read(path, limit=npz.MAX_BYTES), path, objects=(INFOS,))
            rows, infos = _part(part, path)
            count += len(infos)
            states.extend(rows)
            _add_infos(actions, infos, path)
            _add_facts(attributes, part, path)
    if not states or not count:
        raise EpisodeError("empty_episode", f"{paths[0]} and the files beside it hold no steps")
    return _joined(states, actions, count), attributes


def _part(part: Mapping[str, NDArray[Any]], path: str) -> tuple[list[NDArray[Any]], list[Any]]:
    """Blocks of states (none where a part is empty) and the dicts of actions of one file."""
    for name in (STATES, INFOS):
        if name not in part:
            raise FormatError("missing_key", f"{path} holds no {name}", where=path)
    states, infos = part[STATES], part[INFOS]
    if infos.dtype != object:
        if infos.size:
            raise FormatError("bad_type", f"{path}: {INFOS} holds {infos.dtype}, not dicts", where=path)
        infos = np.empty(0, object)
    if states.size == 0:
        return [], list(infos)
    if states.ndim != 2 or states.dtype != np.float64:
        raise FormatError("bad_shape", f"{path}: {STATES} holds {states.dtype} {states.shape}", where=path)
    return [states], list(infos)


def _add_infos(actions: dict[str, list[NDArray[Any]]], infos: Sequence[Any], path: str) -> None:
    """Append each dict's arrays by name: all dicts of an episode have the same names, types and shapes."""
    for info in infos:
        if not isinstance(info, dict) or not info:
            raise EpisodeError("bad_type", f"{path}: an entry of {INFOS} is no dict")
        if actions and set(actions) != set(info):
            raise EpisodeError("missing_key", f"{path}: entries of {INFOS} hold different names")
        for name, value in info.items():
            array = np.asarray(value) if isinstance(value, float | int | np.ndarray) else None
            if not isinstance(name, str) or array is None or array.dtype.kind not in "fiub":
                raise EpisodeError(
                    "bad_type", f"{path}: {INFOS} holds {str(name)[:40]!r}, which is no array of numbers"
                )
            row = actions.setdefault(name, [])
            if row and (row[0].shape, row[0].dtype) != (array.shape, array.dtype):
                raise EpisodeError("bad_shape", f"{path}: {name} is {array.shape} here and {row[0].shape} before")
            row.append(array)


def _add_facts(attributes: dict[str, Any], part: Mapping[str, NDArray[Any]], path: str) -> None:
    """The environment's name, one for all parts; an episode is successful when one of its parts says so."""
    env, success = part.get("env"), part.get("successful")
    if env is not None:
        if env.shape != () or env.dtype.kind != "U":
            raise EpisodeError("bad_type", f"{path}: env is no text")
        named = fields.as_text(str(env), f"{path}:env")
        if attributes.setdefault("env", named) != named:
            raise EpisodeError("bad_value", f"{path} was recorded in {named}, the part before in {attributes['env']}")
    if success is not None:
        if success.shape != () or success.dtype.kind != "b":
            raise EpisodeError("bad_type", f"{path}: successful is neither true nor false")
        attributes["successful"] = attributes.get("successful", False) or bool(success)
    unread = sorted(set(part) - {STATES, INFOS, "env", "successful"} | set(attributes.get("unread", ())))
    if unread:
        attributes["unread"] = unread


def _joined(states: Sequence[NDArray[Any]], actions: Mapping[str, Sequence[NDArray[Any]]], count: int) -> Arrays:
    """The whole episode: T + 1 states in the order of MuJoCo's clock (column 0), T rows of actions."""
    if len({block.shape[1] for block in states}) != 1:
        raise EpisodeError("bad_shape", f"{STATES} has another width from one part to the next")
    whole = np.concatenate(states)
    if len(whole) != count + 1:
        what = f"{len(whole)} states and {count} actions: not one state more, as robosuite 1.5 writes"
        raise EpisodeError("length_mismatch", what)
    if not bool((np.diff(whole[:, 0]) >= 0).all()):
        raise EpisodeError("rows_out_of_order", f"the clock in {STATES} goes back between the parts")
    return {STATES: whole} | {f"{INFOS}/{name}": np.stack(rows) for name, rows in sorted(actions.items())}
