"""Rows of question-answering files in their published layouts, and what each becomes.

Layouts, told apart by keys: VQAv2 (visualqa.org: `questions` with question_id, image_id; `annotations` with question_id
and ten answers), Visual Genome question_answers.json (a list of `id`, `qas`), GQA (an object of questions by id),
NLVR2 (JSON Lines: sentence, label, identifier), SNLI-VE (JSON Lines: Flickr30K_ID, sentence2, gold_label).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.documents import load_json
from dataengine.errors import EpisodeError, FormatError
from dataengine.formats import fields

Kind = Literal["questions", "answers", "visual_genome_qa", "gqa", "nlvr2", "snli_ve"]
MAX_BOXES = 4096
FLICKR_FOLDERS = ("flickr30k-images", "flickr30k_images")
_TRUTHS = ("True", "False")
_RELATIONS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Row:
    """One question with its id in the file; `problem` (reason, what) where it cannot be used."""

    key: str
    value: Mapping[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Table:
    """A file's rows. `about` is what the file says of all of them (VQAv2's data_type and data_subtype)."""

    kind: Kind
    rows: tuple[Row, ...]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """What a row becomes: the file names of its pictures (alternatives of each), texts, and what else it holds.

    `instead` is what is asked where the pictures are optional and absent; None where that would make no sense. `group`
    names what a split must not cut, None for the first picture.
    """

    pictures: tuple[tuple[str, ...], ...]
    question: str
    answer: str
    attributes: Mapping[str, Any]
    instead: str | None = None
    folders: tuple[str, ...] = ()
    group: str | None = None


def parse_table(data: bytes, where: str) -> Table:
    """The rows of a file (for `files.cached`).

    Raises `FormatError` `unknown_layout`, `empty_file`, and those of `load_json`; a damaged line of JSON Lines is a
    problem of its own.
    """
    if not data.strip():
        raise FormatError("empty_file", f"{where} holds no row", where=where)
    lines = data.splitlines()
    first = _leniently(lines[0])
    if isinstance(first, dict) and (_of_row(first) is not None):
        return _of_lines(lines, where)
    value = load_json(data, where)
    found = _of_document(value)
    if found is None:
        raise FormatError("unknown_layout", f"{where} is of no known layout of questions", where=where)
    return found


def _leniently(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _of_row(row: Mapping[str, Any]) -> Kind | None:
    if {"sentence", "identifier"} <= row.keys():
        return "nlvr2"
    return "snli_ve" if {"Flickr30K_ID", "sentence2"} <= row.keys() or {"pairID", "gold_label"} <= row.keys() else None


def _of_lines(lines: Sequence[bytes], where: str) -> Table:
    rows = []
    kinds = set()
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            value = load_json(line, where)
        except FormatError as error:
            rows.append(Row(f"row {number}", problem=(error.reason, error.what)))
            continue
        kind = _of_row(value) if isinstance(value, dict) else None
        if kind is None:
            rows.append(Row(f"row {number}", problem=("unknown_layout", "the row is of no known layout")))
            continue
        kinds.add(kind)
        rows.append(_keyed(value, "identifier" if kind == "nlvr2" else "pairID", number))
    if len(kinds) != 1:
        raise FormatError("unknown_layout", f"{where} holds rows of {len(kinds)} layouts", where=where)
    return Table(kinds.pop(), _once(rows))


def _of_document(value: Any) -> Table | None:
    if isinstance(value, dict) and isinstance(value.get("questions"), list):
        rows = [_keyed(row, "question_id", number) for number, row in enumerate(value["questions"])]
        about = {key: value[key] for key in ("data_type", "data_subtype") if key in value}
        return Table("questions", _once(rows), about)
    if isinstance(value, dict) and isinstance(value.get("annotations"), list) and "images" not in value:
        rows = [_keyed(row, "question_id", number) for number, row in enumerate(value["annotations"])]
        return Table("answers", _once(rows))
    if isinstance(value, dict) and _all(list(value.values()), ("imageId", "question")):
        return Table("gqa", tuple(Row(key, row) for key, row in value.items()))
    if isinstance(value, list) and _all(value, ("qas",)):
        return Table("visual_genome_qa", _once(_genome(value)))
    return None


def _all(rows: Sequence[Any], keys: Sequence[str]) -> bool:
    return bool(rows) and all(isinstance(row, dict) and set(keys) <= row.keys() for row in rows)


def _keyed(row: Any, key: str, number: int) -> Row:
    found = row.get(key) if isinstance(row, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | str) or found == "":
        return Row(f"row {number}", problem=("bad_row", f"the row has no {key}"))
    return Row(str(found), row)


def _genome(value: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows = []
    for number, image in enumerate(value):
        if not isinstance(image["qas"], list):
            rows.append(Row(f"image row {number}", problem=("bad_row", "its `qas` is no list")))
            continue
        for inner, qa in enumerate(image["qas"]):
            own = {"image_id": image.get("id", image.get("image_id")), **qa} if isinstance(qa, dict) else qa
            row = _keyed(own, "qa_id", inner)
            rows.append(Row(f"image row {number} {row.key}", problem=row.problem) if row.problem else row)
    return rows


def _once(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows whose id stands once; others are problems."""
    times = Counter(row.key for row in rows)
    twice = ("duplicate_episode", "its id stands more than once in the file")
    return tuple(
        row if times[row.key] == 1 else Row(f"{row.key} (row {number})", problem=twice)
        for number, row in enumerate(rows)
    )


