"""jaxtl: transfer learning in JAX. Start with `tl.load`, `tl.setup`, `tl.train`."""

from jaxtl._lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "FROZEN": "core",
        "Network": "core",
        "Source": "core",
        "Term": "core",
        "UserError": "core",
        "Experiment": "experiment",
        "load": "experiment",
        "Variant": "experiment",
        "Run": "run",
        "setup": "store",
        "resume": "store",
        "train": "training",
        "evaluate": "evaluation",
        "show": "report",
        "find_lr": "lr_finder",
        "ensemble": "ensembles",
        "linear_probe": "readout",
    },
    modules=(
        "averaging",
        "baselines",
        "checkpoint",
        "combine",
        "config",
        "data",
        "domain",
        "ensembles",
        "importance",
        "interpolation",
        "losses",
        "metrics",
        "models",
        "optim",
        "peft",
        "phases",
        "pretrained",
        "probe",
        "regularizers",
        "schedules",
        "select",
        "sweep",
        "tree",
        "weights",
    ),
)
