"""The devices of a run: can its model be split over them, and what is copied?"""

import jax

from jaxtl.core import lazy_leaf, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.terms.program import Program
from jaxtl.training.experiment import Experiment
from jaxtl.training.initial_model import InitialModel


def mesh_of(exp: Experiment, model: InitialModel) -> jax.sharding.Mesh:
    """The devices of a run.

    Args:
      exp: its experiment.
      model: the initial model.

    Raises:
      UserError: they are not there, or the model's layers can't be split over them.
    """
    shards = exp.tensor_shards
    mesh = sharding.mesh(exp.devices, exp.param_shards, shards)
    if shards == 1:
        return mesh
    name = type(exp.model).__name__
    rules = model.network.tensor_rules
    if rules is None:
        raise UserError(
            f"tensor_shards={shards}: the layers of {name} can't be split over "
            "devices; those of ViT, BERT and decoders such as Llama can. param_shards "
            "splits the parameters of any model."
        )
    if lazy_leaf.has_lazy(model.base_params):
        raise UserError(
            f"tensor_shards={shards}: the layers of a quantized base (peft.base) can't "
            "be split over devices; param_shards splits its parameters."
        )
    rules.check(shards, name)
    return mesh


def describe_copies(program: Program, model: InitialModel) -> str:
    """Says which parameters every device holds whole though a rule splits them.

    Args:
      program: with the devices.
      model: the initial model.

    Returns:
      A sentence part; "" where all are split.
    """
    shards = program.mesh.shape["tensor"]
    if shards == 1:
        return ""
    leaves = {k: v.shape for k, v in trees.flatten(model.base_params).items()}
    copied = program.tensor_rules.copied(leaves.items(), shards)
    if not copied:
        return ""
    listed = ", ".join(f"{path} {leaves[path]}" for path in copied[:4])
    more = f" and {len(copied) - 4} more" if len(copied) > 4 else ""
    return f"copied to all devices, as {shards} does not divide them: {listed}{more}"
