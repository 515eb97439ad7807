"""Where penalties help: accuracy on the target, and what is forgotten of the source.

Six penalties, WiSE-FT and LoRA beside tuned plain fine-tuning, with the same search
budget: eight candidates of each method are scored on validation rows by two seeds of
their own. Two of them are chosen, "for the target" by the target's accuracy and "for
both" by its mean with the source's; five other seeds train them and test them once, on
the target's test rows and on the source's. Every run keeps its last step.

Needs:     below the folder that JAXTL_DATA_DIR names, digits/{usps,mnist}.npz,
           office_caltech/photos.zip, photos/hymenoptera.zip and
           pretrained/mobilenet_v1_0.25_224_imagenet.safetensors, as the settings do.
Run:       python experiments/penalties.py FOLDER domains         # stops and continues
           python experiments/penalties.py FOLDER domains LwF EWC # a part of it
           python experiments/penalties_table.py FOLDER domains plot.svg
Expected:  `domains` (θ₀ has 96.3 % on the source), accuracy in per cent, mean ± 95 %
           interval over 5 seeds, on 2 busy cores; the plot is
           docs/static/penalties.svg:

                              chosen for the target:  chosen for both:
                              on target   on source   on target   on source
           fine-tuning        89.1 ± 0.9  89.6 ± 0.7  88.8 ± 1.3  93.4 ± 0.6
           L2-SP              89.4 ± 0.7  90.9 ± 1.0  87.7 ± 1.3  94.0 ± 0.5
           EWC                89.4 ± 0.6  90.9 ± 0.4  89.5 ± 0.8  93.0 ± 0.7
           DELTA              89.4 ± 1.0  91.1 ± 0.4  89.7 ± 0.8  93.0 ± 0.4
           LwF                89.4 ± 1.0  90.7 ± 0.9  89.7 ± 0.7  93.5 ± 0.5
           Jacobian, params   90.4 ± 1.2  93.1 ± 0.6  90.4 ± 1.2  93.1 ± 0.6
           Jacobian, inputs   89.8 ± 0.9  90.7 ± 1.4  90.1 ± 0.8  93.1 ± 0.8
           WiSE-FT            89.8 ± 1.2  90.6 ± 0.5  89.1 ± 0.8  94.2 ± 0.6
           LoRA               87.3 ± 2.0  87.5 ± 2.4  87.2 ± 1.3  89.1 ± 2.4

           Paired differences to plain fine-tuning chosen by the same criterion; "*" is
           significant after Holm's correction over all 32:

           L2-SP              +0.2±0.2    +1.3±0.5    -1.1±0.4    +0.6±0.2
           EWC                +0.2±0.5    +1.4±0.4*   +0.7±0.7    -0.5±0.4
           DELTA              +0.2±0.2    +1.5±1.0    +0.9±0.7    -0.4±0.4
           LwF                +0.2±0.6    +1.1±0.9    +0.9±1.4    +0.0±0.6
           Jacobian, params   +1.2±0.7    +3.6±1.1*   +1.6±1.6    -0.3±0.9
           Jacobian, inputs   +0.6±0.4    +1.2±1.5    +1.3±0.9    -0.3±0.3
           WiSE-FT            +0.7±0.5    +1.1±0.2*   +0.4±1.2    +0.8±0.5
           LoRA               -1.9±1.5    -2.0±2.1    -1.6±2.2    -4.3±2.0

           The settings `classes`, `office` and `insects` have not been run: other
           classes, photographs and text are not measured.

The Jacobian difference by parameters is the furthest ahead: chosen for the target, it
gains there and keeps more of the source (+1.2 ± 0.7, +3.6 ± 1.1). Plain fine-tuning at
1e-4 keeps as much, with less on the target (by 1.6 ± 1.6, which is not told apart).
The other penalties and WiSE-FT, chosen for the target, are 0.2 to 0.7 above there, half
of them within the interval, and keep 1.1 to 1.5 more of the source (the Jacobian by
inputs within the interval), but so does a lower rate: plain fine-tuning at 3e-4 has, as
the printed table tells, 89.4 ± 0.8 on the target and keeps 91.2 ± 0.7. Chosen for both,
WiSE-FT and L2-SP keep 0.8 ± 0.5 and 0.6 ± 0.2 more than plain fine-tuning, L2-SP at a
loss of 1.1 ± 0.4 on the target; the others do not keep more, and DELTA, EWC and the
Jacobian by inputs gain 0.7 to 1.3 on the target for 0.3 to 0.5 less on the source. LoRA
is below plain fine-tuning in all four columns (significant in none).

Against plain fine-tuning at the same rate, which the printed table has too, every
penalty keeps more of the source (by 1.8 to 5.6 points); at the higher rate, 1e-3, all
but LwF gain on the target as well.

Limits. Candidates were chosen on 1,000 labeled rows of the target and 1,000 of the
source, beside 50 labels for training: far more than who has few labels can spare. Plain
fine-tuning was searched at eight rates, the others at two rates with four strengths, so
that a gain in the table may partly be the rate's. Of the 16 differences on the target 7
are gains and 2 are losses whose intervals are without 0, several barely; none of them
is significant after the correction, and on the source three are. Best candidates lie at
the end of what was tried: with two rates every rate does; LoRA's is the lower one and
its rank for both the smallest, 1; the strengths of L2-SP and EWC (0.01), of the
Jacobian by inputs (0.001) and of WiSE-FT (0.8) for the target do. Beyond the ends
nothing is known.
"""

