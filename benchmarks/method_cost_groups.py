"""The steps that `method_costs.py` compares: per family a plain one and methods."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from in_memory import InMemory

import jaxtl as tl
from jaxtl.analysis import importance
from jaxtl.data.dataset import Data, Table
from jaxtl.pretrained.match import Weights
from jaxtl.terms.regularizers import importance_file

BATCH, CLASSES, ROWS = 32, 10, 128
CNN_NAME, BERT_NAME = "CNN, 28 × 28", "BERT of 2 layers of 64, 32 tokens"
VIT_NAME = "ViT of 2 layers of 64, 28 × 28"
SUPERVISED = "cross-entropy"


class Group(NamedTuple):
    """Methods that are compared with one plain step.

    Attributes:
      network: in words.
      plain: what the plain step minimizes, in words.
      experiment: takes the plain step.
      methods: name -> experiment with the method.
    """

    network: str
    plain: str
    experiment: tl.Experiment
    methods: Mapping[str, tl.Experiment]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Texts(Data):
    """Random token ids with a class each."""

    val: float = 0
    test: float = 0

    def read(self) -> Table:
        rng = np.random.default_rng(0)
        ids = rng.integers(5, 1000, (ROWS, 32)).astype(np.int32)
        x = {"input_ids": ids, "attention_mask": np.ones_like(ids, bool)}
        return Table(x=x, y=np.arange(ROWS) % CLASSES, task="classification")


def images(y: Any = None, **fields: Any) -> Data:
    """Random images with a class each, or with the labels y."""
    x = np.random.default_rng(0).normal(size=(ROWS, 28, 28, 1)).astype(np.float32)
    y = np.arange(ROWS) % CLASSES if y is None else y
    return tl.data.Arrays(**{"x": x, "y": y, "val": 0, "test": 0, **fields})


def experiment(terms: tl.Term | Mapping[str, tl.Term], **fields: Any) -> tl.Experiment:
    """A step of the CNN on images, AdamW, with the task's term or several terms."""
    terms = {"task": terms} if isinstance(terms, tl.Term) else terms
    usual = {
        "model": tl.models.CNN(),
        "data": images(),
        "batch": BATCH,
        "steps": 10**6,
        "monitor": None,
        "steps_per_dispatch": 1,
    }
    return tl.Experiment(**{**usual, "terms": terms, **fields})


def added(plain: tl.Experiment, **terms: tl.Term) -> dict[str, tl.Experiment]:
    """The plain step with one more term, for each of some."""
    return {
        name: dataclasses.replace(plain, terms={**plain.terms, "term": term})
        for name, term in terms.items()
    }


def replaced(plain: tl.Experiment, **terms: tl.Term) -> dict[str, tl.Experiment]:
    """The step of a term in place of the task's, for each of some."""
    return {
        name: dataclasses.replace(plain, terms={"task": term})
        for name, term in terms.items()
    }


def weights_of(exp: tl.Experiment) -> InMemory:
    """The initial weights of an experiment, as if they had been read."""
    model = tl.setup(exp).parts.model
    return InMemory(Weights(model.base_params, model.stats))


def _of(namespace: Any, *names: str, **fields: Any) -> dict[str, Any]:
    """name -> its class with the same fields."""
    return {name: getattr(namespace, name)(**fields) for name in names}


def regularizers(folder: pathlib.Path) -> list[Group]:
    plain = experiment(tl.losses.CrossEntropy())
    plain = dataclasses.replace(plain, init=weights_of(plain))
    factors = importance.compute(importance.from_experiment(plain), "kfac", "train")
    importance_file.write(folder / "kfac.safetensors", factors)
    names = ("WeightDecay", "L1SP", "L2SP", "GroupLassoSP", "CosineSP", "EWC", "MAS")
    names += ("SpectralShrinkage", "DELTA", "AttentionTransfer", "FunctionDistance")
    names += ("LwF", "CoTuning", "R3F", "SMART", "JacobianDifference")
    terms = _of(tl.regularizers, *names)
    terms["KFAC"] = tl.regularizers.KFAC(importance=str(folder / "kfac.safetensors"))
    return [Group(CNN_NAME, SUPERVISED, plain, added(plain, **terms))]


def distillation(folder: pathlib.Path) -> list[Group]:
    plain = experiment(tl.losses.CrossEntropy())
    teacher = tl.models.CNN(widths=(64, 128), units=256)
    source = weights_of(dataclasses.replace(plain, model=teacher))
    names = ("KD", "DKD", "DIST", "FitNets", "AT", "NST", "SP", "RKD", "PKT", "VID")
    fields = {"teacher": source, "teacher_model": teacher}
    terms = _of(tl.distillation, *names, **fields)
    terms["CRD"] = tl.distillation.CRD(negatives=64, **fields)
    return [Group(CNN_NAME, SUPERVISED, plain, added(plain, **terms))]


