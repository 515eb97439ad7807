"""Spans of words against seqeval 1.2.2: counts, averages, both modes."""

import numpy as np
import pytest

from jaxtl import metrics
from jaxtl.core.errors import UserError
from jaxtl.evaluation.metrics import entities, spans, task_metrics

# Precision, recall and F1 of `_tags`, micro, macro and weighted in turn, first in the
# default mode and then in the strict one: what seqeval 1.2.2 gives.
SEQEVAL = {
    "IOB1": [
        [
            0.73,
            0.7263681592,
            0.7281795511,
            0.7309578621,
            0.7265702397,
            0.7282089552,
            0.7317521092,
            0.7263681592,
            0.7285022648,
        ],
        [
            0.6949152542,
            0.6612903226,
            0.6776859504,
            0.6956896552,
            0.6630208333,
            0.6789229087,
            0.6942157953,
            0.6612903226,
            0.6773135329,
        ],
    ],
    "IOB2": [
        [
            0.6618357488,
            0.685,
            0.6732186732,
            0.6603383459,
            0.683373591,
            0.671657754,
            0.6617969925,
            0.685,
            0.673197861,
        ],
        [
            0.610619469,
            0.6448598131,
            0.6272727273,
            0.6123896595,
            0.6446540881,
            0.6273291925,
            0.6121819425,
            0.6448598131,
            0.6273175829,
        ],
    ],
    "IOE1": [
        [
            0.7632850242,
            0.7488151659,
            0.7559808612,
            0.7635854342,
            0.7488317757,
            0.7559808612,
            0.7638801492,
            0.7488151659,
            0.7561169188,
        ],
        [
            0.7204301075,
            0.6836734694,
            0.7015706806,
            0.7203977798,
            0.6852315394,
            0.7019083132,
            0.7202750665,
            0.6836734694,
            0.7010309278,
        ],
    ],
    "IOE2": [
        [
            0.7233009709,
            0.745,
            0.7339901478,
            0.7215995441,
            0.742689177,
            0.7319366103,
            0.722962576,
            0.745,
            0.7337604083,
        ],
        [
            0.6814159292,
            0.7196261682,
            0.7,
            0.6793820933,
            0.7189028651,
            0.6977225673,
            0.679620747,
            0.7196261682,
            0.6981908245,
        ],
    ],
    "IOBES": [
        [
            0.7401574803,
            0.7490039841,
            0.7445544554,
            0.738990739,
            0.7500324507,
            0.7443819327,
            0.7403559077,
            0.7490039841,
            0.7445680628,
        ],
        [
            0.6617647059,
            0.6923076923,
            0.6766917293,
            0.6552631579,
            0.6975,
            0.6734265734,
            0.6680161943,
            0.6923076923,
            0.6777837547,
        ],
    ],
    "BILOU": [
        [
            0.5612244898,
            0.5699481865,
            0.5655526992,
            0.5612244898,
            0.5698024055,
            0.5654771345,
            0.5613831025,
            0.5699481865,
            0.5656294385,
        ],
        [
            0.7027027027,
            0.7027027027,
            0.7027027027,
            0.7003663004,
            0.7046130952,
            0.7013082734,
            0.7062073062,
            0.7027027027,
            0.7033003152,
        ],
    ],
}
LETTERS = {"IOBES": "IBES", "BILOU": "BILU"}


def _tags(scheme):
    """Names of tags, and random labels and predictions (40, 8) that often agree."""
    letters = LETTERS.get(scheme, scheme.replace("O", "")[:2])
    names = ["O"] + [f"{p}-{t}" for p in letters for t in ("LOC", "PER")]
    rng = np.random.default_rng(len(scheme) + ord(scheme[-1]))
    labels = rng.integers(0, len(names), (40, 8))
    others = rng.random((40, 8)) >= 0.7
    return names, labels, np.where(others, rng.integers(0, len(names), (40, 8)), labels)


@pytest.mark.parametrize("scheme", SEQEVAL)
def test_scores_are_those_of_seqeval(scheme):
    names, labels, predicted = _tags(scheme)
    outputs = np.eye(len(names))[predicted]
    kinds = (metrics.EntityPrecision, metrics.EntityRecall, metrics.EntityF1)
    for mode, expected in zip((None, scheme), SEQEVAL[scheme]):
        values = [
            kind(average=average, scheme=mode)(
                outputs, labels, class_names=tuple(names)
            )
            for average in ("micro", "macro", "weighted")
            for kind in kinds
        ]
        np.testing.assert_allclose(values, expected, atol=2e-10)


def test_random_tags_are_counted_as_seqeval_counts_them():
    sequence_labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    rng = np.random.default_rng(0)
    for scheme in SEQEVAL:
        names = _tags(scheme)[0] + ["B", "I", "S"]
        labels, predicted = rng.integers(-1, len(names), (2, 30, 6))
        labels[:, 0], predicted = np.abs(labels[:, 0]), np.maximum(predicted, 0)
        texts = [
            [
                [names[k] for k, y in zip(row, ys) if y >= 0]
                for row, ys in zip(a, labels)
            ]
            for a in (labels, predicted)
        ]
        reference = sequence_labeling.precision_recall_fscore_support(
            *texts, average="micro"
        )
        counts = entities.micro(entities.count_spans(labels, predicted, names))
        values = [part[0] for part in entities.precision_recall_f(counts)]
        np.testing.assert_allclose(values, reference[:3])


def test_spans_end_with_their_sentence():
    names = ("B-X", "I-X", "O")
    found = spans.spans_of(np.array([0, 1, -1, 1, 2, 0]), names)
    assert list(zip(found.start, found.end)) == [(0, 2), (3, 4), (5, 6)]


def test_a_report_has_every_type_and_weights_count_examples():
    names = ("B-LOC", "B-PER", "O")
    labels, predicted = np.array([[0, 1], [1, -1]]), np.array([[0, 2], [1, 0]])
    report = metrics.entity_report(labels, predicted, names)
    assert report["PER"] == {"precision": 1, "recall": 0.5, "f1": 2 / 3, "support": 2}
    assert report["LOC"]["f1"] == 1
    assert report["micro"]["recall"] == 2 / 3
    recall = metrics.EntityRecall(per_type=True)
    values = recall(np.eye(3)[predicted], labels, [1, 3], class_names=names)
    assert values == {"": 0.8, "LOC": 1.0, "PER": 0.75}
    assert recall.value_names(names) == ("LOC", "PER")


def test_tags_of_words_are_measured_without_other_pieces():
    names, y = ("NOUN", "VERB"), np.array([[-1, 0, -3, 1], [-1, 1, -1, -1]])
    outputs = np.zeros((2, 4, 2))
    outputs[..., 0] = 1.0
    values = task_metrics.compute("tags", outputs, y, class_names=names)
    log_p = np.log(np.exp([1.0, 0.0]) / (np.e + 1))
    assert values["accuracy"] == 1 / 3
    assert values["nll"] == pytest.approx(-(log_p[0] + 2 * log_p[1]) / 3)
    outputs[0, 0, 0] = np.nan
    diverged = task_metrics.compute("tags", outputs, y, class_names=names)
    assert all(np.isnan(list(diverged.values())))


def test_a_scheme_without_the_tags_is_refused():
    with pytest.raises(UserError, match="scheme='IOB2' has no tags such as E-X"):
        metrics.EntityF1(scheme="IOB2").check("entities", ("O", "E-X"), "metrics['f']")
    with pytest.raises(UserError, match=r"average='micr'.*'micro'"):
        metrics.EntityF1(average="micr").check("entities", ("O", "B-X"), "metrics['f']")