def said(kind: Kind, row: Row, answer: Row | None, about: Mapping[str, Any]) -> Said:
    """What a question becomes. Raises `EpisodeError` for a field that is not what it should be."""
    if kind == "questions":
        return _vqa(row, answer, about)
    made: dict[str, Callable[[Row], Said]] = {
        "visual_genome_qa": _visual_genome,
        "gqa": _gqa,
        "nlvr2": _nlvr2,
        "snli_ve": _snli_ve,
    }
    return made[kind](row)


def _rest(value: Mapping[str, Any], used: Sequence[str]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in used}


def _text(value: Mapping[str, Any], key: str) -> str:
    return fields.as_text(fields.member(value, key, "the row"), key)


def _vqa(row: Row, answer: Row | None, about: Mapping[str, Any]) -> Said:
    """VQAv2: the answer is `multiple_choice_answer`, or the most frequent of the ten, the first of several such."""
    if answer is None:
        raise EpisodeError("missing_answer", "the question has no answer")
    image = fields.as_whole(fields.member(row.value, "image_id", "the question"), "image_id")
    if answer.value.get("image_id", image) != image:
        raise EpisodeError("bad_value", f"the question is about image {image}, its answer about another")
    given = [
        _text(fields.as_object(entry, "an answer"), "answer")
        for entry in fields.as_list(fields.member(answer.value, "answers", "the annotation"), "answers")
    ]
    if not given:
        raise EpisodeError("missing_answer", "the list of answers is empty")
    times = Counter(given)
    chosen = answer.value.get("multiple_choice_answer") or max(given, key=lambda text: times[text])
    subtype = about.get("data_subtype")
    names = [f"COCO_{subtype}_{image:012d}.jpg"] if isinstance(subtype, str) else []
    more = _rest(row.value, ("question", "image_id")) | _rest(answer.value, ("question_id", "image_id"))
    return Said(
        ((*names, f"{image:012d}.jpg"),),
        _text(row.value, "question"),
        fields.as_text(chosen, "the answer"),
        {"image_id": image, **more},
        folders=(subtype,) if isinstance(subtype, str) else (),
    )


def _visual_genome(row: Row) -> Said:
    image = fields.as_whole(fields.member(row.value, "image_id", "the question"), "image_id")
    boxes = [
        {"of": key, **_object(entry, key)}
        for key in ("q_objects", "a_objects")
        for entry in fields.as_list(row.value.get(key, []), key)[:MAX_BOXES]
    ]
    attributes: dict[str, Any] = _rest(row.value, ("question", "answer", "q_objects", "a_objects"))
    if boxes:
        attributes["boxes"] = {"unit": "px", "items": boxes}
    question, answer = _text(row.value, "question"), _text(row.value, "answer")
    return Said(((f"{image}.jpg",),), question, answer, attributes, folders=("VG_100K", "VG_100K_2"))


def _object(value: Any, where: str) -> dict[str, Any]:
    """An object x, y, w, h in pixels, with its first name where it has one."""
    found = fields.as_object(value, where)
    x, y, width, height = (fields.as_number(fields.member(found, key, where), f"{where}.{key}") for key in "xywh")
    if width < 0 or height < 0:
        raise EpisodeError("bad_value", f"{where}: a box of {width} x {height}")
    names = found.get("names") or [found.get("name") or found.get("entity_name")]
    label = names[0] if isinstance(names, list) and isinstance(names[0], str) else None
    return {"label": label, "xyxy": [x, y, x + width, y + height], "object_id": found.get("object_id")}


def _gqa(row: Row) -> Said:
    if "answer" not in row.value:
        raise EpisodeError("missing_answer", "the question has no answer (a test split)")
    question, answer = _text(row.value, "question"), _text(row.value, "answer")
    image = _text(row.value, "imageId")
    return Said(((f"{image}.jpg",),), question, answer, _rest(row.value, ("question", "answer")))


def _nlvr2(row: Row) -> Said:
    """NLVR2: the identifier `SPLIT-SET-PAIR-SENTENCE` names pictures `SPLIT-SET-PAIR-img0.png` (left), `-img1.png`."""
    answer = _text(row.value, "label")
    if answer not in _TRUTHS:
        raise EpisodeError("bad_value", f"the label is {answer[:40]!r}, not True or False")
    parts = row.key.split("-")
    if len(parts) != 4:
        raise EpisodeError("bad_value", f"the identifier {row.key[:60]!r} names no pictures")
    pictures = tuple((f"{'-'.join(parts[:3])}-img{side}.png",) for side in (0, 1))
    folders = (parts[0], f"{parts[0]}/{row.value['directory']}") if "directory" in row.value else (parts[0],)
    attributes = _rest(row.value, ("sentence", "label"))
    # Upstream asks that the pictures of one set stay on one side of a split (lil-lab/nlvr, nlvr2/README.md).
    group = "-".join(parts[:2])
    return Said(pictures, _text(row.value, "sentence"), answer, attributes, folders=folders, group=group)


def _snli_ve(row: Row) -> Said:
    """SNLI-VE: the picture is the premise, sentence2 the hypothesis; sentence1 is a caption of the picture."""
    answer = _text(row.value, "gold_label")
    if answer == "-":
        raise EpisodeError("no_label", "the annotators did not agree")
    if answer not in _RELATIONS:
        raise EpisodeError("bad_value", f"the label is {answer[:40]!r}")
    image = row.value.get("Flickr30K_ID", row.key.partition(".")[0])
    claim, caption = _text(row.value, "sentence2"), row.value.get("sentence1")
    instead = None if caption is None else f"{fields.as_text(caption, 'sentence1')}\n{claim}"
    attributes = _rest(row.value, ("sentence2", "gold_label"))
    name = f"{fields.as_text(image, 'Flickr30K_ID')}.jpg"
    return Said(((name,),), claim, answer, attributes, instead, FLICKR_FOLDERS)