import dataclasses
import functools
import io
import json
import pathlib
import statistics
import sys
import zipfile
from collections.abc import Mapping

import numpy as np

import jaxtl as tl
from jaxtl.analysis import importance
from jaxtl.data import paths
from jaxtl.evaluation.evaluate import evaluate_weights, predict_with_weights
from jaxtl.terms.regularizers import importance_file
from jaxtl.training.wise_ft import between

TUNING_SEEDS, SEEDS = (100, 101), range(5)
PLAIN = "fine-tuning"
CRITERIA = ("for the target", "for both")
reg = tl.regularizers
MOBILENET = "pretrained/mobilenet_v1_0.25_224_imagenet.safetensors"
OFFICE, INSECTS = "office_caltech/photos.zip", "photos/hymenoptera.zip"

# Method -> the four strengths it is tried with, at two learning rates.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "L2-SP": (0.01, 0.1, 1.0, 10.0),
    "EWC": (0.01, 0.1, 1.0, 10.0),
    "DELTA": (0.001, 0.01, 0.1, 1.0),
    "LwF": (0.1, 0.5, 2.0, 10.0),
    "Jacobian, params": (1e-5, 1e-4, 1e-3, 1e-2),
    "Jacobian, inputs": (0.001, 0.01, 0.1, 1.0),
    "WiSE-FT": (0.2, 0.4, 0.6, 0.8),  # α: the share of the fine-tuned weights
    "LoRA": (1, 2, 4, 8),  # rank
}
METHODS = (PLAIN, *STRENGTHS)


