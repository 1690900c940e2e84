"""Statistics: the same document in any order, the loader's own population, and hard channels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dataengine.documents import canonical_json
from dataengine.episode import SlotArray
from dataengine.errors import EpisodeError, FormatError, SchemaError
from dataengine.geometry import matrix_to_rot6d
from dataengine.normalization.channel import ChannelStatistics, Pool
from dataengine.normalization.statistics import Statistics
from dataengine.schema import unified
from dataengine.transforms.representation import REPRESENTATIONS, to_representation

CHANNELS = np.array([0, 1, *range(7, 17), 160, 240, 241], np.int16)  # joints, pose, gripper, eef_step x, native
FRAMES = dict.fromkeys(("arm_joint.right", "eef_pos.right", "eef_rot6d.right", "gripper.right", "native"), "base")
UNITS = {"state/240": "px512", "action/240": "px512", "state/241": "px512", "action/241": "ctrl"}
HORIZON = 5


def slots(values, mask=None, channels=CHANNELS) -> SlotArray:
    values = np.asarray(values, np.float32)
    return SlotArray(np.asarray(channels, np.int16), values, np.ones(values.shape, bool) if mask is None else mask)


@dataclass(frozen=True)
class Sample:
    """Arguments of `add_episode`, so that a test changes one of them."""

    uid: str
    state: SlotArray | None
    action: SlotArray | None
    embodiment: str = "arm"
    control_mode: str = "pose"
    converter: str = "demo"
    state_frames: dict = field(default_factory=lambda: dict(FRAMES))
    action_frames: dict = field(default_factory=lambda: FRAMES | {"eef_step_pos.right": "base"})
    native_units: dict = field(default_factory=lambda: dict(UNITS))
    hz: float = 10.0
    horizon: int = HORIZON
    representations: tuple = REPRESENTATIONS

    def add_to(self, statistics: Statistics) -> Statistics:
        statistics.add_episode(
            episode_uid=self.uid,
            embodiment=self.embodiment,
            control_mode=self.control_mode,
            converter=self.converter,
            state=self.state,
            action=self.action,
            state_frames=self.state_frames,
            action_frames=self.action_frames,
            native_units=self.native_units,
            hz=self.hz,
            horizon=self.horizon,
            representations=self.representations,
        )
        return statistics


def sample(seed: int, rows: int = 12) -> Sample:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, rows, len(CHANNELS)))
    for side in range(2):
        values[side, :, 5:11] = matrix_to_rot6d(Rotation.random(rows, rng=rng).as_matrix())
        values[side, :, 11] = rng.random(rows) > 0.5
    mask = rng.random((2, rows, len(CHANNELS))) > 0.1
    keep = CHANNELS != 160  # eef_step holds no state
    return Sample(
        f"episode-{seed}",
        slots(values[0][:, keep], mask[0][:, keep], CHANNELS[keep]),
        slots(values[1], mask[1]),
    )


def gathered(*samples: Sample) -> Statistics:
    result = Statistics()
    for one in samples:
        one.add_to(result)
    return result


def entries(statistics: Statistics, key: str = "arm/pose", side: str = "action", form: str = "absolute") -> dict:
    return {item["channel"]: item for item in statistics.document()["groups"][key][side][form]}


def one_channel(values, channel: int = 7, *, mask=None) -> dict:
    """The absolute entry of one action channel (7: eef_pos x, m)."""
    array = np.asarray(values, np.float32)[:, None]
    action = slots(array, None if mask is None else np.asarray(mask)[:, None], [channel])
    key = unified().slot_at(channel).key
    statistics = gathered(
        Sample("u", None, action, action_frames={key: "base"}, native_units={"action/240": "ctrl"},
               representations=("absolute",))
    )  # fmt: skip
    return entries(statistics, "arm/pose/demo" if key == "native" else "arm/pose")[channel]


# --- order ----------------------------------------------------------------------------------------------------------


def test_a_hundred_merge_orders_give_the_same_bits():
    samples = [sample(seed, rows=4 + seed % 6) for seed in range(8)]
    whole = gathered(*samples)
    data, document = whole.to_bytes(), canonical_json(whole.document())
    for seed in range(100):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(samples))
        parts = [
            gathered(*(samples[i] for i in group))
            for group in np.split(order, np.sort(rng.integers(0, len(samples), rng.integers(1, 6))))
        ]
        while len(parts) > 1:
            taken = parts.pop(rng.integers(len(parts)))
            if rng.random() < 0.5:
                taken = Statistics.from_bytes(taken.to_bytes())
            parts[rng.integers(len(parts))].merge(taken)
        assert parts[0].to_bytes() == data
    assert canonical_json(parts[0].document()) == document


def test_coarse_bins_merge_to_the_same_bits():
    """Enough distinct values that bins are coarse, in pieces that are exact by themselves."""
    rng = np.random.default_rng(0)
    parts = [
        Sample(f"e{i}", None, slots(rng.normal(0, 10.0 ** (i % 5), (20_000, 1)), None, [7]),
               representations=("absolute",))
        for i in range(6)
    ]  # fmt: skip
    whole = gathered(*parts).to_bytes()
    assert entries(Statistics.from_bytes(whole))[7]["bin_level"] > 0
    for seed in range(5):
        merged = Statistics()
        for i in np.random.default_rng(seed).permutation(len(parts)):
            merged.merge(gathered(parts[i]))
        assert merged.to_bytes() == whole


def test_bytes_come_back_and_a_changed_byte_is_seen():
    data = gathered(sample(0), sample(1)).to_bytes()
    back = Statistics.from_bytes(data)
    assert back.to_bytes() == data
    assert canonical_json(back.document()) == canonical_json(gathered(sample(0), sample(1)).document())
    for position in range(0, len(data), 97):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(FormatError) as caught:
            Statistics.from_bytes(bytes(broken))
        assert caught.value.reason == "digest_mismatch"
    with pytest.raises(FormatError):
        Statistics.from_bytes(data[:-1])


def test_population_is_the_set_of_episodes():
    def population(*seeds: int) -> tuple[str, int]:
        group = gathered(*(sample(seed) for seed in seeds)).document()["groups"]["arm/pose"]
        return group["population"], group["episodes"]

    assert population(1, 2) == population(2, 1)
    assert population(1, 2) != population(1, 3)
    assert population(1, 2)[1] == 2
    assert population(1, 2)[0] != population(1)[0]


# --- population -----------------------------------------------------------------------------------------------------


def loader_windows(one: Sample, form: str) -> dict[int, list[float]]:
    """What a loader with stride 1 yields: sample after sample, padding masked."""
    found: dict[int, list[float]] = {int(c): [] for c in CHANNELS}
    action, state = one.action, one.state
    for start in range(len(action.values)):
        steps = np.minimum(start + np.arange(HORIZON), len(action.values) - 1)
        pad = start + np.arange(HORIZON) >= len(action.values)
        values, mask = to_representation(
            form, action.values[None, steps], action.mask[None, steps] & ~pad[:, None], CHANNELS,
            state.values[None, start], state.mask[None, start], state.channels, frozenset({240}),
        )  # fmt: skip
        for column, channel in enumerate(CHANNELS.tolist()):
            found[channel].extend(values[0, :, column][mask[0, :, column]].tolist())
    return found


@pytest.mark.parametrize("form", ["relative", "relative_base", "delta"])
def test_moving_channels_count_what_the_loader_yields(form):
    one = sample(3, rows=14)
    expected = loader_windows(one, form)
    statistics = gathered(one)
    found = entries(statistics, form=form) | entries(statistics, "arm/pose/demo", form=form)
    for channel in (0, 1, *range(7, 16), 240):
        values = np.array(expected[channel])
        entry = found[channel]
        assert (entry["n"], entry["min"], entry["max"]) == (len(values), values.min(), values.max())
        assert entry["mean"] == pytest.approx(values.mean(), abs=1e-9)
        assert (entry["q01"], entry["q99"]) == tuple(np.quantile(values, (0.01, 0.99)))
        assert (entry["hz"], entry["horizon"]) == ([10.0, 10.0], HORIZON)


def test_flat_channels_count_each_step_once_in_every_representation():
    one = sample(4, rows=14)
    statistics = gathered(one)
    absolute = entries(statistics) | entries(statistics, "arm/pose/demo")
    for column, channel in enumerate(CHANNELS.tolist()):
        values = one.action.values[:, column][one.action.mask[:, column]].astype(np.float64)
        assert absolute[channel]["n"] == len(values)
        assert (absolute[channel]["min"], absolute[channel]["max"]) == (values.min(), values.max())
        assert absolute[channel]["q01"] == np.quantile(values, 0.01)
        assert absolute[channel]["std"] == pytest.approx(values.std(), rel=1e-9)
    for form in ("relative", "relative_base", "delta"):
        found = entries(statistics, form=form) | entries(statistics, "arm/pose/demo", form=form)
        assert found.keys() == absolute.keys()
        for channel in (16, 160, 241):  # gripper, command, native of another unit
            assert found[channel] == absolute[channel]
    state = entries(statistics, side="state")
    assert state[0]["n"] == int(one.state.mask[:, 0].sum())


def test_window_counts_by_hand():
    """4 rows, horizon 3, nothing masked: starts 0..3 give 3 + 3 + 2 + 1 = 9 values, never the 12 of padded windows."""
    rows = np.array([[0.0], [1.0], [3.0], [6.0]])
    one = Sample("u", slots(rows, None, [0]), slots(rows, None, [0]), horizon=3)
    statistics = gathered(one)
    assert entries(statistics)[0]["n"] == 4
    relative = entries(statistics, form="relative")[0]
    # t0: 0 1 3; t1: 0 2 5; t2: 0 3; t3: 0
    assert (relative["n"], relative["max"], relative["mean"]) == (9, 5.0, round(14 / 9, 11))
    # t0: 0 1 2; t1: 0 2 3; t2: 0 3; t3: 0
    delta = entries(statistics, form="delta")[0]
    assert (delta["n"], delta["max"], delta["mean"]) == (9, 3.0, round(11 / 9, 11))


def test_windows_in_blocks_are_the_same(monkeypatch):
    whole = gathered(sample(5, rows=40)).to_bytes()
    monkeypatch.setattr("dataengine.normalization.population._WINDOW_VALUES", 100)
    assert gathered(sample(5, rows=40)).to_bytes() == whole


def test_without_state_relative_forms_are_empty_and_without_both_nothing_is_counted():
    one = sample(6)
    found = entries(gathered(replace(one, state=None)), form="relative")
    assert (found[0]["class"], found[0]["n"], found[0]["low"]) == ("empty", 0, None)
    assert found[16]["class"] != "empty"
    assert gathered(replace(one, state=None, action=None)).document()["groups"] == {}


def test_native_never_pools_across_converters():
    other = replace(sample(1), converter="other", native_units={
        "state/240": "pm100", "action/240": "pm100", "state/241": "pm100", "action/241": "pm100",
    })  # fmt: skip
    document = gathered(sample(0), other).document()
    assert list(document["groups"]) == ["arm/pose", "arm/pose/demo", "arm/pose/other"]
    assert document["groups"]["arm/pose"]["episodes"] == 2
    assert document["groups"]["arm/pose/other"]["episodes"] == 1
    assert {e["unit"] for e in document["groups"]["arm/pose/other"]["state"]["absolute"]} == {"pm100"}
    assert all(e["slot"] != "native" for e in document["groups"]["arm/pose"]["action"]["absolute"])


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"action_frames": FRAMES | {"eef_step_pos.right": "base", "arm_joint.right": "x"}}, "frame base .* frame x"),
        ({"hz": 20.0}, r"hz \(10.0, 10.0\) .* hz \(20.0, 20.0\)"),
        ({"horizon": 8}, "horizon 5 .* horizon 8"),
        ({"representations": ("absolute",)}, "absolute, relative, relative_base, delta do not pool with absolute"),
        ({"native_units": {"state/240": "a", "action/240": "px512", "state/241": "px512", "action/241": "ctrl"}},
         "unit px512 .* unit a"),
    ],
    ids=["frame", "hz", "horizon", "representations", "unit"],
)  # fmt: skip
def test_what_does_not_agree_is_refused_and_changes_nothing(changed, told):
    statistics = gathered(sample(0))
    before = statistics.to_bytes()
    with pytest.raises(SchemaError, match=told):
        replace(sample(1), **changed).add_to(statistics)
    assert statistics.to_bytes() == before
    with pytest.raises(SchemaError, match=told):
        statistics.merge(gathered(replace(sample(1), **changed)))
    assert statistics.to_bytes() == before


def test_absolute_pools_over_rates_but_per_step_commands_do_not():
    joints = [
        Sample(f"e{hz}", None, slots(np.ones((3, 1)), None, [0]), hz=hz, horizon=int(hz), representations=("absolute",))
        for hz in (5.0, 50.0)
    ]
    assert entries(gathered(*joints))[0]["n"] == 6
    commands = [replace(one, action=slots(np.ones((3, 1)), None, [160])) for one in joints]
    with pytest.raises(SchemaError, match="hz"):
        gathered(*commands)


def test_measured_rates_within_one_percent_are_one():
    statistics = gathered(replace(sample(0), hz=29.97), replace(sample(1), hz=30.02))
    assert entries(statistics, form="relative")[0]["hz"] == [29.97, 30.02]
    with pytest.raises(SchemaError, match="hz"):
        replace(sample(2), hz=30.4).add_to(statistics)


def test_a_channel_refuses_too():
    pool = Pool("m", "base", None, None, True)
    one, other = ChannelStatistics(pool), ChannelStatistics(replace(pool, unit="rad"))
    one.add(np.ones(3))
    other.add(np.ones(3))
    with pytest.raises(SchemaError, match=r"unit m do not pool with values with unit rad\s+where: here"):
        one.merge(other, "here")
    assert one.moments.count == 3


def test_missing_declarations_are_refused():
    one = sample(0)
    for changed in ({"action_frames": {}}, {"state_frames": {}}, {"native_units": {}}, {"hz": 0.0}, {"horizon": 0}):
        with pytest.raises(SchemaError):
            gathered(replace(one, **changed))
    with pytest.raises(SchemaError, match="12 rows of state, 11 of action"):
        gathered(replace(one, action=slots(one.action.values[:11], one.action.mask[:11])))
    with pytest.raises(SchemaError, match="frame 'base', the state in 'world'"):
        gathered(replace(one, state_frames=FRAMES | {"eef_pos.right": "world"}))


def test_a_degenerate_rotation_drops_the_episode_and_adds_nothing():
    one, statistics = sample(0), gathered(sample(1))
    before = statistics.to_bytes()
    one.action.values[3, 5:11] = 0.0
    one.action.mask[3] = True
    with pytest.raises(EpisodeError) as caught:
        one.add_to(statistics)
    assert caught.value.reason == "bad_rotation"
    assert statistics.to_bytes() == before


# --- hard channels --------------------------------------------------------------------------------------------------


def test_constant():
    entry = one_channel([0.3] * 500)
    assert (entry["class"], entry["low"], entry["high"]) == ("constant", np.float32(0.3), np.float32(0.3))
    assert (entry["std"], entry["clip_rate"]) == (0.0, 0.0)


def test_near_constant_noise_is_constant():
    entry = one_channel(0.5 + 1e-7 * np.random.default_rng(0).normal(size=500))
    assert entry["class"] == "constant"
    assert entry["low"] == entry["high"] == pytest.approx(0.5, abs=1e-6)


def test_floors_follow_the_unit_and_the_step():
    spread = [0.0] * 50 + [5e-4] * 50
    assert one_channel(spread, 7)["class"] == "regular"  # 0.5 mm is motion
    assert one_channel(spread, 0)["class"] == "constant"  # 0.5 mrad is not
    assert one_channel([0.0] * 50 + [5e-5] * 50, 7)["class"] == "constant"  # 0.05 mm is no motion of a target,
    assert one_channel([0.0] * 50 + [5e-5] * 50, 160)["class"] == "regular"  # but it is one of a step


def test_native_floor_follows_the_magnitude():
    assert one_channel([0.0] * 10, 240)["class"] == "constant"
    assert one_channel([500.0, 500.0001] * 10, 240)["class"] == "constant"
    assert one_channel([1e-5, -1e-5] * 10, 240)["class"] == "regular"


@pytest.mark.parametrize(("rare", "span"), [(0.005, "q001_q999"), (0.0002, "mean_4std")])
def test_two_valued_sparse(rare, span):
    """Zero but for a few 0.3: never 599,999; q01 = q99 = 0, and 0.3 stays in a sane range."""
    n = 20_000
    values = np.zeros(n)
    values[: int(n * rare)] = 0.3
    entry = one_channel(values)
    assert (entry["class"], entry["range"]) == ("sparse", span)
    assert (entry["q01"], entry["q99"]) == (0.0, 0.0)
    if span == "q001_q999":
        assert (entry["low"], entry["high"]) == (0.0, np.float32(0.3))
    else:
        std = np.float64(np.float32(0.3)) * np.sqrt(rare * (1 - rare))
        assert entry["high"] - entry["low"] == pytest.approx(8 * std, rel=1e-9)
        assert entry["clip_rate"] == pytest.approx(rare)


def test_sparse_beyond_the_deviation_takes_the_fixed_scale():
    """One value of 1.5e-4 m in 400,000: 8 std = 1.9e-6 m is below the floor too."""
    values = np.full(400_000, 0.25)
    values[0] += 1.5e-4
    entry = one_channel(values)
    assert (entry["class"], entry["range"]) == ("sparse", "fixed")
    assert (entry["low"], entry["high"]) == pytest.approx((-0.75, 1.25), abs=1e-6)


def test_non_finite_values_are_excluded_and_counted():
    values = np.array([1.0, np.nan, 2.0, np.inf, -np.inf, 3.0])
    entry = one_channel(values, mask=[True, True, True, True, False, True])
    assert (entry["n"], entry["excluded"], entry["min"], entry["max"], entry["mean"]) == (3, 2, 1.0, 3.0, 2.0)
    nothing = one_channel([np.nan, np.nan])
    assert (nothing["n"], nothing["excluded"], nothing["class"]) == (0, 2, "empty")


def test_non_finite_pose_is_excluded_in_relative_forms():
    one = sample(7)
    one.action.values[2, 2] = np.nan
    one.action.mask[:] = True
    one.state.mask[:] = True
    found = entries(gathered(one), form="relative")
    assert found[7]["excluded"] == 3  # starts 0, 1, 2 show row 2
    assert found[8]["excluded"] == 3  # in tool axes the NaN spreads over the position
    assert found[0]["excluded"] == 0


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-20, 1e20, 3e38])
def test_any_magnitude(scale):
    values = np.random.default_rng(0).uniform(-1, 1, 1000) * scale
    for channel in (7, 240):
        entry = one_channel(values, channel)
        array = values.astype(np.float32).astype(np.float64)
        assert (entry["min"], entry["max"]) == (array.min() + 0.0, array.max())
        assert entry["std"] == pytest.approx(array.std(), rel=1e-6, abs=0)
        assert entry["class"] == ("constant" if scale < 1e-4 and channel == 7 else "regular")
        assert np.isfinite([entry["low"], entry["high"]]).all()
        canonical_json(entry)


def test_methods():
    statistics = gathered(sample(8))
    found = entries(statistics)
    assert (found[0]["method"], found[10]["method"], found[16]["method"]) == ("quantile", "identity", "binary")
    assert (found[10]["low"], found[10]["high"]) == (-1.0, 1.0)
    assert (found[16]["low"], found[16]["high"], found[16]["clip"]) == (0.0, 1.0, 1.5)
    for channel in (142, 155, 154):
        assert one_channel([0.0, 1.0, 0.0], channel)["method"] == "binary"
    assert one_channel([0.0, 1.0], 141)["method"] == one_channel([0.0, 1.0], 152)["method"] == "quantile"


def test_clip_rate_is_the_share_outside():
    """0..1 in 1,000 even steps and 8 values at 10: low 0.01.., high 0.99.., so only the 8 exceed +-1.5."""
    entry = one_channel(np.concatenate([np.linspace(0, 1, 992), np.full(8, 10.0)]))
    assert entry["class"] == "regular"
    assert entry["clip_rate"] == 0.008
