"""Episodes: their sizes, the classes that they never share, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.data import episodes

# Sizes of 3 to 9 classes of at least 6 examples, of which some labels never occur.
data_sets = st.lists(st.integers(6, 15), min_size=3, max_size=9).flatmap(
    lambda sizes: st.permutations(
        np.repeat(3 * np.arange(len(sizes)) + 1, sizes).tolist()
    )
)


def check(labels, episode, queries):
    """What holds of every episode, whatever its shape."""
    labels = np.asarray(labels)
    rows = np.concatenate([episode.support, episode.query])
    assert len(np.unique(rows)) == len(rows)
    assert len(np.unique(episode.classes)) == len(episode.classes)
    for part, own in (
        (episode.support, episode.support_labels),
        (episode.query, episode.query_labels),
    ):
        np.testing.assert_array_equal(labels[part], episode.classes[own])
        assert own.dtype == np.int32
    counts = np.bincount(episode.query_labels)
    np.testing.assert_array_equal(counts, np.full(len(episode.classes), queries))


@given(
    labels=data_sets,
    ways=st.integers(2, 3),
    shots=st.integers(1, 3),
    queries=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=30, deadline=None)
def test_fixed_episodes(labels, ways, shots, queries, seed):
    shape = episodes.FixedShape(ways, shots, queries)
    sampler = episodes.EpisodeSampler(labels, shape, seed=seed)
    batch = sampler.batch(range(3, 5))
    assert batch.support.shape == (2, ways * shots)
    for place, number in enumerate(range(3, 5)):
        episode = sampler(number)
        check(labels, episode, queries)
        counts = np.bincount(episode.support_labels, minlength=ways)
        np.testing.assert_array_equal(counts, np.full(ways, shots))
        np.testing.assert_array_equal(batch.query[place], episode.query)


@given(labels=data_sets, seed=st.integers(0, 2**40), limit=st.integers(9, 30))
@settings(max_examples=30, deadline=None)
def test_variable_episodes_keep_the_limits_of_meta_dataset(labels, seed, limit):
    shape = episodes.VariableShape(
        min_ways=2, max_ways=9, max_queries=4, max_support=limit
    )
    sampler = episodes.EpisodeSampler(labels, shape, seed=seed)
    sizes = dict(zip(*np.unique(labels, return_counts=True)))
    for number in range(4):
        episode = sampler(number)
        smallest = min(sizes[label] for label in episode.classes)
        check(labels, episode, min(4, smallest // 2))
        assert 2 <= len(episode.classes) <= 9
        assert np.bincount(episode.support_labels).min() >= 1
        assert len(episode.support) <= limit
    with pytest.raises(UserError, match="can't be stacked"):
        sampler.batch(range(2))


def test_episodes_do_not_depend_on_those_drawn_before():
    labels = np.repeat(np.arange(10), 20)
    first, second = (episodes.EpisodeSampler(labels, seed=5) for _ in range(2))
    drawn = [first(number) for number in range(4)]
    for number in (3, 0):
        np.testing.assert_array_equal(second(number).support, drawn[number].support)
    assert not np.array_equal(drawn[0].support, drawn[1].support)
    third = episodes.EpisodeSampler(labels, seed=6)
    assert not np.array_equal(third(0).query, drawn[0].query)


def test_every_class_and_example_is_drawn_equally_often():
    labels = np.repeat(np.arange(6), 8)
    sampler = episodes.EpisodeSampler(labels, episodes.FixedShape(3, 2, 2))
    drawn = sampler.batch(range(2000))
    for rows in (drawn.support, drawn.query):
        counts = np.bincount(rows.ravel(), minlength=48)
        # Each row: binomial, 2000 episodes of which each has it with chance 1/2 · 2/8.
        assert np.abs(counts - 250).max() < 4.5 * np.sqrt(250 * 7 / 8)


@given(
    count=st.integers(1, 60),
    val=st.floats(0, 0.5),
    test=st.floats(0, 0.5),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=60, deadline=None)
def test_classes_of_a_split_never_overlap(count, val, test, seed):
    needed = sum(max(round(share * count), share > 0) for share in (val, test))
    if needed > count:
        with pytest.raises(UserError, match=f"there are {count}"):
            episodes.split_classes(count, val=val, test=test, seed=seed)
        return
    split = episodes.split_classes(count, val=val, test=test, seed=seed)
    parts = (split.train, split.val, split.test)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    episodes.check_disjoint({"train": split.train, "val": split.val, "test": parts[2]})
    assert bool(val) == bool(len(split.val))


LABELS = np.repeat(np.arange(4), 10)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (episodes.FixedShape(5), "ways=5: there are 4 classes"),
        (episodes.FixedShape(1), "ways=1: expected a whole number of at least 2"),
        (episodes.FixedShape(3, 1, 10), "class 'a' has 10 examples; 1 shots and 10"),
        (episodes.FixedShape(3, 0), "shots=0"),
        (episodes.FixedShape(3, 1.5), "shots=1.5"),
        (episodes.FixedShape(3, 1, True), "queries=True"),
        (episodes.VariableShape(), "min_ways=5: there are 4 classes"),
        (episodes.VariableShape(min_ways=3, max_support=2), "max_support=2"),
        (episodes.VariableShape(min_ways=3, imbalance=(2, 1)), "smaller first"),
    ],
)
def test_impossible_shapes_are_refused(shape, words):
    with pytest.raises(UserError, match=words):
        episodes.EpisodeSampler(LABELS, shape, class_names="abcd")


def test_impossible_classes_and_labels_are_refused():
    refused = [
        (LABELS, dict(classes=[0, 1, 2, 3, 7]), "no example is of class 7"),
        (LABELS, dict(classes=[0, 1, 1]), "classes: 1 comes twice"),
        (LABELS, dict(classes=["a"]), "expected labels, integers"),
        (LABELS, dict(seed=-1), "seed=-1"),
        (LABELS / 2, {}, "one integer class per example"),
        (np.eye(4, dtype=int), {}, r"int64 of shape \(4, 4\)"),
    ]
    for labels, settings_, words in refused:
        with pytest.raises(UserError, match=words):
            episodes.EpisodeSampler(labels, episodes.FixedShape(3), **settings_)
    with pytest.raises(UserError, match="train and test overlap in 2 classes"):
        episodes.check_disjoint({"train": [0, 1, 2], "val": [3], "test": [1, 2]})
    with pytest.raises(UserError, match=r"val=1\.5"):
        episodes.split_classes(10, val=1.5)
    with pytest.raises(UserError, match="val=6 and test=5 are 6 and 5 classes"):
        episodes.split_classes(10, val=6, test=5)
