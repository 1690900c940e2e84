"""Questions and answers about pictures: VQAv2, Visual Genome QA, GQA, NLVR2, SNLI-VE, and Flickr30k's sentences.

The rows of a JSON file are described in `vqa_rows`, Flickr30k in `vqa_flickr`. VQAv2's questions are joined with the
annotations of the same folder by question_id. Pictures lie in folders beside the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar, cast

from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import vqa_flickr
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.files import cached
from dataengine.formats.items import MEDIA_OPTIONS, ItemBuilder, media_options, text_option
from dataengine.formats.vqa_rows import FLICKR_FOLDERS, Kind, Row, Said, Table, parse_table, said
from dataengine.storage import SourceRoot

OPTIONS = ("layout", "files", "question", *MEDIA_OPTIONS)
MAX_TEXT_FILE = 1 << 20
_DETECTED_FILES = 64
_DETECTED_BYTES = 64 << 20
_HEAD = 1 << 16
_WORDS = (b"question", b'"qas"', b'"imageId"', b'"identifier"', b'"gold_label"', b"/EN#")
_BEGINNINGS = (
    ("visual_genome_qa", b"[", (b'"qas"', b'"question"', b'"answer"')),
    ("vqav2", b"{", (b'"question_id"', b'"image_id"')),
    ("gqa", b"{", (b'"imageId"', b'"question"')),
    ("nlvr2", b"{", (b'"identifier"', b'"sentence"')),
    ("snli_ve", b"{", (b'"gold_label"', b'"pairID"')),
)
_DATA = "vision_language/vqa_vg_gqa"
_ROOTS = (".", "images")
_FLICKR = "flickr30k"
_FOLDERS = ("sentences", "Sentences")


def _layout(name: str, title: str, files: int, evidence: str) -> Layout:
    return Layout(name, "vision_language", title, "real files", files, f"{_DATA}/{evidence}")


class VqaFormat:
    """Files of questions and answers about pictures.

    Options: `layout`, one of the layouts: files of another are passed over (default all); `files`, the files to read
    (default every `.json`, `.jsonl`, and `.txt` in a folder `sentences`); `question`, a text behind the picture of a
    Flickr30k item; `media_roots`, `strip_prefix`, `media` (see `items`).
    """

    name: ClassVar[str] = "vqa"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "VQAv2, Visual Genome QA, GQA, NLVR2, SNLI-VE, Flickr30k: questions and answers about pictures"
    )
    layouts: ClassVar[tuple[Layout, ...]] = (
        _layout("vqav2", "VQAv2: questions and annotations joined by question_id", 3, "vqav2 and images/vqav2"),
        _layout("visual_genome_qa", "Visual Genome question_answers.json", 3, "vgqa and images/vgqa"),
        _layout("gqa", "GQA: questions by id, in one file or a folder of files", 2, "gqa; pictures made up"),
        _layout("nlvr2", "NLVR2: JSON Lines of sentences about two pictures", 1, "nlvr2; pictures made up"),
        _layout("snli_ve", "SNLI-VE: JSON Lines of hypotheses about Flickr30k pictures", 1, "visual_entailment"),
        _layout(
            "flickr30k", "Flickr30k Entities: sentences with phrases, boxes in XML", 2, "flickr30k; XML: layout fixture"
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A file that parses as one of the layouts (of the first ones); a large one is told by how it begins."""
        for path in _files(root, only, ())[:_DETECTED_FILES]:
            try:
                head = _head(root, path)
                if not any(word in head for word in _WORDS):
                    continue
                if root.size(path) > _DETECTED_BYTES:
                    layout = _by_head(head)
                else:
                    layout = _FLICKR if path.endswith(".txt") else _layout_of(cached(root, path, parse_table))
                if layout is None:
                    continue
                if path.endswith(".txt") and "/EN#" not in root.read(path, MAX_TEXT_FILE).decode(errors="replace"):
                    continue
            except BadInput:
                continue
            return Detection(self.name, 0.85, (f"{path}: rows of the layout {layout}",), layout=layout)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a question (a picture, for Flickr30k), in the order of files and rows."""
        check_options(options, OPTIONS, self.name)
        known = [layout.name for layout in self.layouts]
        wanted = options.get("layout")
        if wanted is not None and wanted not in known:
            raise SpecError(f"the option `layout` is one of {', '.join(known)}, not {wanted!r}", fix="correct it")
        asked = {**media_options(options, _ROOTS), "question": text_option(options, "question")}
        tables: dict[str, Table] = {}
        named = option_names(options, "files", ())
        for path in _files(root, only, named):
            if path.endswith(".txt"):
                if wanted in (None, _FLICKR):
                    yield EpisodeRef(path, {**asked, "kind": _FLICKR}, (path, *_xml(root, path)))
                continue
            try:
                table = cached(root, path, parse_table)
            except BadInput as error:
                if wanted is None or error.reason != "unknown_layout" or named or only:
                    yield ScanProblem("file", path, error.reason, error.what)
                continue
            if wanted in (None, _layout_of(table)):
                tables[path] = table
        yield from _asked(root, tables, asked)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One item: pictures with their bytes untouched, the question and its answer."""
        asked = ref.locator
        with root.unchanged(*ref.files):
            item = ItemBuilder(root, ref.upstream_id, asked)
            item.use(*ref.files)
            if asked["kind"] == _FLICKR:
                return _flickr(root, ref, item)
            if [file.sha256 for file in item.files] != asked["sha256"]:
                raise FormatError("changed_during_read", f"{ref.files[0]} changed since it was scanned")
            tables = [cached(root, path, parse_table) for path in ref.files]
        rows = [table.rows[index] for table, index in zip(tables, asked["rows"], strict=True)]
        for number, row in enumerate(rows):
            item.digested(f"row{number}", row.value)
        found = said(cast("Kind", asked["kind"]), rows[0], rows[1] if len(rows) > 1 else None, tables[0].about)
        item.digested("pictures", [list(names) for names in found.pictures])
        _ask(item, found)
        return item.episode(group=found.group or found.pictures[0][0])


