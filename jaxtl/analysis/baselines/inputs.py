"""Features of an experiment's data for classical learners: raw, tf-idf, or learned."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxtl.analysis import linear_probe
from jaxtl.analysis.baselines.base import LAST, RAW, TFIDF
from jaxtl.core.errors import DataChanged, UserError, nearest
from jaxtl.core.types import Network
from jaxtl.data import Text, lazy_array, preprocess, split_fields
from jaxtl.data.dataset import Data, Dataset
from jaxtl.data.preparation import keep_classes, load_table, prepare
from jaxtl.evaluation import feature_cache
from jaxtl.optim.optimizer import AdamW
from jaxtl.terms.base import feature_stage
from jaxtl.training import inputs, setup
from jaxtl.training.experiment import Experiment

CHUNK = 4096  # examples that are preprocessed at once
CACHE_SIZE = 4  # features of stages in memory; the least recently used are dropped


def dataset(exp: Experiment) -> Dataset:
    """Prepares the target data, split as in a run of the experiment."""
    return prepare(inputs.sources(exp)["target"], exp.seed)


def depends_on(features: str, exp: Experiment) -> dict[str, Any]:
    """Settings of an experiment that determine its data and these features, by name."""
    settings = {"data": inputs.sources(exp)["target"], "seed": exp.seed}
    if features != TFIDF:
        settings["preprocess"] = exp.preprocess
    if features not in (RAW, TFIDF):
        settings |= {"model": exp.model, "init": exp.init, "dtype": exp.dtype}
    return settings


def matrices(
    features: str, exp: Experiment, data: Dataset, names: Iterable[str]
) -> dict[str, Any]:
    """Computes the features of some splits.

    Args:
      features: "raw" for the inputs, preprocessed and flattened, float32 (by the
        preprocessing of the experiment or data, not by that of pretrained weights);
        "tfidf" for the words and pairs of words of a `Text`, a sparse matrix whose
        vocabulary and frequencies are those of the labelled train rows; or a stage for
        its output in the model that the experiment starts from, pooled as for a linear
        probe. "last" is the last stage before the head.
      exp: the experiment.
      data: its target data.
      names: splits, "train" among them.

    Returns:
      {split: (n, width)}, rows in the split's order.

    Raises:
      UserError: features that these data or this model don't have.
    """
    names = tuple(names)
    if features == RAW:
        return _raw(exp, data, names)
    if features == TFIDF:
        return _tf_idf(inputs.sources(exp)["target"], data, names)
    return _stage_features(features, exp, names)


def _raw(exp: Experiment, data: Dataset, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Preprocesses and flattens the inputs, to {split: (n, width)} in float32."""
    if isinstance(data.x, dict):
        raise UserError(
            "features='raw': the inputs are ids of tokens, whose distances mean "
            "nothing; take features='tfidf', or a stage of the model."
        )
    pre = exp.preprocess or data.preprocess
    width = int(np.prod(data.x.shape[1:])) + len(pre.indicators)
    nbytes = 4 * width * sum(len(data.rows[name]) for name in names)
    if nbytes > exp.cache_bytes:
        raise UserError(
            f"features='raw' would take {feature_cache.format_bytes(nbytes)}, more "
            f"than cache_bytes={exp.cache_bytes:,}; make the images smaller "
            "(data.size), or take a stage of the model."
        )

    def flat(rows: np.ndarray) -> np.ndarray:
        chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        parts = (
            preprocess.apply(pre, lazy_array.gather(data.x, chunk)) for chunk in chunks
        )
        return np.concatenate([np.asarray(x).reshape(len(x), width) for x in parts])

    return {name: flat(data.rows[name]) for name in names}


def _tf_idf(source: Data, data: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """Computes tf-idf of words and pairs of words, {split: sparse (n, vocabulary)}."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not isinstance(source, Text):
        raise UserError(
            f"features='tfidf' needs texts, tl.data.Text, and the data are "
            f"{type(source).__name__}; take features='raw', or a stage of the model."
        )
    if load_table(source)[1] != data.fingerprint:
        raise DataChanged(
            "the texts have changed since the data set was read from them; read them "
            "again."
        )
    documents = texts(source)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    try:
        vectorizer.fit(documents[data.rows["train"]])
    except ValueError as error:
        raise UserError(
            f"features='tfidf': the train texts hold no words ({error})."
        ) from None
    return {name: vectorizer.transform(documents[data.rows[name]]) for name in names}


def texts(source: Text) -> np.ndarray:
    """Reads the texts of all examples in the order of the table, (n,) objects.

    The second text of a pair follows the first after a line break.
    """
    documents = []
    for path in split_fields.by_split(source).values():
        firsts, seconds, *_ = source.read_split(path)
        documents += [f"{a}\n{b}" if b else a for a, b in zip(firsts, seconds)]
    documents = np.array(documents, object)
    if source.classes is None:
        return documents
    table, _ = load_table(dataclasses.replace(source, classes=None))
    table = dataclasses.replace(table, x=np.arange(len(documents)))
    return documents[keep_classes(table, source.classes).x]


# Keys are hashes of the weights and examples, so entries are never stale.
_CACHE: dict[tuple, tuple] = {}


def _stage_features(
    name: str, exp: Experiment, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Features of a stage, {split: (n, width)}, computed or from the cache."""
    run = setup.setup(_without_training(exp))
    stages = run.network.stages
    if name == LAST and LAST not in stages:
        name = feature_stage(stages)
    if name not in stages:
        options = (RAW, TFIDF, LAST, *stages)
        raise UserError(
            f"features={name!r}: the model has no such stage{nearest(name, options)} "
            f"(known: {', '.join(options)})."
        )
    data = run.parts.datasets["target"]
    rows = [data.rows[split] for split in names]
    used = stages[: stages.index(name) + 1]
    digest = feature_cache.cache_key(
        run, run.weights(), used, data, run.preprocess, np.concatenate(rows)
    )
    key = (digest, tuple((split, len(r)) for split, r in zip(names, rows)))
    if key in _CACHE:
        _CACHE[key] = _CACHE.pop(key)
        return dict(_CACHE[key][0])
    by_stage = linear_probe.features(run, (name,), names)
    features = {split: values[name] for split, values in by_stage.items()}
    # The digest of a plain network is its identity, so it must live as long as this.
    model = run.parts.model.config
    _CACHE[key] = dict(features), model if isinstance(model, Network) else None
    while len(_CACHE) > CACHE_SIZE:
        del _CACHE[next(iter(_CACHE))]
    return features


def _without_training(exp: Experiment) -> Experiment:
    """Removes the settings of training from an experiment."""
    return dataclasses.replace(
        exp,
        **{"terms": {}, "streams": {}, "optim": AdamW(), "phases": (), "peft": None},
        **{"average": None, "wise_ft": (), "augment": (), "monitor": None},
        metrics={},
        threshold=None,
        **{
            "batch": 1,
            "accumulate": 1,
            "devices": 1,
            "param_shards": 1,
            "tensor_shards": 1,
            "steps": 0,
        },
    )
