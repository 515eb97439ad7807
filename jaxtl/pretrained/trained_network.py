"""A trained network beside the model of a run: of any architecture, never trained."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Output, PyTree
from jaxtl.data import preprocess
from jaxtl.data.preprocess import Preprocess
from jaxtl.pretrained import initial_weights, match


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainedNetwork:
    """A network with its weights, which a term reads in evaluation mode.

    A tree whose leaves are the weights, so that it may be an argument of a compiled
    step. What is not known of the weights is None, "" or ().

    Attributes:
      params, stats: parameters and BatchNorm statistics, stage -> subtree.
      network: its pure functions.
      where: the directory or file that it comes from, for messages.
      preprocess: of the values that it was trained on.
      task: that it was trained for.
      output_names: of its outputs in order.
      feature_names: of the columns of a table that it reads, in order.
      inputs: (name, shape of one stored example) of each of its inputs.
      tokenizer: of texts, as JSON.
      has_head: whether its head has trained weights.
    """

    params: PyTree
    stats: PyTree
    network: Network
    where: str
    preprocess: Preprocess | None = None
    task: str = ""
    output_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    tokenizer: str = ""
    has_head: bool = True

    def forward(self, x: PyTree) -> Output:
        """The pass of a batch in evaluation mode, to the last stage with weights.

        No gradient flows through it.

        Args:
          x: inputs in the network's own preprocessing.
        """
        stop = {} if self.has_head else {"stop": self.network.stages[-2]}
        out = self.network.apply(self.params, self.stats, x, **stop)
        return jax.lax.stop_gradient(out)


jax.tree_util.register_dataclass(
    TrainedNetwork,
    ["params", "stats"],
    [
        field.name
        for field in dataclasses.fields(TrainedNetwork)
        if field.name not in ("params", "stats")
    ],
)


def from_weights(source: Any, model: Any, x: PyTree, outputs: int) -> TrainedNetwork:
    """A model with weights from any source.

    Args:
      source: weights as an experiment's `init` takes them.
      model: their architecture, a model or a Network; None where the source has one of
        its own.
      x: a batch of inputs.
      outputs: number of outputs where neither the model nor its weights tell.

    Raises:
      UserError: no architecture, or weights that don't fit it.
    """
    if model is None:
        if not hasattr(source, "model"):
            raise UserError(
                f"{type(source).__name__} does not say of what architecture its "
                "weights are; name the model that they were trained in."
            )
        model = source.model()
    is_open = not isinstance(model, Network) and model.outputs is None
    first = dataclasses.replace(model, outputs=outputs) if is_open else model
    weights = initial_weights.read_weights(source, first)
    candidates = _with_outputs(model, weights, outputs) if is_open else iter([model])
    for candidate in candidates:
        network = candidate if isinstance(candidate, Network) else candidate.pure()
        network = network.for_inputs(x)
        shapes = jax.eval_shape(network.init, jax.random.key(0), x)
        if _head_shapes(shapes[0], network) == _head_shapes(weights.params, network):
            break
    head, ignore = network.stages[-1], getattr(source, "ignore", ())
    lacks_head = bool(_head_shapes(shapes[0], network)) and head not in weights.params
    reset = (head,) if lacks_head else ()
    params, stats, _, _ = match.match(*shapes, weights, reset, ignore)
    has_head = _check_loaded({**stats, **params}, network)
    stored = weights.meta.get("preprocess")
    return TrainedNetwork(
        params=params if has_head else {k: params[k] for k in network.stages[:-1]},
        stats=stats,
        network=network,
        where=initial_weights.weights_name(source),
        preprocess=preprocess.from_json(stored) if stored else None,
        output_names=initial_weights.named_outputs(source) or weights.output_names,
        feature_names=weights.feature_names,
        has_head=has_head,
    )


def _with_outputs(model: Any, weights: match.Weights, outputs: int) -> Iterator[Any]:
    """The model with each number of outputs that its weights may be of."""
    head = weights.params.get("head") if isinstance(weights.params, dict) else None
    ends = {leaf.shape[-1] for leaf in jax.tree.leaves(head) if leaf.shape}
    for number in [*sorted(ends), outputs]:
        yield dataclasses.replace(model, outputs=number)


def _head_shapes(params: PyTree, network: Network) -> dict[str, tuple[int, ...]]:
    head = params.get(network.stages[-1]) if isinstance(params, dict) else None
    return {path: tuple(leaf.shape) for path, leaf in trees.flatten(head).items()}


def _check_loaded(tree: PyTree, network: Network) -> bool:
    """Whether the head has weights; raises UserError where another stage has none."""
    missing = {
        path.split("/")[0]
        for path, leaf in trees.flatten(tree).items()
        if isinstance(leaf, jax.ShapeDtypeStruct)
    }
    if missing - {network.stages[-1]}:
        raise UserError(
            f"the weights lack the stages {', '.join(sorted(missing))} of the model."
        )
    return not missing
