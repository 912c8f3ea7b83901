"""Trees as arrays: rows are answered as frames are, and damaged arrays are refused before the first answer."""

import math

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import BundleCorrupt, UserCodeFailed
from interlock.model import forest as module
from interlock.model.forest import Forest, Nodes, TreeForest
from interlock.model.forms import load_form
from interlock.model.rows import answers_of, frame_of, rows_of, schema_of
from interlock.model.trees import Mapped, Plain
from interlock.records import Column, Signature

SIGNATURE = Signature(
    inputs=(
        Column(name="x", type="float", nullable=True),
        Column(name="n", type="int", nullable=True),
        Column(name="c", type="str", nullable=True),
    )
)
FEATURES = (
    Plain(column="x", shift=0.5, divisor=3.0),
    Plain(column="n"),
    Mapped(column="c", keys=("a", "b", "c"), values=(0.0, 1.0, 255.0), unknown=None, missing=2.0),
)
SHAPES = ("number", "exponential", "shares", "sigmoid", "sigmoid-from", "double-sigmoid-from", "softmax", "sigmoid-f32",
          "softmax-f32", "votes")  # fmt: skip
EDGES = (-1.5, -0.25, 0.0, 0.1, 1 / 3, 1.0, 2.0)


def nodes_of(rng, trees, depth, width):
    """Complete or ragged trees of at most ``depth`` levels."""
    inner, leaves, roots = [], [], []

    def grow(level):
        if level == depth or rng.random() < 0.2:
            leaves.append(rng.normal(size=width).round(3))
            return ("leaf", len(leaves) - 1)
        at = len(inner)
        inner.append(None)
        feature = int(rng.integers(3))
        bits = int(rng.integers(4)) if feature == 2 and rng.random() < 0.7 else -1
        node = [feature, float(rng.choice(EDGES)), None, None, bool(rng.random() < 0.5), bits]
        inner[at] = node
        node[2], node[3] = grow(level + 1), grow(level + 1)
        return ("inner", at)

    roots = [grow(0) for _ in range(trees)]

    def number(place):
        return place[1] + (len(inner) if place[0] == "leaf" else 0)

    columns = list(zip(*inner, strict=True)) if inner else [()] * 6
    return Nodes(
        feature=np.array(columns[0], dtype=np.int32),
        threshold=np.array(columns[1], dtype=np.float64),
        left=np.array([number(place) for place in columns[2]], dtype=np.int32),
        right=np.array([number(place) for place in columns[3]], dtype=np.int32),
        missing_right=np.array(columns[4], dtype=np.bool_),
        bits=np.array(columns[5], dtype=np.int32),
        roots=np.array([number(root) for root in roots], dtype=np.int32),
        values=np.array(leaves).reshape(-1, width),
        members=rng.random((4, 256)) < 0.5,
    )


def made(seed, shape="softmax", trees=6, depth=3, **flags):
    rng = np.random.default_rng(seed)
    classes = () if shape in ("number", "exponential") else ("k", "l", "m") if "sigmoid" not in shape else ("k", "l")
    outputs = 3 if shape in ("shares", "softmax", "softmax-f32", "votes") else 1
    width = 3 if shape in ("shares", "votes") else 1
    over = 2.5 if shape == "votes" else None
    spec = {"narrow": False, "gaps": True, "single": shape.endswith("f32"), "over": over} | flags
    base = tuple(rng.normal(size=outputs).round(2).tolist())
    return TreeForest(
        Forest(features=FEATURES, shape=shape, base=base, classes=classes, **spec), nodes_of(rng, trees, depth, width)
    )


def by_frame(form, rows):
    try:
        return answers_of(form.answer(frame_of(rows, schema_of(SIGNATURE))), len(rows))
    except UserCodeFailed:
        return None


def walked(form, row):
    """The leaves of one row, by the definition."""
    nodes, inner, leaves = form.nodes, len(form.nodes.feature), []
    for root in nodes.roots:
        at = root
        while at < inner:
            value = row[nodes.feature[at]]
            if math.isnan(value):
                right = nodes.missing_right[at]
            elif nodes.bits[at] >= 0:
                right = not nodes.members[nodes.bits[at], int(value)]
            else:
                right = value > nodes.threshold[at]
            at = nodes.right[at] if right else nodes.left[at]
        leaves.append(int(at) - inner)
    return leaves


