"""R2R on graphs: what is read of real files, and files that are not as they should be."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures import r2r_discrete_writer as writer
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.specs.derive import WalkedPath
from dataengine.storage import SourceRoot
from dataengine.transforms.navigation import walked_path

REAL = "navigation/r2r_discrete"


def scan(path, only=None, **options):
    return list(get_format("r2r_discrete").scan(SourceRoot(path), only, options))


def read(path, ref):
    return get_format("r2r_discrete").read(SourceRoot(path), ref)


def names(found):
    return [entry.upstream_id for entry in found if isinstance(entry, EpisodeRef)]


def reasons(found):
    return [(entry.upstream_id, entry.reason) for entry in found if isinstance(entry, ScanProblem)]


class TestReal:
    def test_every_path_is_an_episode_without_graphs(self, data):
        place = data / REAL
        rows = json.loads((place / "R2R_val_seen.json").read_text())
        refs = scan(place, graphs="ignored")
        assert len(refs) == len(names(refs)) == 1021
        assert names(refs)[:3] == [f"R2R_val_seen/5593_{k}" for k in range(3)]
        wanted = [(row["path"], text) for row in rows for text in row["instructions"]]
        for ref, (path, text) in zip(refs, wanted, strict=True):
            episode = read(place, ref)
            assert episode.attributes["viewpoints"] == path
            assert episode.texts == {"instruction": (text,)}
            assert "position" not in episode.arrays
            assert [file.path for file in episode.files] == ["R2R_val_seen.json"]

    def test_paths_with_a_graph_have_the_stored_length(self, data):
        found = scan(data / REAL)
        assert Counter(reason for _, reason in reasons(found)) == {"missing_graph": 338}
        lengths = {}
        for ref in found:
            if isinstance(ref, EpisodeRef):
                episode = read(data / REAL, ref)
                walked = np.linalg.norm(np.diff(episode.arrays["position"], axis=0), axis=1).sum()
                assert abs(walked - episode.attributes["distance"]) < 0.006
                lengths[ref.upstream_id] = round(float(walked), 3)
        assert lengths == {f"R2R_val_seen/{key}_{k}": d for key, d in ((1154, 5.699), (3228, 8.799)) for k in range(3)}

    def test_the_first_hop_of_a_path_that_begins_with_turning_left_lies_left(self, data):
        """Path 3228: "Turn to the left and walk ..."; its first hop lies 50.5 degrees left of the start heading."""
        place = data / REAL
        (ref,) = [ref for ref in scan(place) if ref.upstream_id == "R2R_val_seen/3228_0"]
        episode = convert(read(place, ref), Conversion.load("r2r_discrete_graph"))
        x, y, z = episode.state.values[1]
        assert np.degrees(np.arctan2(y, x)) == pytest.approx(50.467, abs=0.01)
        assert z == pytest.approx(0.846, abs=0.001)
        assert episode.action.values[:, -1].tolist() == [0, 0, 0, 0, 0, 0, 1]
        assert episode.action.mask[-1].tolist() == [False, False, False, True, True]


@pytest.fixture
def r2r(tmp_path):
    return writer.write_r2r(tmp_path)


def test_a_chain_in_the_episode_frame(r2r):
    found = scan(r2r)
    assert names(found) == [f"R2R_val_seen/{key}" for key in ("11_0", "11_1", "13_0", "13_1")]
    assert reasons(found) == [("R2R_val_seen/12", "missing_graph")]
    episode = convert(read(r2r, found[1]), Conversion.load("r2r_discrete_graph"))
    np.testing.assert_allclose(episode.state.values, [[0, 0, 0], [2, 0, 0], [2, 2, 0], [2, 4, 0]], atol=1e-6)
    assert episode.group == "r2r_v1/scanA"
    assert [spoken.text for spoken in episode.language] == ["Walk to the far end."]
    text = convert(read(r2r, scan(r2r, graphs="ignored")[2]), Conversion.load("r2r_discrete"))
    assert (text.state, text.steps, text.attributes["scan"]) == (None, 4, "scanB")


def test_scalevln_is_told_apart_and_converts(tmp_path):
    place = writer.write_scalevln(tmp_path)
    assert get_format("r2r_discrete").detect(SourceRoot(place), None).layout == "scalevln"
    conversion = Conversion.load("scalevln")
    refs = scan(place, **conversion.converter.format.options)
    episode = convert(read(place, refs[1]), conversion)
    assert episode.upstream_id == "annotations/R2R_scalevln_ft_aug_enc/Adrian_1_0"
    assert episode.state.values[-1].tolist() == [2, 4, 0]
    assert scan(place, annotations=["R2R_train_enc"]) == []


def test_lines_with_their_own_ids(tmp_path):
    row = writer.path("scanA", 1, [])
    del row["instructions"], row["path_id"], row["heading"]
    lines = [{**row, "instr_id": f"{k}_0", "instruction": "Go."} for k in (1, 2)] + [{**row, "instr_id": "3_0"}]
    (tmp_path / "R2R_train_enc.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = scan(tmp_path, graphs="ignored")
    assert names(found) == ["R2R_train_enc/1_0_0", "R2R_train_enc/2_0_0"]
    assert reasons(found) == [("R2R_train_enc/row 2", "missing_key")]
    assert sorted(read(tmp_path, found[0]).arrays) == ["hop"]


def test_a_neighbour_changes_neither_name_nor_digest(tmp_path):
    few, more = writer.write_r2r(tmp_path / "few"), writer.write_r2r(tmp_path / "more")
    rows = json.loads((more / "R2R_val_seen.json").read_text())
    writer.write_json(more / "R2R_val_seen.json", [writer.path("scanA", 1, ["Wait."]), *rows])
    one, two = (
        {e.upstream_id: read(p, e).raw_digest for e in scan(p) if isinstance(e, EpisodeRef)} for p in (few, more)
    )
    assert one.items() < two.items()
    assert len(set(two.values())) == 5


def test_files_beside_are_passed_over(r2r):
    writer.write_json(r2r / "scanvp_candview_relangles.json", {"a_b": {}})
    writer.write_json(r2r / "info.json", [{"id": 1}])
    assert len(names(scan(r2r))) == 4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"[]", "empty_file"),
        (b'[{"scan": "a", "path": ["b"], "path_id": 1, "instructions": ["c"]}', "truncated"),
        (b'[{"scan": "\xff", "path": []}]', "invalid_utf8"),
        (b"[" * 100_000, "json_too_deep"),
    ],
)
def test_damaged_annotations_have_reasons(tmp_path, data, reason):
    (tmp_path / "R2R_train.json").write_bytes(data)
    assert reasons(scan(tmp_path, graphs="ignored")) == [("R2R_train.json", reason)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"path": []}, "empty_episode"),
        ({"path": "abc"}, "bad_type"),
        ({"path": [1]}, "bad_type"),
        ({"scan": None}, "bad_type"),
        ({"path_id": None}, "bad_type"),
        ({"path_id": 2**70}, "bad_value"),
        ({"instructions": []}, "missing_stream"),
        ({"instructions": [7]}, "bad_type"),
        ({"instructions": ["a\0"]}, "bad_text"),
    ],
)
def test_rows_that_are_none(tmp_path, change, reason):
    writer.write_json(
        tmp_path / "R2R_train.json", [writer.path("s", 1, ["Go."]) | change, writer.path("s", 2, ["Go."])]
    )
    found = scan(tmp_path, graphs="ignored")
    assert reasons(found) == [("R2R_train/row 0", reason)]
    assert names(found) == ["R2R_train/2_0"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"heading": 170.0}, "bad_value"),
        ({"heading": -1e9}, "bad_value"),
        ({"heading": "3"}, "bad_type"),
        ({"instructions": [" \n"]}, "missing_stream"),
    ],
)
def test_a_heading_in_degrees_and_a_blank_instruction_are_told(tmp_path, change, reason):
    rows = [writer.path("s", 1, ["Go."]) | change, writer.path("s", 2, ["Go."]) | {"heading": 6.283}]
    writer.write_json(tmp_path / "R2R_train.json", rows)
    bad, good = scan(tmp_path, graphs="ignored")
    with pytest.raises(EpisodeError) as caught:
        get_format("r2r_discrete").read(SourceRoot(tmp_path), bad)
    assert caught.value.reason == reason
    assert get_format("r2r_discrete").read(SourceRoot(tmp_path), good).arrays["heading"].tolist() == [6.283]


def test_a_first_row_that_is_none_costs_no_other(tmp_path):
    rows = [writer.path("s", number, ["Go.", "Walk."]) for number in (1, 2)]
    writer.write_json(tmp_path / "R2R_train.json", [{key: rows[0][key] for key in rows[0] if key != "scan"}, rows[1]])
    found = scan(tmp_path, graphs="ignored")
    assert names(found) == ["R2R_train/2_0", "R2R_train/2_1"]
    assert reasons(found) == [("R2R_train/row 0", "missing_key")]
    assert get_format("r2r_discrete").detect(SourceRoot(tmp_path), None) is not None


def test_an_id_that_stands_twice(tmp_path):
    writer.write_json(tmp_path / "R2R_train.json", [writer.path("s", 1, ["Go."])] * 2)
    found = reasons(scan(tmp_path, graphs="ignored"))
    assert found == [(f"R2R_train/1 (row {k})", "duplicate_episode") for k in (0, 1)]


def test_strict_json_of_the_row_itself(tmp_path):
    text = json.dumps([writer.path("s", 1, ["Go."])]).replace('"heading": 0.0', '"heading": NaN')
    (tmp_path / "R2R_train.json").write_text(text)
    (ref,) = scan(tmp_path, graphs="ignored")
    with pytest.raises(EpisodeError) as caught:
        read(tmp_path, ref)
    assert caught.value.reason == "json_nan"


def _node(number, **change):
    def apply(nodes):
        nodes[number].update(change)

    return apply


def _cut(nodes):
    nodes[0]["unobstructed"][1] = nodes[1]["unobstructed"][0] = False


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_node(0, pose=[1] * 16), "bad_rotation"),
        (_node(0, pose=[0] * 15), "bad_shape"),
        (_node(0, image_id=writer.viewpoint("scanA", 1)), "duplicate_name"),
        (_node(0, included=1), "bad_type"),
        (_node(1, included=False), "unknown_viewpoint"),
        (_node(1, image_id="other"), "unknown_viewpoint"),
        (_node(1, unobstructed=[True]), "bad_shape"),
        (_cut, "not_connected"),
    ],
)
def test_graphs_that_do_not_fit(r2r, damage, reason):
    nodes = writer.graph("scanA")
    damage(nodes)
    writer.write_json(r2r / "scanA_connectivity.json", nodes)
    with pytest.raises(BadInput) as caught:
        read(r2r, scan(r2r)[0])
    assert caught.value.reason == reason


def test_one_graph_in_two_folders_is_one_and_two_are_not(r2r):
    writer.write_json(r2r / "copy/scanA_connectivity.json", writer.graph("scanA"))
    assert len(names(scan(r2r))) == 4
    writer.write_json(r2r / "copy/scanA_connectivity.json", [])
    assert Counter(reason for _, reason in reasons(scan(r2r))) == {"duplicate_graph": 2, "missing_graph": 1}


def test_a_file_changed_after_the_scan(r2r):
    ref = scan(r2r)[0]
    writer.write_json(r2r / "R2R_val_seen.json", [])
    with pytest.raises(BadInput) as caught:
        read(r2r, ref)
    assert caught.value.reason == "changed_during_read"


def test_detection_says_whether_graphs_are_there(r2r, data):
    found = get_format("r2r_discrete").detect(SourceRoot(r2r), None)
    assert (found.layout, found.options) == ("r2r_discrete", {})
    assert get_format("r2r_discrete").detect(SourceRoot(data / REAL), None).options == {"graphs": "ignored"}


def test_options(r2r):
    with pytest.raises(SpecError, match="required or ignored"):
        scan(r2r, graphs="maybe")
    with pytest.raises(SpecError, match="option"):
        scan(r2r, graph="ignored")


class TestWalkedPath:
    SPEC = WalkedPath(
        kind="walked_path",
        rows="position",
        position="position",
        heading="yaw",
        zero="x",
        grows="left",
        evidence="-",
        status="from_code",
    )

    def test_headings_of_every_row(self):
        """Facing +y, one metre on, then turned left: x ahead, y left; planar places have no height."""
        arrays = {"position": np.array([[5.0, 5], [5, 6], [4, 6]]), "yaw": np.array([[np.pi / 2], [np.pi], [-3.0]])}
        found = walked_path(self.SPEC, arrays)
        np.testing.assert_allclose(found["derived/position"], [[0, 0, 0], [1, 0, 0], [1, 1, 0]], atol=1e-12)
        np.testing.assert_allclose(found["derived/yaw"], [0, np.pi / 2, 2 * np.pi - 3 - np.pi / 2])
        assert found["derived/stop"].tolist() == [0, 0, 1]

    @pytest.mark.parametrize(
        ("arrays", "reason"),
        [
            ({"yaw": np.zeros(2)}, "missing_stream"),
            ({"position": np.zeros((0, 2)), "yaw": np.zeros(0)}, "empty_episode"),
            ({"position": np.zeros((3, 2)), "yaw": np.zeros(2)}, "length_mismatch"),
            ({"position": np.zeros((3, 4)), "yaw": np.zeros(3)}, "bad_shape"),
            ({"position": np.full((3, 2), np.nan), "yaw": np.zeros(3)}, "bad_value"),
            ({"position": np.zeros((3, 2)), "yaw": np.array(["a"] * 3)}, "bad_shape"),
            ({"position": np.zeros((3, 2)), "yaw": np.float64(1.0)}, "bad_shape"),
        ],
    )
    def test_what_is_no_path(self, arrays, reason):
        with pytest.raises(EpisodeError) as caught:
            walked_path(self.SPEC, {name: np.asarray(value) for name, value in arrays.items()})
        assert caught.value.reason == reason

    def test_half_a_declaration_is_refused(self):
        with pytest.raises(ValueError, match="go together"):
            WalkedPath(kind="walked_path", rows="hop", position="position", evidence="-", status="from_code")