def domain(folder: pathlib.Path) -> list[Group]:
    plain = experiment(
        tl.losses.CrossEntropy(stream="source"),
        data=images(labels=0),
        streams={"source": images()},
    )
    plain = dataclasses.replace(plain, init=weights_of(plain))
    names = ("ADDA", "AFN", "BNM", "BSP", "CBST", "CDAN", "CMD", "DAN", "DANN")
    names += ("DeepCORAL", "DeepJDOT", "EntropyMinimization", "JAN", "MCC", "MCD")
    names += ("MDD", "PartialDANN", "SHOT")
    terms = added(plain, **_of(tl.domain, *names))
    terms |= replaced(plain, **_of(tl.domain, "ClassWeightedCrossEntropy"))
    normed = dataclasses.replace(plain, model=tl.models.CNN(norm=True), init=None)
    statistics = added(normed, **_of(tl.domain, "AdaBN"))
    of_source = f"{SUPERVISED} of the source"
    return [
        Group(CNN_NAME, of_source, plain, terms),
        Group(f"{CNN_NAME}, BatchNorm", of_source, normed, statistics),
    ]


def fewshot(folder: pathlib.Path) -> list[Group]:
    episodes = tl.data.Episodes(ways=5, shots=1, queries=5, tasks=1)
    plain = experiment(tl.losses.CrossEntropy(), batch=30)
    of_episodes = dataclasses.replace(plain, data=images(sampling=episodes))
    names = ("ProtoNet", "MatchingNet", "RelationNet", "FEAT", "RidgeHead", "MAML")
    names += ("FOMAML", "ANIL", "MetaSGD", "Reptile", "IMAML")
    terms = replaced(of_episodes, **_of(tl.fewshot, *names))
    network = f"{CNN_NAME}, an episode of 5 ways, 1 shot, 5 queries"
    return [Group(network, f"{SUPERVISED} of as many images", plain, terms)]


def generalization(folder: pathlib.Path) -> list[Group]:
    both = {"streams": ("source", "target")}
    plain = experiment(
        tl.generalization.PooledERM(**both), streams={"source": images()}
    )
    names = ("IRM", "VREx", "GroupDRO", "InterDomainMixup", "MixStyle", "MLDG")
    terms = replaced(plain, **_of(tl.generalization, *names, **both))
    return [Group(CNN_NAME, f"{SUPERVISED} of two domains", plain, terms)]


def imbalance(folder: pathlib.Path) -> list[Group]:
    plain = experiment(tl.losses.CrossEntropy())
    terms = _of(tl.imbalance, "FocalLoss", "LDAM", "LogitAdjustment")
    return [Group(CNN_NAME, SUPERVISED, plain, replaced(plain, **terms))]


def losses(folder: pathlib.Path) -> list[Group]:
    plain = experiment(tl.losses.CrossEntropy())
    columns = np.eye(CLASSES)[np.arange(ROWS) % CLASSES]
    of_columns = {
        "BinaryCrossEntropy": (tl.losses.BinaryCrossEntropy(), columns.astype(int)),
        "SquaredError": (tl.losses.SquaredError(), columns + 0.5),
    }
    steps = {
        name: dataclasses.replace(plain, data=images(y), terms={"task": term})
        for name, (term, y) in of_columns.items()
    }
    return [Group(CNN_NAME, SUPERVISED, plain, steps)]


def multitask(folder: pathlib.Path) -> list[Group]:
    labels = {f"task{i}": np.roll(np.arange(ROWS) % CLASSES, i) for i in range(3)}
    plain = experiment(tl.multitask.MultiTask(), data=images(labels))
    names = ("UncertaintyWeights", "DWA", "GradNorm", "MGDA", "PCGrad", "GradVac")
    names += ("CAGrad", "NashMTL", "IMTLG", "AlignedMTL", "FAMO", "UPGrad")
    balancers = _of(tl.multitask, *names)
    weights = {"task0": 1.0, "task1": 0.5, "task2": 0.2}
    balancers["FixedWeights"] = tl.multitask.FixedWeights(weights=weights)
    terms = {n: tl.multitask.MultiTask(balancer=b) for n, b in balancers.items()}
    return [
        Group(CNN_NAME, "equal weights of 3 tasks", plain, replaced(plain, **terms))
    ]


def noisy(folder: pathlib.Path) -> list[Group]:
    plain = experiment(tl.losses.CrossEntropy())
    flips = 0.8 * np.eye(CLASSES) + 0.2 / CLASSES
    transition = tuple(map(tuple, flips.tolist()))
    terms = _of(tl.noisy, "GCE", "SCE", "ELR", "CoTeaching", "DivideMix")
    terms |= _of(tl.noisy, "LabelProportions")
    for name in ("ForwardCorrection", "BackwardCorrection"):
        terms[name] = getattr(tl.noisy, name)(transition=transition)
    steps = replaced(plain, **terms)
    columns = np.eye(CLASSES)[np.arange(ROWS) % CLASSES].astype(int)
    columns[:, 0] = 1  # of each example two labels, of which one is right
    partial = dataclasses.replace(plain, data=images(columns))
    positive = images(np.arange(ROWS) % 2, labels_per_class=BATCH)
    steps |= replaced(partial, PRODEN=tl.noisy.PRODEN())
    steps |= replaced(dataclasses.replace(plain, data=positive), NNPU=tl.noisy.NNPU())
    return [Group(CNN_NAME, SUPERVISED, plain, steps)]


