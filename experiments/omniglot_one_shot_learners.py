"""Omniglot's 20 one-shot runs by learners that train for them, on small backgrounds.

What `omniglot_one_shot.py` leaves out: networks trained by episodes of 20 characters,
as Siamese pairs, or without labels. Characters turned by quarters count as characters
of their own (Snell et al., NeurIPS 2017), except where no label is read. The network
has four blocks of 32 channels and a layer of 64 units, the feature; 500 steps, of one
episode (120 drawings; 40 of learners with an inner loop) or of 64 drawings in two
views. The last checkpoint is taken, and none of the runs' errors chose a setting. The
rate was looked into after they had been seen: with 1e-3 and 400 steps ProtoNet had 42.5
and 44.0 %, Siamese 54.0 and 61.2 %. Then 3e-3 was chosen by validation, for ProtoNet,
and taken for all but Reptile.

Needs:     omniglot/ below the folder that JAXTL_DATA_DIR names.
Run:       python experiments/omniglot_one_shot_learners.py FOLDER [LEARNER …]
Expected:  error in %, and its change from the modified Hausdorff distance's paired by
           run; mean of 3 seeds with 95 % intervals over the 20 runs, on 2 busy cores:

                                 small1         Δ small1       small2         Δ small2
           modified Hausdorff    38.8 ± 8.1     0.0 ± 0.0      38.8 ± 8.1     0.0 ± 0.0
           ProtoNet, Euclidean   28.8 ± 6.1     -9.9 ± 6.9     29.4 ± 5.8     -9.3 ± 5.7
           ProtoNet, cosine      33.7 ± 6.3     -5.1 ± 6.6     34.7 ± 6.0     -4.1 ± 5.9
           Siamese, Euclidean    52.6 ± 7.2     13.8 ± 8.4     50.7 ± 5.9     11.9 ± 8.4
           Siamese, cosine       55.7 ± 5.8     16.9 ± 7.0     52.4 ± 5.1     13.7 ± 8.0
           Reptile, adapted      88.4 ± 2.3     49.7 ± 7.3     87.5 ± 2.0     48.7 ± 7.7
           SimCLR, Euclidean     52.1 ± 6.2     13.3 ± 6.9     57.1 ± 6.3     18.3 ± 8.3
           SimCLR, cosine        53.4 ± 6.9     14.7 ± 7.1     58.8 ± 5.7     20.1 ± 7.4
           VICReg, Euclidean     57.4 ± 5.7     18.7 ± 7.5     59.9 ± 6.3     21.2 ± 7.0
           VICReg, cosine        57.8 ± 6.3     19.0 ± 6.6     61.4 ± 6.3     22.7 ± 7.0
           MAML, adapted         71.4 ± 3.0     32.7 ± 7.7     73.4 ± 2.6     34.7 ± 7.7

           The error of each seed, of small1 and then of small2:

           modified Hausdorff    38.8  38.8
           ProtoNet, Euclidean   30.8  25.8  30.0  26.2  31.5  30.5
           ProtoNet, cosine      36.0  31.8  33.2  34.8  33.0  36.2
           Siamese, Euclidean    54.8  54.0  49.0  48.5  53.5  50.0
           Siamese, cosine       57.2  55.5  54.2  54.2  51.2  51.8
           Reptile, adapted      89.0  88.8  87.5  90.0  87.2  85.2
           SimCLR, Euclidean     52.0  52.0  52.2  54.0  57.2  60.0
           SimCLR, cosine        53.5  52.2  54.5  55.5  58.0  63.0
           VICReg, Euclidean     55.5  58.2  58.5  59.2  59.8  60.8
           VICReg, cosine        58.2  54.0  61.0  59.8  62.0  62.5
           MAML, adapted         67.5  72.2  74.5  72.5  73.2  74.5

Only ProtoNet is below the modified Hausdorff distance (38.8 %; Lake's demo has the
same). A network that learns to classify the characters (`omniglot_one_shot.py`: other
widths, 1000 steps, one seed) has 30.0 % by cosine on small1 and 26.0 % on small2,
within ProtoNet's intervals. All others are above the distance after 500 steps; longer
trainings were not tried, and why they fall short is not explained. Published errors
for these two backgrounds could not be checked in their source, so none is printed.

Validation: 60 episodes of 20 characters of an alphabet of small1 that small2 lacks, by
learners of small2 with seed 100. By Euclidean distance ProtoNet has an error of 42.2 %
after 400 steps with a rate of 1e-3 (35.8 % after 1000 steps), and of 37.0 % with 3e-3
(37.6 % without turned characters); Siamese has 59.9 % (400 steps, 3e-3). Reptile has
87.8 % (400 steps), and 86.2 % (500 steps) with an inner rate of 0.4 in place of 0.05,
so that rate alone is not what it lacks. As

    python experiments/omniglot_one_shot_learners.py validate ProtoNet
    optim.lr.peak=0.001 steps=400 evaluate_every=400
"""

