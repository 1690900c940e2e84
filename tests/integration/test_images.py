"""The recipe's images: sizes and codecs by view, which views are stored, sources with their own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from dataengine import api, images
from dataengine.errors import SpecError
from dataengine.loader import open_mixture
from dataengine.mixture.store import MixtureStore
from dataengine.shards.samples import estimated_frame_bytes
from dataengine.specs.recipe import ImageSpec, Recipe

RECIPE = """
name: pictures
sources:
  - {{converter: bridge_octo, split: train, require: [], path: "{data}/robot/rlds_octo_bridge" {bridge}}}
  - {{converter: pusht_lerobot, split: train, path: "{data}/robot/lerobot_v30_pusht" {pusht}}}
window: {{chunk: {{steps: 4}}, stride: 5, history: 2}}
images: {images}
shards: {{buckets: {{train: 2}}}}
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images") / "L"


def build(data: Path, lake: Path, out: Path, images: str, bridge: str = "", pusht: str = "") -> api.BuildOutcome:
    path = out.with_suffix(".yaml")
    path.write_text(RECIPE.format(data=data, images=images, bridge=bridge, pusht=pusht))
    return api.build(str(path), lake, out, engine="local", workers=1)


def shown(out: Path) -> dict[str, dict[str, set[Any]]]:
    """By converter and view the extensions and (height, width) of its images, as Pillow reads them."""
    found: dict[str, dict[str, set[Any]]] = {}
    ds = open_mixture(out, normalize=False)
    for place in range(len(ds)):
        members = ds.raw(place)
        facts = orjson.loads(members["json"])
        views = found.setdefault(facts["converter"], {})
        stored = {name for name in members if name.endswith((".jpg", ".png"))}
        assert {name.partition(".")[0] for name in stored} == facts["views"].keys() == facts["offsets_ns"].keys()
        for name in stored:
            view, _, rest = name.partition(".")
            with Image.open(io.BytesIO(members[name])) as image:
                assert image.format == {"jpg": "JPEG", "png": "PNG"}[rest.rpartition(".")[2]]
                views.setdefault(view, set()).add((rest.rpartition(".")[2], image.height, image.width))
            assert (image.height, image.width) == (facts["views"][view]["height"], facts["views"][view]["width"])
    return found


def test_views_have_sizes_of_their_own_or_are_left_out(tmp_path: Path, data: Path, lake: Path) -> None:
    build(
        data, lake, tmp_path / "M", "{size: [32, 32], views: {ext_2: {size: null}, ext_3: null, front: {codec: png}}}"
    )
    assert shown(tmp_path / "M") == {
        "bridge_octo": {"ext_1": {("jpg", 32, 32)}, "ext_2": {("jpg", 64, 64)}},
        "pusht_lerobot": {"front": {("png", 32, 32)}},
    }
    report = api.verify(str(tmp_path / "M"))
    assert not report.problems


def test_only_the_views_to_keep_are_stored_and_a_source_may_have_others(tmp_path: Path, data: Path, lake: Path) -> None:
    own = ", images: {keep: [ext_2, ext_3], size: [20, 30], fit: stretch}"
    build(data, lake, tmp_path / "M", "{keep: [front]}", bridge=own)
    assert shown(tmp_path / "M") == {
        "bridge_octo": {"ext_2": {("jpg", 20, 30)}, "ext_3": {("jpg", 20, 30)}},
        "pusht_lerobot": {"front": {("jpg", 96, 96)}},
    }


def test_codecs(tmp_path: Path, data: Path, lake: Path) -> None:
    """`keep` leaves JPEGs as they came, `jpeg` encodes them anew, `png` is what they decode to, bit for bit."""
    pictures: dict[str, dict[str, Any]] = {}
    for codec, quality in (("keep", 90), ("jpeg", 90), ("jpeg", 40), ("png", 90)):
        out = tmp_path / f"{codec}{quality}"
        build(data, lake, out, f"{{codec: {codec}, quality: {quality}}}")
        ds = open_mixture(out, normalize=False)
        pictures[out.name] = {ds[n].key: ds.raw(n) for n in range(len(ds))}
    sizes = {
        name: sum(len(m[k]) for m in f.values() for k in m if "jpg" in k or "png" in k) for name, f in pictures.items()
    }
    print(f"bytes of the pictures: {sizes}")
    assert sizes["jpeg40"] < 0.7 * sizes["jpeg90"] < sizes["png90"]
    untouched = 0
    for key, kept in pictures["keep90"].items():
        lossless = pictures["png90"][key]
        video = "front.jpg" in kept
        for name in (name for name in kept if name.endswith(".jpg")):
            exact = images.decode(lossless[name.replace(".jpg", ".png")])
            if video:
                assert kept[name] == images.encode(exact, "jpeg", 90)
            else:
                np.testing.assert_array_equal(exact, images.decode(kept[name]))
                assert pictures["jpeg90"][key][name] == images.encode(exact, "jpeg", 90) != kept[name]
                untouched += 1
            assert pictures["jpeg40"][key][name] == images.encode(exact, "jpeg", 40)
    assert untouched > 50


