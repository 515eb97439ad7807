"""Does staying near θ₀ help, in parameters, in Jacobians, or in both?

λ of L2-SP × λ of the Jacobian difference × labels per class, on rendered →
handwritten digits, USPS → MNIST and MNIST → USPS, with a perceptron: every number is
traced, so that all cells of a transfer are lanes of one compiled program.

Needs:     digits/{usps,mnist}.npz below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl sweep experiments/ablation_l2sp_jacobian.py
Expected:  TODO
"""

import jaxtl as tl

MODEL = tl.models.MLP(widths=(128, 64))
SWEEP = {
    "terms.l2sp.weight": [0.0, 0.001, 0.01, 0.1],
    "terms.jacobian.weight": [0.0, 1e-5, 1e-4, 1e-3],
    "optim.lr": [3e-4, 1e-3],
    "data.labels_per_class": [2, 5, 10],
    "seed": range(5),
}


def source(data) -> tl.Experiment:
    """Returns what is trained on the source domain."""
    optimizer = tl.optim.AdamW(lr=tl.schedules.Cosine(peak=3e-3), weight_decay=1e-3)
    return tl.Experiment(model=MODEL, data=data, optim=optimizer, steps=1000)


def target(data, start: str) -> tl.Experiment:
    """Returns the transfer whose numbers are varied."""
    return tl.Experiment(
        model=MODEL,
        data=data,
        init=tl.Variant(start),
        terms={
            "task": tl.losses.CrossEntropy(),
            "l2sp": tl.regularizers.L2SP(weight=0.0),
            "jacobian": tl.regularizers.JacobianDifference(weight=0.0),
        },
        optim=tl.optim.AdamW(lr=1e-3),
        steps=200,
        batch=20,
        evaluate_every=40,
    )


def experiment():
    usps = dict(path="digits/usps.npz", scale=2000)
    mnist = dict(path="digits/mnist.npz", size=16)
    few = dict(val=500, split_seed=0)
    return {
        "fonts": source(tl.data.RenderedDigits()),
        "usps": source(tl.data.Arrays(**usps)),
        "mnist": source(tl.data.Arrays(**mnist)),
        "fonts → digits": target(tl.data.Digits(val=0.3, split_seed=0), "fonts"),
        "usps → mnist": target(tl.data.Arrays(**mnist, **few), "usps"),
        "mnist → usps": target(tl.data.Arrays(**usps, **few), "mnist"),
    }