@functools.cache
def photographs(name: str, size: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Reads an archive's photographs, their middle squares, sorted by name.

    Returns:
      (n, size, size, 3) bytes, and (folder, class) of each.
    """
    from PIL import Image, ImageOps

    images, labels = [], []
    with zipfile.ZipFile(paths.find(name, "photographs")) as archive:
        for path in sorted(n for n in archive.namelist() if n.endswith(".jpg")):
            picture = Image.open(io.BytesIO(archive.read(path))).convert("RGB")
            images.append(np.asarray(ImageOps.fit(picture, (size, size))))
            labels.append(tuple(path.split("/")[-3:-1]))
    return np.stack(images), labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photographs(tl.data.Data):
    """The photographs in some folders of an archive, of a class per subfolder.

    Attributes:
      archive: name of the file.
      folders: that are read.
      pixels: height and width.
      outputs: number of classes, where those of the archive are not all; None if they
        are.
    """

    archive: str
    folders: tuple[str, ...]
    pixels: int
    outputs: int | None = None

    def read(self) -> tl.data.Table:
        x, labels = photographs(self.archive, self.pixels)
        names = sorted({label for _, label in labels})
        y = np.array([names.index(label) for _, label in labels])
        rows = np.flatnonzero([folder in self.folders for folder, _ in labels])
        names += [f"class {i}" for i in range(len(names), self.outputs or 0)]
        return tl.data.Table(x=x[rows], y=y[rows], class_names=tuple(names))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One transfer.

    Attributes:
      source: the experiment whose weights are θ₀; its "val" and "test" rows measure
        what is forgotten.
      target: fields of every experiment on the target.
      rates: eight learning rates of plain fine-tuning.
      two_rates: of every other method.
      lora_rates: of LoRA.
      adapters: pattern of the parameters that LoRA adapts.
      is_new_task: the target has other classes, so the head is new; the source is
        tested with its own head on the fine-tuned body.
      is_agreement: the source's rows have no labels of its own classes; what counts is
        the share of them on which its decision is still that of θ₀.
    """

    source: tl.Experiment
    target: Mapping[str, object]
    rates: tuple[float, ...]
    two_rates: tuple[float, float]
    lora_rates: tuple[float, float]
    adapters: str
    is_new_task: bool = False
    is_agreement: bool = False


_DIGITS = dict(model=tl.models.CNN(widths=(16, 32), units=64), evaluate_batch=1000)
_DIGIT_RATES = dict(
    rates=(3e-5, 1e-4, 2e-4, 3e-4, 6e-4, 1e-3, 3e-3, 1e-2),
    two_rates=(3e-4, 1e-3),
    lora_rates=(1e-3, 3e-3),
    adapters=r"(block.*|hidden)/.*kernel",
)


def _mnist(**options) -> tl.data.Data:
    return tl.data.Arrays(
        "digits/mnist.npz", size=16, val=1000, split_seed=0, **options
    )


def _digit_source(data: tl.data.Data) -> tl.Experiment:
    return tl.Experiment(
        **_DIGITS,
        data=data,
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-3), weight_decay=1e-3),
        augment=(tl.data.Crop(pad=2),),
        steps=600,
        batch=64,
    )


def domains() -> Setting:
    """The same classes elsewhere: USPS to five MNIST digits per class."""
    usps = tl.data.Arrays("digits/usps.npz", scale=2000, val=1000, split_seed=0)
    return Setting(
        source=_digit_source(usps),
        target=dict(_DIGITS, data=_mnist(labels_per_class=5), batch=50, steps=200),
        **_DIGIT_RATES,
    )


def classes() -> Setting:
    """Other classes: MNIST's digits 0-4 to ten each of its digits 5-9."""
    old, new = (tuple(str(i) for i in range(first, first + 5)) for first in (0, 5))
    target = _mnist(classes=new, labels_per_class=10)
    return Setting(
        source=_digit_source(_mnist(classes=old)),
        target=dict(_DIGITS, data=target, batch=50, steps=200),
        is_new_task=True,
        **_DIGIT_RATES,
    )


_PHOTOGRAPHS = dict(model=tl.models.MobileNet(alpha=0.25), evaluate_batch=128)
_PHOTOGRAPH_RATES = dict(
    rates=(3e-5, 1e-4, 2e-4, 3e-4, 6e-4, 1e-3, 2e-3, 4e-3),
    two_rates=(3e-4, 1e-3),
    lora_rates=(1e-3, 3e-3),
    adapters=r"(block|conv).*/.*kernel",
)
PIXELS, PHOTOGRAPH_STEPS = 96, 40


def _office(*folders: str, **options) -> tl.data.Data:
    return Photographs(
        archive=OFFICE, folders=folders, pixels=PIXELS, split_seed=0, **options
    )