VALUES = st.tuples(
    st.none() | st.sampled_from([0.5 + 3 * edge for edge in EDGES] + [1e39, -1e300]) | st.floats(-9, 9),
    st.none() | st.integers(-3, 3) | st.sampled_from([2**53 + 1, -(2**63)]),
    st.sampled_from(["a", "b", "c", "else", None]),
)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    flags=st.fixed_dictionaries(
        {"narrow": st.booleans(), "gaps": st.booleans(), "beyond": st.booleans(), "mean": st.booleans()}
    ),
    kept=st.sampled_from([(200_000, 64), (200_000, 4), (-1, 64)]),
    rows=st.lists(VALUES, min_size=1, max_size=12),
)
def test_rows_are_answered_as_frames_are_to_the_bit(seed, shape, flags, kept, rows):
    before = module._LISTED, module._WALKED
    module._LISTED, module._WALKED = kept
    try:
        form = made(seed, shape, **flags)
        given = rows_of(form, SIGNATURE).answers(rows)
        alone = [by_frame(form, [row]) for row in rows]
        assert repr([None if isinstance(one, UserCodeFailed) else [one] for one in given]) == repr(alone)
        if None not in alone:
            assert repr(by_frame(form, rows)) == repr([one for [one] in alone])
    finally:
        module._LISTED, module._WALKED = before


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.lists(VALUES, min_size=1, max_size=12))
def test_every_row_reaches_the_leaves_that_the_definition_says(seed, rows):
    form = made(seed, "number")
    matrix = np.array(rows_of(form, SIGNATURE)._few._matrix.of(rows))
    expected = []
    for row in matrix.tolist():
        total = form.forest.base[0]
        for leaf in walked(form, row):
            total += form.nodes.values[leaf, 0]
        expected.append(total)
    assert form.answer(frame_of(rows, schema_of(SIGNATURE)))["prediction"].to_list() == expected


def test_survives_storage_and_tells_its_thresholds(tmp_path):
    form = made(3, trees=30)
    for name, content in form.files().items():
        (tmp_path / name).write_bytes(content)
    again = load_form(tmp_path, "forest", SIGNATURE)
    rows = [(x, n, c) for x in (None, 0.8, 3.5) for n in (None, 0, 2) for c in ("a", "z")]
    assert repr(by_frame(again, rows)) == repr(by_frame(form, rows))
    assert again.columns == ("x", "n", "c")
    found = form.thresholds()
    assert set(found) == {0, 1, 2}
    assert set(found[0]) <= set(EDGES)
    assert not any(path.suffix in (".pkl", ".pickle") for path in tmp_path.iterdir())


def test_a_refusal_counts_rows_and_names_columns():
    form = made(3, "number", gaps=False)
    frame = frame_of([(None, 1, "a"), (1.0, 1, "a")], schema_of(SIGNATURE))
    with pytest.raises(UserCodeFailed, match=r"1 of 2 rows: missing values in 'x' \(1 rows\)"):
        form.answer(frame)


class TestDamage:
    """Bundles are verified before they are opened; this is the second fence."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("left", 0),
            ("right", -1),
            ("left", 10_000),
            ("feature", 3),
            ("feature", -1),
            ("bits", 4),
            ("roots", 10_000),
            ("threshold", math.nan),
        ],
    )
    def test_an_index_out_of_range(self, name, value):
        form = made(5)
        array = getattr(form.nodes, name).copy()
        array[-1 if name != "left" or value else 0] = value
        with pytest.raises(BundleCorrupt, match="out of range"):
            TreeForest(form.forest, msgspec.structs.replace(form.nodes, **{name: array}))

    def test_outputs_and_codes_that_do_not_fit(self):
        form = made(5)
        with pytest.raises(BundleCorrupt, match="outputs"):
            TreeForest(msgspec.structs.replace(form.forest, base=(0.0,)), form.nodes)
        wild = (*FEATURES[:2], msgspec.structs.replace(FEATURES[2], values=(0.0, 1.0, 256.0)))
        with pytest.raises(BundleCorrupt, match="code"):
            TreeForest(msgspec.structs.replace(form.forest, features=wild), form.nodes)

    @pytest.mark.parametrize(
        "content", [b"", b"\x93NUMPY\x01\x00", b"\x80\x04K\x01.", b"\x93NUMPY\x01\x00\x10\x00{'a': 1}      \n"]
    )
    def test_a_file_that_is_no_array(self, tmp_path, content):
        for name, stored in made(5).files().items():
            (tmp_path / name).write_bytes(stored)
        (tmp_path / "left.npy").write_bytes(content)
        with pytest.raises(BundleCorrupt, match=r"left\.npy"):
            load_form(tmp_path, "forest", SIGNATURE)

    def test_an_array_of_objects_is_never_unpickled(self, tmp_path):
        for name, stored in made(5).files().items():
            (tmp_path / name).write_bytes(stored)
        np.save(tmp_path / "left.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(BundleCorrupt, match=r"left\.npy"):
            load_form(tmp_path, "forest", SIGNATURE)
        np.save(tmp_path / "left.npy", np.array([1.0]))
        with pytest.raises(BundleCorrupt, match="type and shape"):
            load_form(tmp_path, "forest", SIGNATURE)


def test_frames_longer_than_a_block_are_answered_in_order():
    form = made(9, "number")
    frame = pl.DataFrame(
        {"x": np.linspace(-4, 4, 9001), "n": np.arange(9001) % 5 - 2, "c": ["abc"[i % 3] for i in range(9001)]}
    )
    whole = form.answer(frame)
    assert whole.equals(pl.concat([form.answer(frame[:17]), form.answer(frame[17:])]))