def _head(root: SourceRoot, path: str) -> bytes:
    """A file's first bytes: one without a word of any layout is not parsed for nothing."""
    with root.open(path) as file:
        return file.read(_HEAD)


def _by_head(head: bytes) -> str | None:
    """The layout of a file too large to be parsed just to be recognised, by how it begins."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for layout, begins, words in _BEGINNINGS:
        if head.startswith(begins) and all(word in head for word in words):
            return layout
    return None


def _files(root: SourceRoot, only: str | None, wanted: Sequence[str]) -> list[str]:
    if only is not None:
        return [only] if only.endswith((".json", ".jsonl", ".txt")) else []
    if wanted:
        return [str(PurePosixPath(path)) for path in wanted]
    texts = [path for folder in _FOLDERS for path in root.glob(f"**/{folder}/*.txt")]
    return sorted([*root.glob("**/*.json"), *root.glob("**/*.jsonl"), *texts])


def _layout_of(table: Table) -> str:
    return "vqav2" if table.kind in ("questions", "answers") else table.kind


def _asked(
    root: SourceRoot, tables: Mapping[str, Table], asked: Mapping[str, Any]
) -> Iterator[EpisodeRef | ScanProblem]:
    left: list[ScanProblem] = []
    for path, table in tables.items():
        if table.kind == "answers":
            folder = PurePosixPath(path).parent
            pairs = [p for p, t in tables.items() if t.kind == "questions" and PurePosixPath(p).parent == folder]
            if not pairs:
                yield ScanProblem("file", path, "missing_question", "no questions lie beside these answers")
            else:
                left += _left_over(path, table, [row for p in pairs for row in tables[p].rows])
            continue
        answers = _answers_of(path, table, tables)
        if isinstance(answers, ScanProblem):
            yield answers
            continue
        yield from _of_table(root, path, table, answers, asked)
    yield from left


def _left_over(path: str, table: Table, questions: Sequence[Row]) -> list[ScanProblem]:
    """Answers to no question; where a question is a problem of its own, its answer is not left over."""
    known = {row.key for row in questions}
    alone = [row.key for row in table.rows if row.problem is None and row.key not in known]
    if not alone or any(row.problem is not None for row in questions):
        return []
    what = f"{len(alone)} of its {len(table.rows)} answers have no question, the first is of {alone[0]}"
    return [ScanProblem("file", path, "missing_question", what)]


def _answers_of(path: str, table: Table, tables: Mapping[str, Table]) -> dict[str, dict[str, int]] | ScanProblem:
    """The row of each answer to these questions, by file and question_id; the file is the one that shares most."""
    if table.kind != "questions":
        return {}
    folder = PurePosixPath(path).parent
    known = {row.key for row in table.rows}
    found = {
        other: {row.key: number for number, row in enumerate(t.rows) if row.problem is None and row.key in known}
        for other, t in tables.items()
        if t.kind == "answers" and PurePosixPath(other).parent == folder
    }
    fitting = {other: rows for other, rows in found.items() if rows}
    if len(fitting) > 1:
        return ScanProblem("file", path, "unpaired_answers", f"{len(fitting)} files beside it answer its questions")
    return fitting


def _of_table(
    root: SourceRoot, path: str, table: Table, answers: Mapping[str, Mapping[str, int]], asked: Mapping[str, Any]
) -> Iterator[EpisodeRef | ScanProblem]:
    digests = [root.describe(name).sha256 for name in (path, *answers)]
    for number, row in enumerate(table.rows):
        upstream = f"{path}#{row.key}"
        if row.problem is not None:
            yield ScanProblem("episode", upstream, *row.problem)
        elif table.kind != "questions":
            yield EpisodeRef(upstream, {**asked, "kind": table.kind, "rows": [number], "sha256": digests}, (path,))
        else:
            places = {other: rows[row.key] for other, rows in answers.items() if row.key in rows}
            if not places:
                yield ScanProblem("episode", upstream, "missing_answer", "no annotation has its question_id alone")
                continue
            (other, place), *_ = places.items()
            locator = {**asked, "kind": table.kind, "rows": [number, place], "sha256": digests}
            yield EpisodeRef(upstream, locator, (path, other))


def _ask(item: ItemBuilder, found: Said) -> None:
    for name, text in (("question", found.question), ("answer", found.answer)):
        if not text.strip():
            raise EpisodeError("empty_message", f"the {name} is empty")
    shown = [item.find(names, folders=found.folders) for names in found.pictures]
    if any(part is None for part in shown):
        # A question about a picture means nothing without it, unless the row says in words what it shows.
        if found.instead is None:
            raise EpisodeError("missing_media", f"{item.missing[0]} is absent, and nothing stands for it")
        item.say("user", found.instead)
    else:
        item.say("user", *shown, found.question)
    item.attributes.update(found.attributes)
    listed = item.attributes.get("boxes")
    if isinstance(listed, dict):
        for medium in list(item.media.values())[:1]:
            listed["size_wh"] = [medium.width, medium.height]
    item.say("assistant", found.answer)


def _xml(root: SourceRoot, path: str) -> tuple[str, ...]:
    """The boxes of a Flickr30k picture: `Annotations/ID.xml` beside the folder of sentences."""
    pure = PurePosixPath(path)
    names = (str(pure.parent.parent / folder / f"{pure.stem}.xml") for folder in ("Annotations", "annotations"))
    return tuple(name for name in names if root.exists(name))[:1]


def _flickr(root: SourceRoot, ref: EpisodeRef, item: ItemBuilder) -> RawEpisode:
    """The first sentence answers; all stand in the attributes with their phrases, and the boxes by phrase."""
    key = PurePosixPath(ref.files[0]).stem
    told = vqa_flickr.sentences(root.read(ref.files[0], MAX_TEXT_FILE), ref.files[0])
    item.digested("sentences", told)
    item.attributes |= {"captions": [sentence["text"] for sentence in told], "sentences": told}
    if len(ref.files) > 1:
        size, boxes, without = vqa_flickr.boxes(root.read(ref.files[1], vqa_flickr.MAX_XML), ref.files[1])
        listed = vqa_flickr.named(boxes, told)
        item.digested("boxes", [size, listed, without])
        item.attributes |= {"boxes": {"unit": "px", "size_wh": list(size), "items": listed}, "without_box": without}
    shown = item.find([f"{key}.jpg"], folders=FLICKR_FOLDERS)
    for medium in item.media.values():
        stated = item.attributes.get("boxes", {}).get("size_wh", [medium.width, medium.height])
        if stated != [medium.width, medium.height]:
            raise EpisodeError("size_mismatch", f"the boxes are of {stated}, the picture {medium.width, medium.height}")
    if shown is not None or ref.locator["question"] is not None:
        item.say("user", shown, ref.locator["question"])
    item.say("assistant", told[0]["text"])
    return item.episode(group=f"{key}.jpg")