def office() -> Setting:
    """Photographs: Office's amazon to five webcam pictures per class."""
    source = tl.Experiment(
        **_PHOTOGRAPHS,
        data=_office("amazon", val=0.2, test=0.3),
        init=tl.pretrained.FromFile(MOBILENET, reset="head"),
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=1e-3)),
        augment=(tl.data.Flip(),),
        steps=150,
        batch=32,
    )
    target = _office("webcam", labels_per_class=5, val=0.2, test=0.5)
    return Setting(
        source=source,
        target=dict(_PHOTOGRAPHS, data=target, batch=25, steps=PHOTOGRAPH_STEPS),
        **_PHOTOGRAPH_RATES,
    )


def insects() -> Setting:
    """Photographs: ImageNet's weights to ten ants and ten bees.

    There are no ImageNet pictures here, so what is forgotten is counted on those of
    Office's amazon: the share on which ImageNet's head decides as it did.
    """
    data = _office("amazon", val=0.3, test=0.6, outputs=1000)
    target = Photographs(
        archive=INSECTS,
        folders=("train", "val"),
        pixels=PIXELS,
        labels_per_class=10,
        val=0.2,
        test=0.5,
        split_seed=0,
    )
    start = tl.pretrained.FromFile(MOBILENET)
    return Setting(
        source=tl.Experiment(**_PHOTOGRAPHS, data=data, init=start, steps=0),
        target=dict(_PHOTOGRAPHS, data=target, batch=20, steps=PHOTOGRAPH_STEPS),
        is_new_task=True,
        is_agreement=True,
        **_PHOTOGRAPH_RATES,
    )


SETTINGS = {f.__name__: f for f in (domains, classes, office, insects)}


def candidates(setting: Setting, method: str) -> list[dict[str, float]]:
    """The eight candidates of a method: its learning rates and strengths."""
    if method == PLAIN:
        return [{"rate": rate} for rate in setting.rates]
    rates = setting.lora_rates if method == "LoRA" else setting.two_rates
    return [
        {"rate": rate, "strength": strength}
        for rate in rates
        for strength in STRENGTHS[method]
    ]


def experiment_of(
    setting: Setting,
    method: str,
    source: str,
    rate: float,
    strength: float | None = None,
) -> tl.Experiment:
    """One method's experiment on the target.

    Args:
      setting: the transfer.
      method: of METHODS.
      source: directory of the source's run.
      rate: the learning rate.
      strength: see STRENGTHS.
    """
    groups: dict = {".*": 1.0}
    adapters = None
    if method == "LoRA":
        rank = int(strength)
        adapters = tl.peft.LoRA(rank=rank, alpha=2.0 * rank, select=setting.adapters)
        groups = {"head": 1.0, ".*": tl.FROZEN}
    # Without the source's data the importance is computed on the target's inputs.
    data = None if setting.is_agreement else source
    terms = {
        "L2-SP": lambda: reg.L2SP(weight=strength),
        "EWC": lambda: reg.EWC(weight=strength, normalize=True, importance=data),
        "DELTA": lambda: reg.DELTA(weight=strength),
        "LwF": lambda: reg.LwF(weight=strength),
        "Jacobian, params": lambda: reg.JacobianDifference(weight=strength),
        "Jacobian, inputs": lambda: reg.JacobianDifference(
            weight=strength, wrt="inputs"
        ),
    }
    term = {"penalty": terms[method]()} if method in terms else {}
    return tl.Experiment(
        **setting.target,
        init=tl.pretrained.FromRun(source, reset=("head",) * setting.is_new_task),
        terms={"task": tl.losses.CrossEntropy(), **term},
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=rate), clip=1.0, groups=groups),
        peft=adapters,
        monitor=None,
    )


def train_source(setting: Setting, folder: pathlib.Path):
    """The source's model, trained unless its folder exists, and its Fisher file."""
    if not (folder / "result.json").exists():
        tl.train(tl.setup(setting.source, folder))
        if not setting.is_agreement:
            model = importance.from_run(folder)
            fisher = importance.compute(model, "fisher", "train", 500)
            importance_file.write(importance_file.locate(str(folder), "fisher"), fisher)
    return tl.load_model(folder)