def selfsup(folder: pathlib.Path) -> list[Group]:
    images_without = {"data": images(labels=0), "streams": {"source": images()}}
    plain = experiment(tl.losses.CrossEntropy(stream="source"), **images_without)
    names = ("SimCLR", "BYOL", "SimSiam", "BarlowTwins", "VICReg", "MoCo", "DINO")
    terms = _of(tl.selfsup, *names, "RotationPrediction")
    vit = tl.models.ViT(size=28, patch=4, width=64, layers=2, heads=2, hidden=128)
    of_vit = dataclasses.replace(plain, model=vit)
    decoder = tl.selfsup.MAE(width=32, layers=1, heads=2)
    plain_text = texts()
    masked = tl.selfsup.MaskedLanguageModel(stream="target", mask_id=3)
    return [
        Group(CNN_NAME, SUPERVISED, plain, replaced(plain, **terms)),
        Group(VIT_NAME, SUPERVISED, of_vit, replaced(of_vit, MAE=decoder)),
        Group(
            BERT_NAME,
            SUPERVISED,
            plain_text,
            replaced(plain_text, MaskedLanguageModel=masked),
        ),
    ]


def semi(folder: pathlib.Path) -> list[Group]:
    plain = experiment(tl.losses.CrossEntropy(), data=images(labels_per_class=5))
    names = ("PseudoLabel", "PiModel", "MeanTeacher", "VAT", "UDA", "FixMatch")
    names += ("FlexMatch", "FreeMatch")
    steps = added(plain, **_of(tl.semi, *names))
    steps |= replaced(plain, **_of(tl.semi, "MixMatch", "AnnealedCrossEntropy"))
    return [Group(CNN_NAME, f"{SUPERVISED} of the labels", plain, steps)]


def texts() -> tl.Experiment:
    """A step of a small BERT on texts."""
    model = tl.models.Bert(
        vocab=1000, width=64, layers=2, heads=2, hidden=256, context=64, dropout=0.0
    )
    return experiment(tl.losses.CrossEntropy(), model=model, data=Texts())


def peft(folder: pathlib.Path) -> list[Group]:
    plain = texts()
    names = ("LoRA", "IA3", "VeRA", "Adapters", "PromptTuning", "PrefixTuning")
    steps = {
        name: dataclasses.replace(plain, peft=method)
        for name, method in _of(tl.peft, *names).items()
    }
    return [Group(BERT_NAME, "all parameters", plain, steps)]


def optim(folder: pathlib.Path) -> list[Group]:
    plain = experiment(tl.losses.CrossEntropy())
    plain = dataclasses.replace(plain, init=weights_of(plain))
    o = tl.optim
    groups = {
        **_of(o, "BitFit", "HeadOnly", "LayerwiseDecay"),
        "FreezeUpTo": o.FreezeUpTo(stage="block1"),
        "Surgical": o.Surgical(select="block1"),
    }
    optimizers = {
        "SGD": o.SGD(),
        "Optax": o.Optax(),
        "L2Ball": o.AdamW(project=(o.L2Ball(radius=1.0),)),
        "MARS": o.AdamW(project=(o.MARS(radius=1.0),)),
        "SelectiveDecay": o.AdamW(project=(o.SelectiveDecay(),)),
        **{name: o.AdamW(groups=value) for name, value in groups.items()},
    }
    steps = {n: dataclasses.replace(plain, optim=x) for n, x in optimizers.items()}
    for name in ("EMA", "SWA"):
        steps[name] = dataclasses.replace(plain, average=getattr(o, name)())
    of_texts = texts()
    norms = dataclasses.replace(of_texts, optim=o.AdamW(groups=o.NormOnly()))
    return [
        Group(CNN_NAME, f"{SUPERVISED}, AdamW of all parameters", plain, steps),
        Group(
            BERT_NAME,
            f"{SUPERVISED}, AdamW of all parameters",
            of_texts,
            {"NormOnly": norms},
        ),
    ]


FAMILIES: dict[str, Callable[[pathlib.Path], list[Group]]] = {
    function.__name__: function
    for function in (
        distillation,
        domain,
        fewshot,
        generalization,
        imbalance,
        losses,
        multitask,
        noisy,
        optim,
        peft,
        regularizers,
        selfsup,
        semi,
    )
}