import dataclasses
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxtl as tl
from experiments import omniglot_one_shot as one_shot
from jaxtl.core import config
from jaxtl.data import preprocess
from jaxtl.results import statistics
from jaxtl.terms.fewshot.base import EpisodeNetwork, FeatureTerm
from jaxtl.terms.fewshot.inner_loop import InnerLoopTerm

SEEDS = range(3)
STEPS, WIDTH, WAYS = 500, 32, 20
BACKGROUNDS = ("small1", "small2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Siamese(FeatureTerm):
    """Verification of pairs by the weighted distance of their features.

    p(same) = σ(Σ_j w_j |a_j − b_j| + c); each query with each support example, pairs of
    the same and of different characters with half of the weight each.

    References:
      Koch, Zemel, Salakhutdinov, Siamese Neural Networks for One-shot Image
      Recognition, ICML deep learning workshop 2015.
    """

    def init(self, key, setup):
        return {"w": -jnp.ones(self.feature_width(setup)), "c": jnp.ones(())}

    def classify(self, term_params, support, queries):
        a, b = jax.nn.sigmoid(queries), jax.nn.sigmoid(support[:, 0])
        return jnp.abs(a[:, None] - b) @ term_params["w"] + term_params["c"]

    def loss(self, logits, labels):
        same = jax.nn.one_hot(labels, logits.shape[-1])
        ways = logits.shape[-1]
        errors = jax.nn.softplus(jnp.where(same > 0, -logits, logits))
        return jnp.mean(jnp.sum(errors * (same + (1 - same) / (ways - 1)), -1)) / 2


VIEWS = (
    tl.data.RandomResizedCrop(scale=(0.5, 1.0)),
    tl.data.GaussianBlur(sigma=(0.1, 1.0), probability=0.3),
)
HEADS = {"projector": (128, 64), "views": VIEWS}
LEARNERS = {
    "ProtoNet": tl.fewshot.ProtoNet(),
    "Siamese": Siamese(),
    "Reptile": tl.fewshot.Reptile(steps=5, rate=0.05),
    "SimCLR": tl.selfsup.SimCLR(**HEADS),
    "VICReg": tl.selfsup.VICReg(**HEADS),
    "MAML": tl.fewshot.MAML(steps=1, rate=0.4, test_steps=3),
}

# Of the features of learners that adapt nothing; 1-NN by each.
DISTANCES = {
    "Euclidean": tl.episodes.NearestMean(),
    "cosine": tl.episodes.NearestNeighbor(distance="cosine"),
}


def experiment(name: str, background: str, seed: int) -> tl.Experiment:
    """Training of a learner on a background set."""
    x, y = one_shot.background(one_shot.BACKGROUNDS[background])
    term, data = LEARNERS[name], {}
    reads_labels = name not in ("SimCLR", "VICReg")
    if reads_labels:
        turned = [np.rot90(x, turns, (1, 2)) for turns in range(4)]
        x = np.concatenate(turned)
        y = np.concatenate([4 * y + turns for turns in range(4)])
        queries = 1 if isinstance(term, InnerLoopTerm) else 5
        data["sampling"] = tl.data.Episodes(
            ways=WAYS, shots=1, queries=queries, tasks=1, val_episodes=2
        )
        data["val"] = 40
    else:
        data |= {"labels": 0, "val": 200}
    optim = tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-3), weight_decay=0.0)
    if name == "Reptile":
        optim = tl.optim.SGD(lr=tl.optim.Cosine(peak=1.0), momentum=0.0)
    return tl.Experiment(
        model=tl.models.CNN(widths=(WIDTH,) * 4, units=64, pool=4, norm=True),
        data=tl.data.Arrays(x=x, y=y, test=0, split_seed=0, **data),
        terms={"learn": term},
        optim=optim,
        augment=(tl.data.Crop(pad=2),),
        monitor=None,
        steps=STEPS,
        batch=64,
        evaluate_every=STEPS,
        seed=seed,
    )


