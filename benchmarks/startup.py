"""Time of fresh processes: `jaxtl --help`, `import jaxtl`, the first step.

Processes run one after the other in turn; medians of wall time. The first step is that
of a small perceptron on the digits: start Python, import, read, compile, step. The row
`import jax` shows the part that no program on jax can save.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import timing

ROOT = pathlib.Path(__file__).parent.parent

FIRST_STEP = """
import jaxtl as tl
run = tl.setup(tl.Experiment(
    model=tl.models.MLP(widths=(64,)), data=tl.data.Digits(), steps=10))
run.step()
"""
# The same job without jaxtl, as short as possible in jax, flax and optax.
BY_HAND = """
import flax.linen as nn, jax, jax.numpy as jnp, optax
from sklearn.datasets import load_digits
digits = load_digits()
x, y = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
params = jax.jit(model.init)(jax.random.key(0), x[:1])
tx = optax.adamw(1e-3)
opt = tx.init(params)
@jax.jit
def step(params, opt, rows):
    def loss(p):
        logits = model.apply(p, x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()
    value, grads = jax.value_and_grad(loss)(params)
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt, value
jax.block_until_ready(step(params, opt, jnp.arange(64)))
"""

# Name -> (arguments of Python, target in seconds or None).
COMMANDS = {
    "python, nothing": (["-c", "pass"], None),
    "jaxtl --help": (["-m", "jaxtl", "--help"], 0.5),
    "import jaxtl": (["-c", "import jaxtl"], 0.3),
    "import jax": (["-c", "import jax"], None),
    "first step by hand": (["-c", BY_HAND], None),
    "first step": (["-c", FIRST_STEP], None),
    "first step, compiled before": (["-c", FIRST_STEP], None),
}

LONG = ("first step by hand", "first step, compiled before")  # not in --quick


def work(arguments: list[str], cache: str | None):
    """A function that runs one fresh process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    if cache is not None:
        env["JAX_COMPILATION_CACHE_DIR"] = cache
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def run():
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            env=env,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )

    return run


def _row(name: str, seconds: list[float]) -> timing.Row:
    _, target = COMMANDS[name]
    return {
        "process": name,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "target": "" if target is None else f"≤ {target}",
    }


def main(argv=None) -> list[list[timing.Row]]:
    options = timing.options(__doc__, argv)
    with tempfile.TemporaryDirectory() as cache:
        works = {
            name: work(arguments, cache if "compiled before" in name else None)
            for name, (arguments, _) in COMMANDS.items()
            if not (options.quick and name in LONG)
        }
        times = timing.alternate(works, 1 if options.quick else 9).clock
    rows = [_row(name, seconds) for name, seconds in times.items()]
    timing.report("Fresh processes", [rows], options.json)
    return [rows]


if __name__ == "__main__":
    main()
