"""Keys of config.json of the family "resnet"."""

from jaxtl.models import config_values
from jaxtl.models.config_table import ConfigTable, Key

CONFIG = ConfigTable(
    "resnet",
    stem="ResNet",
    predicts=(None,),
    honored={
        "embedding_size": Key("width", config_values.count, 64),
        "hidden_act": Key("activation", config_values.activation, "relu"),
        "downsample_in_first_stage": Key("first_stride", config_values.flag, False),
        "downsample_in_bottleneck": Key("stride_first", config_values.flag, False),
    },
    # The weights' kernel has as many channels.
    read_by_family=("depths", "layer_type", "hidden_sizes", "num_channels"),
    harmless=dict.fromkeys(
        ("stage_names", "out_features", "out_indices"),
        "the outputs of a backbone; every stage's output is there",
    ),
)