def adapted_errors(run: tl.Run, episodes: list) -> np.ndarray:
    """Errors in % of the runs after inner steps on their examples; transductive."""
    network, term = run.network, run.exp.terms["learn"]
    labels = jnp.arange(WAYS)

    @jax.jit
    def logits(params, stats, x):
        def apply(x, params=params, **settings):
            settings = {name: v for name, v in settings.items() if v is not None}
            return network.apply(params, stats, x, train=network.stages, **settings)

        episode = EpisodeNetwork(
            network=network,
            run=apply,
            params=params,
            mask=jax.tree.map(lambda _: True, params),
            term_params={},
            key=jax.random.key(0),
            training=False,
            unroll=True,
        )
        support, queries = (x[:WAYS], labels), (x[WAYS:], labels)
        return term.solved(episode, support, queries).logits

    errors = []
    for support, queries, answers in episodes:
        x = np.stack([one_shot.small(image) for image in (*support, *queries)])
        x = preprocess.apply(run.evaluation_model().preprocess, x)
        guesses = np.asarray(logits(*run.weights("best"), x)).argmax(1)
        errors.append(100 * np.mean(guesses != answers))
    return np.array(errors)


def errors_of(run: tl.Run, name: str, episodes: list) -> dict[str, np.ndarray]:
    """Errors in % of the 20 runs, by {way of classification: (20,)}."""
    if isinstance(LEARNERS[name], InnerLoopTerm):
        return {"adapted": adapted_errors(run, episodes)}
    features = {
        number: one_shot.network_features(run, [*support, *queries])
        for number, (support, queries, _) in enumerate(episodes)
    }
    return {
        distance: one_shot.errors_of_features(method, episodes, features, 0)
        for distance, method in DISTANCES.items()
    }


def measured(
    folder: pathlib.Path, name: str, background: str, seed: int, episodes: list
) -> dict[str, list[float]]:
    """Errors in % of the 20 runs by a learner, {way of classification: (20,)}.

    A training that the folder has a file of is not repeated.
    """
    path = folder / f"{name}, {background}, {seed}.json"
    if not path.exists():
        run = tl.setup(experiment(name, background, seed))
        tl.train(run, progress=False)
        errors = {k: v.tolist() for k, v in errors_of(run, name, episodes).items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(errors))
        print(path.stem, {k: np.mean(v) for k, v in errors.items()}, flush=True)
    return json.loads(path.read_text())


def hausdorff_errors(folder: pathlib.Path, episodes: list) -> list[float]:
    """Errors in % of the 20 runs by the modified Hausdorff distance, kept in a file."""
    path = folder / "modified Hausdorff.json"
    if not path.exists():
        guesses = [one_shot.hausdorff_scores(s, q).argmax(1) for s, q, _ in episodes]
        errors = [100 * np.mean(g != y) for g, (_, _, y) in zip(guesses, episodes)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(errors))
    return json.loads(path.read_text())


