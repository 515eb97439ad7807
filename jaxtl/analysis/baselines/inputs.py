"""What classical learners read of an experiment's data: inputs, tf-idf, features."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxtl.analysis import linear_probe
from jaxtl.analysis.baselines.base import LAST, RAW, TFIDF
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network
from jaxtl.data import Text, lazy_array, preprocess, splits
from jaxtl.data.dataset import Data, Dataset
from jaxtl.data.preparation import load_table, prepare
from jaxtl.evaluation import feature_cache
from jaxtl.optim.optimizer import AdamW
from jaxtl.terms.base import feature_stage
from jaxtl.training import inputs, setup
from jaxtl.training.experiment import Experiment

CHUNK = 4096  # examples that are preprocessed at once
KEPT = 4  # stages' features in memory; the one used longest ago goes first


def dataset(exp: Experiment) -> Dataset:
    """Returns the target data as a run of the experiment carves them."""
    return prepare(inputs.sources(exp)["target"], exp.seed)


def depends_on(features: str, exp: Experiment) -> dict[str, Any]:
    """Returns the settings of an experiment that decide its data and these features."""
    found = {"data": inputs.sources(exp)["target"], "seed": exp.seed}
    if features != TFIDF:
        found["preprocess"] = exp.preprocess
    if features not in (RAW, TFIDF):
        found |= {"model": exp.model, "init": exp.init, "dtype": exp.dtype}
    return found


def matrices(
    features: str, exp: Experiment, data: Dataset, names: Iterable[str]
) -> dict[str, Any]:
    """Returns {split: (n, width)}, rows in the split's order.

    Args:
      features: "raw" for the inputs, preprocessed and flattened, float32 (by the
        experiment's or the data's own preprocessing, not by pretrained weights'),
        "tfidf" for a `Text`'s words and pairs of words, a sparse matrix whose
        vocabulary and frequencies are those of the labelled train rows, or a stage for
        what the model the experiment starts from makes there, pooled as a probe's;
        "last" is the last stage before the head.
      exp: the experiment.
      data: its target data.
      names: splits, "train" among them.

    Raises:
      UserError: features that these data or this model don't have.
    """
    names = tuple(names)
    if features == RAW:
        return _inputs(exp, data, names)
    if features == TFIDF:
        return _words(inputs.sources(exp)["target"], data, names)
    return _stage(features, exp, names)


def _inputs(exp: Experiment, data: Dataset, names) -> dict[str, np.ndarray]:
    if isinstance(data.x, dict):
        raise UserError(
            "features='raw': the inputs are ids of tokens, whose distances mean "
            "nothing; take features='tfidf', or a stage of the model."
        )
    width = int(np.prod(data.x.shape[1:]))
    nbytes = 4 * width * sum(len(data.rows[name]) for name in names)
    if nbytes > exp.cache_bytes:
        raise UserError(
            f"features='raw' would take {feature_cache.size(nbytes)}, more than "
            f"cache_bytes={exp.cache_bytes:,}; make the images smaller (data.size), or "
            "take a stage of the model."
        )
    pre = exp.preprocess or data.preprocess

    def flat(rows):
        chunks = (rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK))
        parts = (
            preprocess.apply(pre, lazy_array.gather(data.x, chunk)) for chunk in chunks
        )
        return np.concatenate([np.asarray(x).reshape(len(x), width) for x in parts])

    return {name: flat(data.rows[name]) for name in names}


def _words(source: Data, data: Dataset, names) -> dict[str, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not isinstance(source, Text):
        raise UserError(
            f"features='tfidf' needs texts, tl.data.Text, and the data are "
            f"{type(source).__name__}; take features='raw', or a stage of the model."
        )
    read = texts(source)
    made = TfidfVectorizer(ngram_range=(1, 2))
    try:
        made.fit(read[data.rows["train"]])
    except ValueError as error:
        raise UserError(
            f"features='tfidf': the train texts hold no words ({error})."
        ) from None
    return {name: made.transform(read[data.rows[name]]) for name in names}


def texts(source: Text) -> np.ndarray:
    """Returns the texts of all examples in the order of the table, as objects.

    A second text follows its first after a line break.
    """
    read = []
    for path in (source.path, source.val_path, source.test_path):
        if path is not None:
            firsts, seconds, _ = source.rows(path)
            read += [f"{a}\n{b}" if b else a for a, b in zip(firsts, seconds)]
    found = np.array(read, object)
    if source.classes is None:
        return found
    table, _ = load_table(dataclasses.replace(source, classes=None))
    table = dataclasses.replace(table, x=np.arange(len(found)))
    return found[splits.keep_classes(table, source.classes).x]


_MEMORY: dict[tuple, tuple] = {}


def _stage(name: str, exp: Experiment, names) -> dict[str, np.ndarray]:
    """The name of what is kept is a hash of weights and examples: never stale."""
    run = setup.setup(_start(exp))
    stages = run.network.stages
    if name == LAST and LAST not in stages:
        name = feature_stage(stages)
    if name not in stages:
        known = (RAW, TFIDF, LAST, *stages)
        raise UserError(
            f"features={name!r}: the model has no such stage{nearest(name, known)} "
            f"(known: {', '.join(known)})."
        )
    data = run.parts.datasets["target"]
    rows = [data.rows[split] for split in names]
    used = stages[: stages.index(name) + 1]
    params, stats = run.weights()
    made = feature_cache.digest(
        run, params, stats, used, data, run.preprocess, np.concatenate(rows)
    )
    key = (made, tuple((split, len(r)) for split, r in zip(names, rows)))
    if key in _MEMORY:
        _MEMORY[key] = _MEMORY.pop(key)
        return dict(_MEMORY[key][0])
    found = linear_probe.features(run, (name,), names)
    found = {split: values[name] for split, values in found.items()}
    # A plain pair is told by its identity, so it must live as long as the entry.
    alive = (
        run.parts.model.config if isinstance(run.parts.model.config, Network) else None
    )
    _MEMORY[key] = dict(found), alive
    while len(_MEMORY) > KEPT:
        del _MEMORY[next(iter(_MEMORY))]
    return found


def _start(exp: Experiment) -> Experiment:
    """Returns the experiment without what shapes its training."""
    return dataclasses.replace(
        exp,
        **{"terms": {}, "streams": {}, "optim": AdamW(), "phases": (), "peft": None},
        **{"average": None, "wise_ft": (), "augment": (), "monitor": None},
        **{"batch": 1, "accumulate": 1, "devices": 1, "param_shards": 1, "steps": 0},
    )