def source_accuracy(setting: Setting, source, params, stats, split: str) -> float:
    """Accuracy of weights on the source's rows, or agreement with θ₀'s decisions."""
    logits, labels = predict_with_weights(source, params, stats, split)
    if setting.is_agreement:
        labels = decisions(source, split)
    return float(np.mean(logits.argmax(-1) == labels))


@functools.cache
def decisions(source, split: str) -> np.ndarray:
    """The classes that the source's own weights decide for."""
    weights = source.params, source.stats
    return predict_with_weights(source, *weights, split)[0].argmax(-1)


def train_and_measure(
    setting: Setting, method: str, source, numbers: dict, seed: int, splits
) -> dict[str, float]:
    """{split: accuracy on the target, "source split": on the source} of one run."""
    exp = experiment_of(setting, method, str(source.directory), **numbers)
    exp = dataclasses.replace(exp, seed=seed, test=False, evaluate_every=exp.steps)
    run = tl.setup(exp)
    result = tl.train(run, progress=False)
    params, stats = run.weights()
    if method == "WiSE-FT":
        params, stats = between(run, (params, stats), numbers["strength"])
    scores = {
        split: evaluate_weights(run, params, stats, split)["accuracy"]
        for split in splits
    }
    if setting.is_new_task:
        terms = run.state.trainable["terms"]
        head = terms["penalty"] if method == "LwF" else source.params["head"]
        params = {**params, "head": head}
    for split in splits:
        score = source_accuracy(setting, source, params, stats, split)
        scores[f"source {split}"] = score
    return {**scores, "seconds": result["train_seconds"], "device": result["device"]}


def run_method(name: str, method: str, folder: pathlib.Path) -> None:
    """Chooses two candidates of a method, then trains and tests five seeds of each.

    Plain fine-tuning is tested at the other methods' learning rates too. Writes
    FOLDER/SETTING/METHOD.json after each run; runs that it holds are not repeated.

    Args:
      name: of SETTINGS.
      method: of METHODS.
      folder: for the results.
    """
    setting = SETTINGS[name]()
    source = train_source(setting, folder / name / "source")
    path = folder / name / f"{method}.json"
    done = json.loads(path.read_text()) if path.exists() else {}

    def run(numbers: dict, seed: int, splits: tuple[str, ...]) -> dict:
        key = f"{json.dumps(numbers)} seed {seed}"
        if key not in done:
            done[key] = train_and_measure(
                setting, method, source, numbers, seed, splits
            )
            path.write_text(json.dumps(done, indent=1))
        return done[key]

    tries = candidates(setting, method)
    scores = [[run(n, seed, ("val",)) for seed in TUNING_SEEDS] for n in tries]
    target = [statistics.fmean(s["val"] for s in each) for each in scores]
    kept = [statistics.fmean(s["source val"] for s in each) for each in scores]
    both = [(a + b) / 2 for a, b in zip(target, kept)]
    best = [tries[max(range(8), key=v.__getitem__)] for v in (target, both)]
    tested = dict(zip(CRITERIA, best))
    if method == PLAIN:
        rates = sorted({*setting.two_rates, *setting.lora_rates})
        tested |= {f"rate {rate:g}": {"rate": rate} for rate in rates}
    for key, numbers in tested.items():
        runs = [run(numbers, seed, ("test",)) for seed in SEEDS]
        done[key] = {
            "numbers": numbers,
            "target": [each["test"] for each in runs],
            "source": [each["source test"] for each in runs],
        }
    path.write_text(json.dumps(done, indent=1))


if __name__ == "__main__":
    FOLDER = pathlib.Path(sys.argv[1])
    if len(sys.argv) > 2:
        for METHOD in sys.argv[3:] or METHODS:
            run_method(sys.argv[2], METHOD, FOLDER)
