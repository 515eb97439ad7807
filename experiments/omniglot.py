"""Omniglot: characters of other alphabets → Latin letters, 5 drawings per letter.

Two image folders, as anybody's own: a sub-folder per class. Make them with

    unzip images_background_small1.zip && mkdir -p omniglot/latin omniglot/others
    for d in images_background_small1/*/*; do
      case "$d" in */Latin/*) to=latin;; *) to=others;; esac
      cp -r "$d" "omniglot/$to/$(basename "$(dirname "$d")")-$(basename "$d")"
    done

Needs:     those two folders, below the working directory or JAXTL_DATA_DIR.
Run:       jaxtl run experiments/omniglot.py
Expected:  test accuracy over 26 letters in %, mean ± 95 % interval over 3 seeds; about
           2 minutes of CPU time on 2 cores:

           scratch                   63.1 ± 9.1
           feature extraction        81.7 ± 2.4
           fine-tuning               66.3 ± 2.1
           first two blocks frozen   70.4 ± 11.0
"""

import jaxtl as tl

SEEDS = range(3)


def experiment():
    model = tl.models.CNN(widths=(32, 32, 64), units=128, pool=3, norm=True)

    ink = tl.data.Preprocess(scale=255, mean=(1.0,), std=(1.0,))
    other_alphabets = tl.data.ImageFolder(
        path="omniglot/others", size=28, channels=1, preprocess=ink
    )
    latin = tl.data.ImageFolder(
        path="omniglot/latin",
        size=28,
        channels=1,
        labels_per_class=5,
        test=0.4,
        val=0,
        split_seed=0,
        preprocess=ink,
    )
    shared = dict(model=model, data=latin, steps=200, batch=64, monitor=None)
    tuned = dict(init=tl.Variant("others", reset="head"))
    return {
        "others": tl.Experiment(
            model=model,
            data=other_alphabets,
            optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-3)),
            augment=(tl.data.Crop(pad=2),),
            steps=600,
        ),
        "scratch": tl.Experiment(**shared),
        "feature extraction": tl.Experiment(
            **shared,
            **tuned,
            optim=tl.optim.AdamW(lr=1e-2, groups={"head": 1.0, ".*": tl.FROZEN}),
        ),
        "fine-tuning": tl.Experiment(**shared, **tuned),
        "freeze first two blocks": tl.Experiment(
            **shared,
            **tuned,
            optim=tl.optim.AdamW(groups={"block[12]": tl.FROZEN, ".*": 1.0}),
        ),
    }