@pytest.mark.parametrize(
    ("common", "bridge", "told"),
    [
        ("{keep: [front, wrist]}", "", "unknown view 'wrist'"),
        ("{views: {ext_9: null}}", "", "did you mean 'ext_"),
        ("{}", ", images: {views: {front: null}}", "unknown view of bridge_octo 'front'"),
        ("{keep: [ext_1]}", ", images: {size: [8, 8]}", "unknown view 'ext_1'"),
    ],
)
def test_a_view_that_no_source_has_is_named(
    tmp_path: Path, data: Path, lake: Path, common: str, bridge: str, told: str
) -> None:
    for function in (api.build, api.plan):
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.format(data=data, images=common, bridge=bridge, pusht=""))
        with pytest.raises(SpecError) as caught:
            function(str(path), lake, tmp_path / "M", workers=1)
        assert told in str(caught.value)
        assert "known: " in str(caught.value)


def test_a_view_is_kept_or_left_out_not_both() -> None:
    for bad in ({"keep": ["a"], "views": {"b": {"size": [4, 4]}}}, {"keep": ["a"], "views": {"a": None}}):
        with pytest.raises(SpecError, match="is kept by one of"):
            ImageSpec.parse(bad, "here")
    with pytest.raises(SpecError, match=r"size\.0"):
        ImageSpec.parse({"size": [0, 4]}, "here")


def test_defaults_leave_digests_as_they_were_and_what_is_said_changes_tasks(
    tmp_path: Path, data: Path, lake: Path
) -> None:
    assert ImageSpec().canonical() == {"size": None, "fit": "inside", "upscale": False, "quality": 90}
    plain = Recipe.parse({"name": "x", "sources": [{"converter": "a"}]}, "here").resolved()
    assert "layout" not in plain
    assert "images" not in plain["sources"][0]
    said = {"views": {"w": {"size": None}, "v": None}, "keep": ["w"], "codec": "png"}
    again = Recipe.parse({"name": "x", "sources": [{"converter": "a", "images": said}]}, "here")
    assert again.resolved()["sources"][0]["images"] == {**plain["images"], **said}
    assert Recipe.parse(again.resolved(), "again").resolved() == again.resolved()

    def digests(images: str, **own: str) -> dict[str, str]:
        out = tmp_path / "M"
        build(data, lake, out, images, **own)
        store = MixtureStore(out)
        return {shard.bucket: shard.task_digest for shard in store.manifest(store.latest() or "")[1].shards}

    first = digests("{size: [32, 32]}")
    assert digests("{size: [32, 32], codec: keep}") == first
    others = [
        digests("{size: [32, 32], codec: png}"),
        digests("{size: [32, 32], keep: [front]}"),
        digests("{size: [32, 32], views: {ext_1: null}}"),
        digests("{size: [32, 32]}", bridge=", images: {size: [16, 16]}"),
    ]
    assert len({value for found in (first, *others) for value in found.values()}) == len(first) * 5


def test_sizes_are_estimated_from_what_is_stored(tmp_path: Path, data: Path, lake: Path) -> None:
    class Stream:
        kind, codec, frames, height, width, size = "images", "jpeg", 10, 100, 200, 50_000

    def of(**said: Any) -> float:
        return estimated_frame_bytes(ImageSpec.parse(said, "here"), ["v", "w"], Stream())  # type: ignore[arg-type]

    assert of() == 5000
    assert of(codec="jpeg") == 100 * 200 * 0.25
    assert of(codec="png") == 100 * 200 * 1.5
    assert of(size=[50, 50], fit="stretch") == 50 * 50 * 0.25
    assert of(views={"v": None, "w": {"size": [50, 50]}}) == 25 * 50 * 0.25
    assert of(keep=[]) == 0
