"""What readers of vision-language items share: finding the listed media, and putting an item together.

A listed path is looked up in the folders that the option `media_roots` names, in order, after the option
`strip_prefix` was cut off. A medium that is not there drops the item (`missing_media`), unless the option
`media: optional` asks for the text alone.

A helper of formats, not a format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from dataengine import images, video
from dataengine.documents import sha256_bytes
from dataengine.episode import Media, Message, RawDigest, RawEpisode, images_media
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import fields
from dataengine.formats.base import option_names
from dataengine.storage import SourceFile, SourceRoot

Kind = Literal["image", "video"]
Part = Mapping[str, str]
MEDIA_OPTIONS = ("media", "media_roots", "strip_prefix")
MAX_IMAGE = 1 << 28
MAX_VIDEO = 1 << 32


def media_options(options: Mapping[str, Any], roots: Sequence[str] = (".",)) -> dict[str, Any]:
    """The options of `MEDIA_OPTIONS` as plain JSON for a locator; a wrong one is a `SpecError`."""
    prefix = option_names({"strip_prefix": [options.get("strip_prefix", "")]}, "strip_prefix", ())[0]
    media = options.get("media", "required")
    if media not in ("required", "optional"):
        raise SpecError(f"the option `media` is required or optional, not {media!r}", fix="correct `format.options`")
    found = list(option_names(options, "media_roots", roots))
    return {"media_roots": found, "strip_prefix": prefix, "media": media}


def text_option(options: Mapping[str, Any], name: str) -> str | None:
    """An option that is a text, None where it is left out; another type is a `SpecError`."""
    value = options.get(name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise SpecError(f"the option `{name}` is a text, not {value!r}", fix="correct `format.options`")
    return value


def find_media(root: SourceRoot, name: str, listed: Sequence[str], folders: Iterable[str], prefix: str = "") -> str:
    """The path below the root of a medium: the first of its listed paths in the first folder that holds one.

    Raises `EpisodeError` `missing_media`, and what `SourceRoot.locate` says of a path that must not be opened.
    """
    folders = list(folders)
    for one in listed:
        bare = one.removeprefix(prefix)
        if not bare.strip():
            raise EpisodeError("missing_media", f"{name} has an empty path")
        for folder in folders:
            path = f"{folder}/{bare}" if folder not in (".", "") and not bare.startswith("/") else bare
            try:
                root.locate(path)
            except FormatError as error:
                if error.reason == "missing_file":
                    continue
                raise EpisodeError(error.reason, f"{name}: {error.what}", where=path[:200]) from None
            return str(PurePosixPath(path))
    told = ", ".join(repr(one.removeprefix(prefix)[:200]) for one in listed[:3])
    raise EpisodeError("missing_media", f"{name}: {told} is in none of {', '.join(folders)}")


def load_media(root: SourceRoot, name: str, kind: Kind, path: str) -> Media:
    """One picture or video, bytes untouched. Raises `EpisodeError`."""
    try:
        data = root.read(path, limit=MAX_IMAGE if kind == "image" else MAX_VIDEO)
        return video.whole(name, data) if kind == "video" else picture(name, data)
    except BadInput as error:
        raise EpisodeError(error.reason, f"{name} ({path}): {error.what}", where=path) from None


def picture(name: str, data: bytes) -> Media:
    """One encoded picture as a medium, bytes untouched. Raises `EpisodeError`."""
    header = images.sniff(data)
    return images_media(name, header.codec, [data], header.height, header.width)


@dataclass
class ItemBuilder:
    """Collects what one item is made of. `places` are `media_options`; every piece goes into the digest."""

    root: SourceRoot
    upstream_id: str
    places: Mapping[str, Any] = field(default_factory=lambda: media_options({}))
    digest: RawDigest = field(default_factory=RawDigest)
    files: list[SourceFile] = field(default_factory=list)
    media: dict[str, Media] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)

    def use(self, *paths: str) -> None:
        """Name files that the item comes from."""
        self.files += [self.root.describe(path) for path in paths]

    def digested(self, name: str, value: Any) -> None:
        """A parsed JSON value that the item comes from, into the digest; `bad_value` where it has no JSON."""
        self.digest.add_bytes(name, fields.canonical(value, name))

    def find(self, listed: Sequence[str], kind: Kind = "image", folders: Sequence[str] = ()) -> Part | None:
        """The part of a message that shows a listed medium; None for an absent one that is optional.

        `folders` are tried besides, below each of `media_roots`.
        """
        roots = self.places["media_roots"]
        tried = [*roots, *(f"{at}/{folder}" for at in roots for folder in folders)]
        name = self._next(kind)
        try:
            path = find_media(self.root, name, listed, tried, self.places["strip_prefix"])
        except EpisodeError as error:
            if error.reason != "missing_media" or self.places["media"] == "required":
                raise
            self.missing.append(listed[0])
            return None
        with self.root.unchanged(path):
            self.media[name] = load_media(self.root, name, kind, path)
            self.use(path)
        self.digest.add_bytes(name, self.files[-1].sha256.encode())
        return {"type": kind, "media": name}

    def held(self, data: bytes, what: str) -> Part:
        """The part of a message that shows a picture whose bytes are in the source's own file."""
        name = self._next("image")
        try:
            self.media[name] = picture(name, data)
        except EpisodeError as error:
            raise EpisodeError(error.reason, f"{name} ({what}): {error.what}") from None
        self.digest.add_bytes(name, sha256_bytes(data).encode())
        return {"type": "image", "media": name}

    def _next(self, kind: Kind) -> str:
        return f"{kind}{sum(name.startswith(kind) for name in self.media)}"

    def say(self, role: Literal["system", "user", "assistant"], *parts: Part | str | None) -> None:
        """One message of texts and media; empty texts and absent media are left out, a message of nothing or of
        blanks is an error."""
        content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts if part]
        if all(part["type"] == "text" and not part["text"].strip() for part in content):
            raise EpisodeError("empty_message", f"message {len(self.messages)} ({role}) says nothing")
        self.messages.append(Message(role, tuple(content), role == "assistant"))

    def episode(self, group: str | None = None) -> RawEpisode:
        """The item; `group` keeps items about one picture on one side of a split."""
        if self.missing:
            self.attributes["missing_media"] = list(self.missing)
        return RawEpisode(
            upstream_id=self.upstream_id,
            files=tuple(dict.fromkeys(self.files)),
            raw_digest=self.digest.hexdigest(),
            media=self.media,
            attributes=self.attributes,
            messages=tuple(self.messages),
            group=self.upstream_id if group is None else group,
        )