def table(errors: dict[str, np.ndarray], hausdorff: np.ndarray) -> list[str]:
    """Lines: error and its change from the modified Hausdorff's, by background.

    Intervals are over the 20 runs, of each the mean of the seeds; changes are paired by
    run. Lines of the mean of each seed follow.

    Args:
      errors: label -> (seeds, backgrounds, runs).
      hausdorff: (runs,).
    """
    lines, of_seeds = [], []
    for label, values in errors.items():
        cells, means = [], []
        for of_background in np.moveaxis(values, 1, 0):
            of_runs = of_background.mean(0)
            for numbers in (of_runs, of_runs - hausdorff):
                estimate = statistics.estimate(list(numbers))
                cells.append(f"{estimate.mean:.1f} ± {estimate.half:.1f}")
            means += [f"{error:.1f}" for error in of_background.mean(1)]
        lines.append(f"{label:<22}" + "".join(f"{c:<15}" for c in cells).rstrip())
        of_seeds.append(f"{label:<22}" + "  ".join(means))
    return [*lines, "", *of_seeds]


def validation_episodes() -> list:
    """60 episodes like the runs: 20 characters of an alphabet that small2 lacks.

    The alphabets are those of small1 that small2 does not hold too, one after another;
    each character has two drawings, by two drawers.
    """
    drawings: dict[str, dict[str, dict[str, list]]] = {}
    for name in BACKGROUNDS:
        with one_shot.archive(f"images_background_{name}") as files:
            for path in files.namelist():
                if path.endswith(".png"):
                    _, alphabet, character, _ = path.split("/")
                    characters = drawings.setdefault(name, {}).setdefault(alphabet, {})
                    image = one_shot.drawing(files.read(path))
                    characters.setdefault(character, []).append(image)
    alphabets = [a for a in drawings["small1"] if a not in drawings["small2"]]
    rng, episodes = np.random.default_rng(1), []
    for number in range(60):
        characters = list(
            drawings["small1"][alphabets[number % len(alphabets)]].values()
        )
        drawn = [characters[i] for i in rng.permutation(len(characters))[:WAYS]]
        first, second = rng.permutation(20)[:2]
        support, queries = ([images[i] for images in drawn] for i in (first, second))
        episodes.append((support, queries, np.arange(WAYS)))
    return episodes


def validate(name: str, *changes: str) -> None:
    """Prints the error of a learner of small2 on alphabets of small1, with seed 100.

    Args:
      name: of the learner.
      *changes: of its experiment, as optim.lr.peak=0.001.
    """
    exp = experiment(name, "small2", 100)
    for change in changes:
        path, _, value = change.partition("=")
        exp = config.override(exp, path, value)
    run = tl.setup(exp)
    tl.train(run, progress=False)
    for way, errors in errors_of(run, name, validation_episodes()).items():
        print(f"{name}, {way:<10}  {np.mean(errors):5.1f} %  {' '.join(changes)}")


def main(folder: str, *names: str) -> None:
    """Trains learners on backgrounds by each seed; prints the table of their errors.

    Args:
      folder: gets a JSON file of each training.
      *names: of learners and of backgrounds; all by default.
    """
    episodes = one_shot.runs()
    learners = [name for name in LEARNERS if name in names] or list(LEARNERS)
    backgrounds = [name for name in BACKGROUNDS if name in names] or BACKGROUNDS
    hausdorff = hausdorff_errors(pathlib.Path(folder), episodes)
    errors: dict[str, list] = {"modified Hausdorff": [[hausdorff] * len(backgrounds)]}
    for seed in SEEDS:
        for name in learners:
            rows = [
                measured(pathlib.Path(folder), name, background, seed, episodes)
                for background in backgrounds
            ]
            for way in rows[0]:
                label = f"{name}, {way}"
                errors.setdefault(label, []).append([row[way] for row in rows])
    print(" " * 22 + "".join(f"{b:<15}{'Δ ' + b:<15}" for b in backgrounds).rstrip())
    lines = table({k: np.array(v) for k, v in errors.items()}, np.array(hausdorff))
    print("\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1] == "validate":
        validate(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
