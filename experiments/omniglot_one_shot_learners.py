"""Omniglot's 20 one-shot runs by learners that train for them, on small backgrounds.

What `omniglot_one_shot.py` leaves out: networks trained by episodes of 20 characters,
as Siamese pairs, or without labels. Characters turned by quarters count as characters
of their own (Snell et al., NeurIPS 2017), except where no label is read. The network
has four blocks of 64 channels and a layer of 64 units, the feature; the last checkpoint
is taken, and the runs chose nothing.

Needs:     omniglot/ below the folder that JAXTL_DATA_DIR names.
Run:       python experiments/omniglot_one_shot_learners.py FOLDER [LEARNER …]
Expected:  no figures yet: it needs a GPU and has not been run in full.
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
from jaxtl.data import preprocess
from jaxtl.terms.fewshot.base import EpisodeNetwork, FeatureTerm
from jaxtl.terms.fewshot.inner_loop import InnerLoopTerm

SEEDS = range(3)
STEPS = 2000
WAYS = 20


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
    "MAML": tl.fewshot.MAML(steps=1, rate=0.4, test_steps=3),
    "Reptile": tl.fewshot.Reptile(steps=5, rate=0.05, test_steps=20),
    "SimCLR": tl.selfsup.SimCLR(**HEADS),
    "VICReg": tl.selfsup.VICReg(**HEADS),
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
            ways=WAYS, shots=1, queries=queries, tasks=4, val_episodes=2
        )
        data["val"] = 40
    else:
        data |= {"labels": 0, "val": 200}
    optim = tl.optim.AdamW(lr=tl.optim.Cosine(peak=1e-3), weight_decay=0.0)
    if name == "Reptile":
        optim = tl.optim.SGD(lr=tl.optim.Cosine(peak=1.0), momentum=0.0)
    return tl.Experiment(
        model=tl.models.CNN(widths=(64,) * 4, units=64, pool=4, norm=True),
        data=tl.data.Arrays(x=x, y=y, test=0, split_seed=0, **data),
        terms={"learn": term},
        optim=optim,
        augment=(tl.data.Crop(pad=2),),
        monitor=None,
        steps=STEPS,
        batch=256 if not reads_labels else 64,
        evaluate_every=STEPS,
        seed=seed,
    )


def adapted_scores(run: tl.Run, support: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Logits (20, 20) of the queries after inner steps on the support; transductive."""
    params, stats = run.weights("best")
    term = run.exp.terms["learn"]
    network, pre = run.network, run.evaluation_model().preprocess
    x = preprocess.apply(pre, np.concatenate([support, queries]))

    def apply(x, params=params, **settings):
        settings = {name: v for name, v in settings.items() if v is not None}
        return network.apply(params, stats, x, train=network.stages, **settings)

    own = EpisodeNetwork(
        network=network,
        run=apply,
        params=params,
        mask=jax.tree.map(lambda _: True, params),
        term_params={},
        key=jax.random.key(0),
        training=False,
    )
    labels = jnp.arange(WAYS)
    output = term.solved(own, (x[:WAYS], labels), (x[WAYS:], labels))
    return np.asarray(output.logits)


def errors_of(run: tl.Run, name: str, episodes: list) -> dict[str, np.ndarray]:
    """Errors in % of the 20 runs, by {way of classification: (20,)}."""
    if isinstance(LEARNERS[name], InnerLoopTerm):
        errors = []
        for support, queries, labels in episodes:
            examples, drawings = (
                np.stack([one_shot.small(image) for image in images])
                for images in (support, queries)
            )
            guesses = adapted_scores(run, examples, drawings).argmax(1)
            errors.append(100 * np.mean(guesses != labels))
        return {"adapted": np.array(errors)}
    features = {
        number: one_shot.network_features(run, [*support, *queries])
        for number, (support, queries, _) in enumerate(episodes)
    }
    return {
        title: one_shot.errors_of_features(method, episodes, features, 0)
        for title, method in one_shot.METHODS.items()
        if not method.centered
    }


def main(folder: str, *names: str) -> None:
    """Trains learners on each background by each seed; writes and prints their errors.

    Args:
      folder: gets a JSON file of each learner, written after each training.
      *names: of learners; all by default.
    """
    episodes = one_shot.runs()
    for name in names or LEARNERS:
        errors: dict[str, list[list[float]]] = {}
        for seed in SEEDS:
            for background in one_shot.BACKGROUNDS:
                run = tl.setup(experiment(name, background, seed))
                tl.train(run, progress=False)
                for title, values in errors_of(run, name, episodes).items():
                    key = f"{background}, {name}, {title}"
                    errors.setdefault(key, []).append([float(v) for v in values])
                path = pathlib.Path(folder) / f"{name}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(errors))
                print(seed, background, name, flush=True)
        for key, values in errors.items():
            one_shot.summary(key, np.mean(values, axis=0))
            print("    by seed:", np.mean(values, axis=1).round(2).tolist(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
