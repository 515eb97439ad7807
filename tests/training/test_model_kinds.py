"""A model that can't read the data says so, by the names of both."""

import dataclasses

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.data import preparation
from jaxtl.data.dataset import Table

Y = np.arange(40) % 2
IDS = {"input_ids": np.ones((40, 6), np.int32), "attention_mask": np.ones((40, 6))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts(tl.data.Data):
    """Texts of six tokens each."""

    def read(self):
        return Table(x=IDS, y=Y, class_names=("a", "b"))


DATA = {
    "table": tl.data.Arrays(x=np.ones((40, 4), np.float32), y=Y),
    "image": tl.data.Arrays(x=np.ones((40, 8, 8, 1), np.uint8), y=Y),
    "text": Texts(),
}
MODELS = {
    "table": (tl.models.MLP(widths=(4,)),),
    "image": (
        tl.models.CNN(),
        tl.models.ResNet(),
        tl.models.ResNetImageNet(),
        tl.models.VGG(),
        tl.models.MobileNet(),
        tl.models.ViT(),
    ),
    "text": (tl.models.Bert(), tl.models.GPT2(), tl.models.Llama()),
}
# Model -> examples that it reads besides those of its kind.
ALSO = {("table", "image")}
SAID = {
    "table": "is a row of 4 numbers, for which there is tl.models.MLP",
    "image": "is an image of 8 × 8 × 1, for which there is tl.models.CNN or",
    "text": "is a text of token ids, for which there is tl.models.Bert or",
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("data", DATA)
def test_each_pair_of_model_and_data_is_taken_or_told(kind, data):
    for model in MODELS[kind]:
        if kind == data or (kind, data) in ALSO:
            shape = preparation.prepare(DATA[data]).example_shape
            model.check_kind(shape, "data=Arrays")
            continue
        exp = tl.Experiment(model=model, data=DATA[data], steps=1)
        with pytest.raises(tl.UserError) as caught:
            tl.setup(exp)
        name = type(model).__name__
        assert str(caught.value).startswith(f"model={name} reads ")
        source = type(DATA[data]).__name__
        assert f"an example of data={source} {SAID[data]}" in str(caught.value)


def test_arrays_of_one_value_are_told():
    with pytest.raises(tl.UserError, match=r"Arrays.x must be an array .*got \{'att"):
        tl.data.Arrays(x=IDS, y=Y)
