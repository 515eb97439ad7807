"""Image types of transformers and the options of their configurations."""

import dataclasses
from collections.abc import Callable

from jaxtl.models.staged import Staged


def stages_of(model: Staged) -> dict[int, str]:
    """Place in transformers' hidden states -> stage, where the stem is the first."""
    return dict(enumerate(name for name in model.stages if name != "head"))


@dataclasses.dataclass(frozen=True)
class ImageType:
    """One type.

    Attributes:
      config: name of transformers' class of configurations.
      base: entries that every configuration has.
      options: key -> values that are tried; the first is the usual one. A key with one
        value is left out of the base, whose default is the usual one.
      dead: keys whose values change nothing of a pass in evaluation mode.
      side: of the images where the configuration has no image_size, or does not look
        at it.
      states: model -> {place in transformers' hidden states: stage of ours}.
      groups: keys whose values vary together, value by value.
    """

    config: str
    base: dict
    options: dict
    dead: tuple = ()
    side: int = 40
    states: Callable[[Staged], dict[int, str]] = stages_of
    groups: tuple[tuple[str, ...], ...] = ()


TYPES = {
    "resnet": ImageType(
        "ResNetConfig",
        {"embedding_size": 4, "hidden_sizes": [8, 16, 24], "depths": [2, 1, 1]},
        {
            "num_channels": [3, 1],
            "embedding_size": [4, 8],
            "hidden_sizes": [[8, 16, 24], [8, 8, 32, 12], [16, 32]],
            "depths": [[2, 1, 1], [1, 2, 1, 1], [1, 2]],
            "layer_type": ["bottleneck", "basic"],
            "hidden_act": ["relu", "gelu", "tanh"],
            "downsample_in_first_stage": [False, True],
            "downsample_in_bottleneck": [False, True],
        },
        groups=(("hidden_sizes", "depths"),),
    ),
}


def configurations(kind: str) -> list[dict]:
    """Configurations of a type that have every value of every option among them."""
    row = TYPES[kind]
    number = max(len(values) for values in row.options.values())
    configs = [dict(row.base) for _ in range(number + 1)]
    follows = {key: group[0] for group in row.groups for key in group}
    places = {key: i for i, key in enumerate(row.options)}
    for key, values in row.options.items():
        shift = places[follows.get(key, key)]
        if len(values) == 1:  # beside the usual value
            configs[1 + shift % number][key] = values[0]
            continue
        for i, config in enumerate(configs):
            # Options move against each other, so that they meet in many pairs.
            place = i if i < len(values) else i + (i * shift) // number
            config[key] = values[place % len(values)]
    return configs
