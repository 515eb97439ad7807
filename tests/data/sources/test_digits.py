"""The bundled digits, read and rendered, against the original."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data.sources import pen_digits, rendered_digits


def test_digits_are_scikit_learns():
    dataset = data.prepare(data.Digits())
    assert dataset.x.shape == (1797, 8, 8, 1)
    np.testing.assert_array_equal(dataset.x[0, 0, :, 0], [0, 0, 5, 13, 9, 1, 0, 0])
    np.testing.assert_array_equal(dataset.x[..., 0], load_digits().images)
    np.testing.assert_array_equal(
        np.bincount(dataset.y), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    assert dataset.preprocess.scale == 16
    assert (dataset.example_shape, dataset.outputs) == ((8, 8, 1), 10)
    assert {k: len(v) for k, v in dataset.rows.items()} == {
        "test": 359,
        "val": 144,
        "train": 1294,
    }


@pytest.fixture(scope="module")
def rendered():
    return data.prepare(data.RenderedDigits(per_class=120))


def test_rendered_digits_look_like_the_uci_digits(rendered):
    assert rendered.x.shape == (1200, 8, 8, 1)
    assert rendered.x.max() == 16
    np.testing.assert_array_equal(np.bincount(rendered.y), 120)
    flat = rendered.x.reshape(1200, -1)
    assert len(np.unique(flat, axis=0)) > 1190
    # The digit fills its box: the longer side touches both borders.
    rows, columns = rendered.x.sum((2, 3)) > 0, rendered.x.sum((1, 3)) > 0
    tall, wide = rows[:, 0] & rows[:, -1], columns[:, 0] & columns[:, -1]
    assert (tall | wide).mean() > 0.99
    ink, real = rendered.x.mean(), load_digits().images.mean()
    assert 0.7 < ink / real < 1.4


def test_rendered_digits_are_deterministic_and_seeded(rendered):
    again = data.RenderedDigits(per_class=120).read()
    np.testing.assert_array_equal(again.x, rendered.x)
    reseeded = data.RenderedDigits(per_class=120, seed=1).read()
    assert (reseeded.x != rendered.x).any()


def test_a_model_of_rendered_digits_transfers_to_handwritten_ones(rendered):
    """A linear model without their labels: above chance, below a model with labels."""
    x, real = rendered.x.reshape(1200, -1) / 16, load_digits()
    model = LogisticRegression(max_iter=300).fit(x, rendered.y)
    assert 0.45 < model.score(real.data / 16, real.target) < 0.9


@pytest.fixture(scope="module")
def drawn():
    return data.prepare(data.PenDigits(per_class=60))


def test_pen_digits_look_like_the_uci_digits(drawn):
    assert drawn.x.shape == (600, 8, 8, 1)
    assert drawn.x.max() == 16
    np.testing.assert_array_equal(np.bincount(drawn.y), 60)
    assert len(np.unique(drawn.x.reshape(600, -1), axis=0)) > 590
    ink, real = drawn.x.mean(), load_digits().images.mean()
    assert 0.8 < ink / real < 1.25
    np.testing.assert_array_equal(data.PenDigits(per_class=60).read().x, drawn.x)
    assert (data.PenDigits(per_class=60, seed=1).read().x != drawn.x).any()


def test_a_model_of_pen_digits_transfers_better_than_one_of_fonts(drawn):
    """A linear model without their labels."""
    real = load_digits()
    x = drawn.x.reshape(600, -1) / 16
    model = LogisticRegression(max_iter=300).fit(x, drawn.y)
    assert model.score(real.data / 16, real.target) > 0.7


@pytest.mark.parametrize(
    "changed",
    [
        {"jitter": 0.0},
        {"warp": 0.3},
        {"rotate": 0.0},
        {"shear": 0.0},
        {"scale": (0.4, 0.4)},
        {"pen": (0.1, 0.1)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_each_setting_changes_the_drawings(changed):
    usual = data.PenDigits(per_class=3).read().x
    assert (data.PenDigits(per_class=3, **changed).read().x != usual).mean() > 0.1


def test_both_points_of_a_corner_move_together():
    points = np.array([[0, 0], [1, 2], [1, 2], [3, 1], [3, 1.0]])
    moved = pen_digits.jittered(points, 0.1, np.random.default_rng(0))
    assert (moved != points).all()
    np.testing.assert_array_equal(moved[[1, 3]], moved[[2, 4]])


def test_a_spline_passes_its_control_points_and_is_straight_between_corners():
    points = np.array([[0, 0], [1, 2], [3, 1], [3, 1], [4, 5.0]])
    curve, count = pen_digits.spline(points), pen_digits.POINTS_PER_PIECE
    np.testing.assert_allclose(curve[::count], [[0, 0], [1, 2], [3, 1], [4, 5]])
    # Uniform Catmull-Rom at the middle of p₁ and p₂: (−p₀ + 9 p₁ + 9 p₂ − p₃) / 16.
    middle = curve[count + count // 2]
    np.testing.assert_allclose(middle, [(9 + 27 - 3) / 16, (18 + 9 - 1) / 16])
    # From a corner to the end: on the line through both.
    x, y = curve[2 * count :].T
    np.testing.assert_allclose(y - 1, 4 * (x - 3), atol=1e-12)


def test_every_font_has_ten_different_digits():
    identity = np.eye(2)
    for font in rendered_digits.FONTS:
        bitmaps = [
            rendered_digits.bitmap(rendered_digits.glyph(font, d, 1), identity)
            for d in range(10)
        ]
        assert len({b.tobytes() for b in bitmaps}) == 10
        assert all(0.05 < b.mean() < 0.9 for b in bitmaps)


def test_block_counts_by_hand():
    bitmaps = np.zeros((1, 32, 32), bool)
    bitmaps[0, 0:4, 4:8] = True
    bitmaps[0, 31, 28:31] = True
    counts = rendered_digits.block_counts(bitmaps)
    assert counts[0, 0, 1] == 16
    assert counts[0, 7, 7] == 3
    assert counts.sum() == 19


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"jitter": -0.1}, "jitter"),
        ({"pen": (0.3, 0.2)}, "pen must be .low, high."),
    ],
)
def test_bad_options_of_pen_digits_are_named(options, message):
    with pytest.raises(UserError, match=message):
        data.PenDigits(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fonts": ["DejaVuSanz"]}, "did you mean 'DejaVuSans'"),
        ({"fonts": []}, "fonts is empty"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"scale": (1.2, 0.8)}, "scale must be .low, high."),
    ],
)
def test_bad_options_of_rendered_digits_are_named(options, message):
    with pytest.raises(UserError, match=message):
        data.RenderedDigits(**options)
