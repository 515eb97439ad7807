"""Domain adaptation on arrays of features: numpy in, numpy out, float64, no training.

Methods that map features have `fit(xs, xt[, ys])`, `transform(x, domain)` and
`fit_transform`; those that weigh source examples have `fit(xs, xt)` and `weights`,
which any scikit-learn learner takes as `sample_weight`; TrAdaBoost is a classifier.
"""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "CORAL": "coral",
        "GFK": "gfk",
        "JDA": "jda",
        "KLIEP": "kliep",
        "KMM": "kmm",
        "OTMapping": "transport",
        "SubspaceAlignment": "subspace",
        "TCA": "tca",
        "TrAdaBoost": "tradaboost",
        "nearest": "neighbour",
        "nearest_accuracy": "neighbour",
    },
)
