"""Omniglot over episodes: 5 ways, 1 shot, of characters that were not trained on.

The 242 characters (8 alphabets) of the two small background sets, an image folder with
a sub-folder per character, as anybody's own. Make it with

    unzip images_background_small1.zip && unzip images_background_small2.zip
    for d in images_background_small[12]/*/*; do
      to="omniglot/characters/$(basename "$(dirname "$d")")-$(basename "$d")"
      mkdir -p "$to" && cp "$d"/* "$to"
    done

Needs:     that folder, below the working directory or JAXTL_DATA_DIR.
Run:       jaxtl run experiments/omniglot_episodes.py
Expected:  accuracy of queries over 100 episodes of 36 validation characters and 600 of
           60 test characters, mean ± 95 % interval over 3 seeds; 343 s on one core:

  run                  val accuracy %   test accuracy %   seeds
  untrained features      46.3 ± 11.0        45.5 ± 7.6       3
  ProtoNet                 92.2 ± 1.5        91.4 ± 0.9       3
  FOMAML                   77.1 ± 8.0        78.9 ± 4.4       3

FOMAML takes half of ProtoNet's steps here. Its evaluations are transductive (BatchNorm
sees all queries of an episode), the other rows' are not.
"""

import jaxtl as tl

SEEDS = range(3)


def experiment():
    ink = tl.data.Preprocess(scale=255, mean=(1.0,), std=(1.0,))
    episodes = tl.data.Episodes(
        ways=5, shots=1, queries=5, tasks=4, val_episodes=100, test_episodes=600
    )
    characters = tl.data.ImageFolder(
        path="omniglot/characters",
        size=28,
        channels=1,
        val=0.15,
        test=0.25,
        split_seed=0,
        preprocess=ink,
        sampling=episodes,
    )
    shared = dict(
        model=tl.models.CNN(widths=(32, 32, 32, 32), pool=4, units=64, norm=True),
        data=characters,
        augment=(tl.data.Crop(pad=2),),
        evaluate_every=100,
    )
    adam = tl.optim.AdamW(lr=tl.optim.Cosine(peak=2e-3), weight_decay=0.0)
    return {
        "untrained features": tl.Experiment(
            **shared, terms={"learn": tl.fewshot.ProtoNet()}, steps=0
        ),
        "ProtoNet": tl.Experiment(
            **shared, terms={"learn": tl.fewshot.ProtoNet()}, optim=adam, steps=600
        ),
        "FOMAML": tl.Experiment(
            **shared,
            terms={"learn": tl.fewshot.FOMAML(steps=3, rate=0.1, test_steps=5)},
            optim=adam,
            steps=300,
        ),
    }
