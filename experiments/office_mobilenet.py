"""Office-Caltech10, amazon → webcam, on frozen MobileNet features.

The features (ImageNet MobileNet v1 0.25, 256 numbers) are computed once; what is
trained here is the head. Amazon's pictures are product shots, webcam's are not.

Needs:     office_caltech/mobilenet_v1_0.25_feat256.npz below the folder JAXTL_DATA_DIR
           names.
Run:       jaxtl run experiments/office_mobilenet.py
Expected:  webcam test accuracy in % with 3 labels per class, mean ± 95 % interval over
           5 seeds; half a minute of CPU time:

           scratch        87.3 ± 3.5
           amazon as is   70.3
           fine-tuning    90.0 ± 4.7
           both domains   88.1 ± 2.8
           DeepCORAL      87.6 ± 3.3
           DANN           88.0 ± 3.2

The last three train on the labels of both domains; "amazon as is" has one source. No
method is told apart from scratch with certainty.
"""

import jaxtl as tl

SEEDS = range(5)
FEATURES = "office_caltech/mobilenet_v1_0.25_feat256.npz"


def domain(name: str, **settings):
    return tl.data.Arrays(FEATURES, x=f"x_{name}", y=f"y_{name}", **settings)


def experiment():
    model = tl.models.MLP(widths=(128,))
    task = tl.losses.CrossEntropy()
    amazon = tl.Experiment(
        model=model,
        data=domain("amazon", test=0.2, split_seed=0),
        optim=tl.optim.AdamW(lr=1e-3, weight_decay=1e-2),
        steps=300,
    )
    # Three labelled webcam pictures a class, the usual semi-supervised protocol.
    webcam = dict(
        model=model,
        data=domain("webcam", labels_per_class=3, test=0.5, val=0, split_seed=0),
        monitor=None,
        steps=300,
        optim=tl.optim.AdamW(lr=1e-3, weight_decay=1e-2),
    )
    start = tl.Variant("amazon")
    both = {"amazon": domain("amazon", split_seed=0)}
    here = tl.losses.CrossEntropy(stream="amazon")
    return {
        "amazon": amazon,
        "scratch": tl.Experiment(**webcam),
        "amazon, as it is": tl.Experiment(**{**webcam, "steps": 0}, init=start),
        "fine-tuning": tl.Experiment(**webcam, init=start),
        "both domains": tl.Experiment(
            **webcam, streams=both, terms={"task": task, "amazon": here}
        ),
        "both, deep CORAL": tl.Experiment(
            **webcam,
            streams=both,
            terms={
                "task": task,
                "amazon": here,
                "coral": tl.domain.DeepCORAL(weight=1.0, source="amazon"),
            },
        ),
        "both, DANN": tl.Experiment(
            **webcam,
            streams=both,
            terms={
                "task": task,
                "amazon": here,
                "domain": tl.domain.DANN(weight=0.3, source="amazon"),
            },
        ),
    }
