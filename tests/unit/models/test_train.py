"""Batches of the trainer: the mixture, and what is known of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.ich import network, train
from models.ich.dataset import INPUT, MAP, Slices
from models.ich.network import MEMBERS


@pytest.fixture(scope="module")
def slices() -> Slices:
    rng = np.random.default_rng(3)
    rows = [(s, y) for s, y in train.QUOTA for _ in range(4)]
    # A positive of these stands before its twin.
    pairs = {(s, True): 1 for s in train.TWINNED}
    order: list[tuple[str, bool]] = []
    for source, label in rows:
        order.append((source, label))
        if (source, label) in pairs:
            order.append((source, False))
    n = len(order)
    label = np.array([y for _, y in order])
    area = np.zeros((n, *MAP), np.uint8)
    area[label, 10:18, 10:18] = 255
    return Slices(
        rng.integers(0, 255, (n, *INPUT.size, 3), np.uint8),
        area,
        label,
        np.arange(n),
        np.full(n, ""),
        np.zeros(n, np.float32),
        np.full(n, ""),
        np.array([s for s, _ in order]),
    )


def test_each_batch_is_the_same_mixture_with_twins_beside(slices: Slices) -> None:
    batches = train.Batches(slices, 3, seed=1)
    x, y = batches[0]
    twins = sum(n for (s, label), n in train.QUOTA.items() if label and s in train.TWINNED)
    assert len(x) == sum(train.QUOTA.values()) + twins
    assert (y["logit"].max(1) == 1).sum() == sum(n for (_, b), n in train.QUOTA.items() if b)
    assert 0 <= x.min() <= x.max() <= 1


def test_where_real_blood_lies_is_not_claimed(slices: Slices) -> None:
    _, y = train.Batches(slices, 3, seed=1)[1]
    unknown = (y["cells"] < 0).all((1, 2, 3))
    assert unknown.sum() == train.QUOTA["real", True]
    assert (y["logit"][unknown].max(1) == 1).all()


def test_each_head_is_kept_from_one_member_always_the_same(slices: Slices) -> None:
    _, y = train.Batches(slices, 3, seed=1)[1]
    assert ((y["logit"] < 0).sum(1) == 1).all()
    assert (y["cells"][y["logit"][:, 0] < 0][..., 0] < 0).all()
    members = train._left_out(slices.head)
    assert set(members) == set(range(MEMBERS))
    assert (members == train._left_out(slices.head)).all()


def test_the_map_moves_with_the_slice(slices: Slices) -> None:
    _, y = train.Batches(slices, 3, seed=1)[2]
    seen = y["cells"].max(3)  # of the members that learn from it
    known = (y["logit"].max(1) == 1) & (seen >= 0).all((1, 2))
    assert (seen[known].sum((1, 2)) > 20).all()


def test_the_same_seed_gives_the_same_batches(slices: Slices) -> None:
    one, other = (train.Batches(slices, 3, seed=1)[2][0] for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, train.Batches(slices, 3, seed=2)[2][0])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # keras saves
def test_a_short_run_learns_and_leaves_held_layers_alone(slices: Slices, tmp_path: Path) -> None:
    model = network.build(begun=False)
    before = {layer.name: layer.get_weights() for layer in model.layers if layer.get_weights()}
    said: list[str] = []
    model = train.fit(model, slices, slices, 1, 2, tmp_path, said.append)
    assert (tmp_path / "pass-1.keras").is_file()
    assert len(said) == 1
    assert "slice AUC" in said[0]
    changed = {
        name: any(
            not np.array_equal(a, b)
            for a, b in zip(weights, model.get_layer(name).get_weights(), strict=True)
        )
        for name, weights in before.items()
    }
    assert not changed["stem_norm"]
    assert changed["stem"]
    assert changed["cells_0"]


def test_the_answer_is_the_mean_of_the_members() -> None:
    model = network.build(begun=False)
    x = np.random.default_rng(1).random((2, *INPUT.size, 3), np.float32)
    answer = np.asarray(model(x, training=False), np.float64)
    assert answer.shape == (2, 1 + MEMBERS)
    logit = np.log(answer / (1 - answer))
    assert logit[:, 0] == pytest.approx(logit[:, 1:].mean(1), abs=1e-4)
