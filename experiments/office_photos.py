"""Office-Caltech10 on the photographs: MobileNet fine-tuned, 12 pairs of domains.

The whole network (ImageNet MobileNet v1 0.25) is trained on the labelled photographs of
one domain and the unlabelled ones of another, by the settings of `tl.recipes` in 500
steps: the head at its full rate and the stages below at a tenth. As on the features
(`experiments/office_caltech.py`), every second picture of the target is adapted to
without its label and 30 % are test. Every run keeps its last step.

Needs:     office_caltech/photos.zip and
           pretrained/mobilenet_v1_0.25_224_imagenet.safetensors below the folder that
           JAXTL_DATA_DIR names.
Run:       jaxtl sweep experiments/office_photos.py --mode alone --out runs/photos
           jaxtl report runs/photos
Expected:  not measured yet.
"""

import dataclasses
import functools
import io
import zipfile

import numpy as np

import jaxtl as tl
from jaxtl.data import paths

LETTERS = {"A": "amazon", "C": "caltech10", "D": "dslr", "W": "webcam"}
PAIRS = [f"{a}{b}" for a in LETTERS for b in LETTERS if a != b]
SIZE, STEPS = 224, 500


@functools.cache
def photographs(size: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Reads (x, y, rows of each domain) of all four domains.

    x: (2533, size, size, 3) bytes, the middle square of each photograph.
    """
    from PIL import Image, ImageOps

    path = paths.find("office_caltech/photos.zip", "photographs")
    x, y, domains = [], [], []
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        for name in names:
            domain, label = name.split("/")[-3:-1]
            picture = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            x.append(np.asarray(ImageOps.fit(picture, (size, size))))
            y.append(classes.index(label))
            domains.append(domain)
    rows = {d: np.flatnonzero(np.array(domains) == d) for d in LETTERS.values()}
    return np.stack(x), np.array(y), rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain(tl.data.Data):
    """One domain, as rows of an array of all: every pair runs the same programs."""

    name: str = dataclasses.field(default="amazon", kw_only=False)
    size: int = SIZE

    def read(self) -> tl.data.Table:
        x, y, rows = photographs(self.size)
        return tl.data.Table(x=x, y=y, splits={"train": rows[self.name]})


def experiment_of(pair: str, fields: dict) -> tl.Experiment:
    """One pair of domains, its source first."""
    source, target = (LETTERS[letter] for letter in pair)
    start = tl.pretrained.FromFile(
        "pretrained/mobilenet_v1_0.25_224_imagenet.safetensors", reset="head"
    )
    return tl.Experiment(
        model=tl.models.MobileNet(alpha=0.25),
        init=start,
        data=Domain(target, labels=0, val=0.2, test=0.3),
        streams={"source": Domain(source, val=0, test=0)},
        augment=(tl.data.Flip(),),
        monitor=None,
        **{**fields, "batch": 32, "steps": STEPS},
    )


def methods() -> dict[str, dict]:
    """The fields of an experiment by each recipe, and of the source alone."""
    dann, mcc = tl.recipes.dann(), tl.recipes.mcc()
    source = {
        **mcc,
        "terms": {"task": mcc["terms"]["task"]},
        "joint_pass": (),
    }
    return {"source only": source, "MCC": mcc, "DANN": dann}


def experiment():
    return {
        f"{method}/{pair}": experiment_of(pair, fields)
        for method, fields in methods().items()
        for pair in PAIRS
    }


SWEEP = {"seed": range(3)}
