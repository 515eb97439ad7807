"""Classical baselines on an experiment's own splits: what to try before a network.

An experiment file may hold `BASELINES = {"k-NN": tl.baselines.KNN(), …}`.
"""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Baseline": "base",
        "KNN": "learners",
        "LogisticRegression": "learners",
        "Ridge": "learners",
        "SVM": "learners",
        "RandomForest": "learners",
        "GradientBoosting": "learners",
        "depends_on": "fitting",
        "key": "fitting",
        "named": "fitting",
        "run": "fitting",
    },
)
