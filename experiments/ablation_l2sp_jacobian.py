"""Does staying near θ₀ help, in parameters, in Jacobians, or in both?

Neither, L2-SP, the Jacobian difference, and both × their λ × learning rate × labels
per class, on rendered → handwritten digits, USPS → MNIST and MNIST → USPS, with a
perceptron: all numbers are traced, so that a method's cells on a transfer are replicas
of one compiled program. Rates and λ are chosen on validation.

Needs:     digits/{usps,mnist}.npz below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl sweep experiments/ablation_l2sp_jacobian.py
           jaxtl report runs/sweep-ablation_l2sp_jacobian/TIME --baseline method=full
Expected:  reports/ablation_l2sp_jacobian/report.md beside this file: 2,160 cells, of
           which the best on validation are compared on test. None of the 27 differences
           to plain fine-tuning is significant (5 seeds, paired, Holm); the largest are
           +2.2 ± 2.3 points (both terms, rendered → handwritten, 2 labels) and
           −1.2 ± 2.1.

Validation nearly always picks the smallest λ of either term, and accuracy falls as λ
grows from there: on these transfers distance from θ₀ is not what hurts. Where both
chose the same rate, L2-SP ends a sixth to two fifths nearer to θ₀ than fine-tuning, at
the same accuracy, so it costs nothing either. If the terms help anywhere it is at 2
labels per class on the smallest shift, by less than five seeds can tell.
"""

import jaxtl as tl

MODEL = tl.models.MLP(widths=(128, 64))
L2SP = {"terms.l2sp": tl.regularizers.L2SP()}
JACOBIAN = {"terms.jacobian": tl.regularizers.JacobianDifference()}
SWEEP = {
    "method": {
        "full": {},
        "L2-SP": L2SP,
        "Jacobian": JACOBIAN,
        "both": L2SP | JACOBIAN,
    },
    "terms.l2sp.weight": tl.sweep.When(
        {"method": ("L2-SP", "both")}, [0.001, 0.01, 0.1]
    ),
    "terms.jacobian.weight": tl.sweep.When(
        {"method": ("Jacobian", "both")}, [1e-5, 1e-4, 1e-3]
    ),
    "optim.lr": [1e-3, 3e-3, 1e-2],
    "data.labels_per_class": [2, 5, 10],
    "seed": range(5),
}


def source(data) -> tl.Experiment:
    """The experiment that trains a source model."""
    optimizer = tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-3), weight_decay=1e-3)
    return tl.Experiment(model=MODEL, data=data, optim=optimizer, steps=1000)


def target(data, start: str) -> tl.Experiment:
    """The transfer, whose traced numbers the sweep varies."""
    return tl.Experiment(
        model=MODEL,
        data=data,
        init=tl.Variant(start),
        terms={"task": tl.losses.CrossEntropy()},
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
