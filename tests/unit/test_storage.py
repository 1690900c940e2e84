"""Storage: only regular files below the root are read, and a name holds the whole content or nothing."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dataengine.errors import ConflictError, FormatError
from dataengine.storage import SourceRoot, Store


@pytest.fixture
def root(tmp_path: Path) -> SourceRoot:
    (tmp_path / "outside.txt").write_text("secret")
    folder = tmp_path / "source"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.bin").write_bytes(b"abc")
    (folder / "empty.bin").touch()
    (folder / "link_in.bin").symlink_to(folder / "inner" / "a.bin")
    (folder / "link_out.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return SourceRoot(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside.txt", "path_outside_root"),
        ("/etc/passwd", "path_outside_root"),
        ("a\0b", "path_outside_root"),
        ("link_out.txt", "path_outside_root"),
        ("missing", "missing_file"),
        ("inner", "not_a_regular_file"),
        ("pipe", "not_a_regular_file"),
        ("loop", "unreadable_file"),
        ("empty.bin", "empty_file"),
    ],
)
def test_what_is_no_plain_file_below_the_root_is_refused(root: SourceRoot, name: str, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        root.read(name)
    assert caught.value.reason == reason


def test_links_inside_are_followed_and_listed(root: SourceRoot) -> None:
    assert root.read("link_in.bin") == b"abc"
    assert root.glob("**/*") == ["empty.bin", "inner/a.bin", "link_in.bin"]
    assert root.describe("inner/a.bin").bytes == 3


def test_a_file_that_changes_while_it_is_read_is_told(root: SourceRoot) -> None:
    with pytest.raises(FormatError) as caught, root.unchanged("inner/a.bin"):
        (root.path / "inner" / "a.bin").write_bytes(b"other")
    assert caught.value.reason == "changed_during_read"


def test_publish_is_create_if_absent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.publish("refs/one", b"x")
    assert not store.publish("refs/one", b"x")
    with pytest.raises(ConflictError):
        store.publish("refs/one", b"y")
    assert store.read("refs/one") == b"x"
    assert store.files() == ["refs/one"]
    assert not list((tmp_path / "staging").iterdir())


def test_of_many_publishers_exactly_one_creates(tmp_path: Path) -> None:
    store, outcomes = Store(tmp_path), []

    def publish(number: int) -> None:
        try:
            outcomes.append((store.publish("refs/v", bytes([number % 2])), number % 2))
        except ConflictError:
            outcomes.append((None, number % 2))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    created = [content for made, content in outcomes if made]
    assert len(created) == 1
    assert store.read("refs/v") == bytes(created)
    assert all((made is None) == (content != created[0]) for made, content in outcomes if not made)
