"""Fields of models of two towers, as `from_config` of CLIP and SigLIP takes them."""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import staged


def takes_predict(config: Mapping[str, Any], fields: dict[str, Any]) -> str:
    """Takes `predict` out of the fields: "pair", or "class" for the image classifier.

    Without one, the class that wrote the configuration decides.

    Raises:
      UserError: another value.
    """
    writer = (config.get("architectures") or [""])[0]
    is_class = str(writer).endswith("ForImageClassification")
    predict = fields.pop("predict", "class" if is_class else "pair")
    staged.check_option("predict", predict, ("pair", "class"))
    return predict


def of_towers(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Takes out of the fields those of both towers, and those of the image tower."""
    of_both, of_image = (
        {name: fields.pop(name) for name in names if name in fields}
        for names in (("dtype", "param_dtype", "remat"), ("size",))
    )
    return of_both, of_image
