"""Package metadata; build system and tool settings live in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "([^"]+)"', (ROOT / "jaxtl" / "__init__.py").read_text()
).group(1)

EXTRAS = {
    "text": ["tokenizers>=0.20"],
    "arrow": ["pyarrow>=16"],
    "frames": ["pandas>=2.2", "polars>=1"],
    "hub": ["huggingface_hub>=0.30"],
    "torch": ["torch>=2.6"],
    "grain": ["grain>=0.2.10"],
    "ot": ["ott-jax>=0.6"],
    "equinox": ["equinox>=0.13"],
    "track": ["tensorboardX>=2.6"],
    "wandb": ["wandb>=0.18"],
    # Its runs are in a database by default; the whole of mlflow brings a server.
    "mlflow": ["mlflow-skinny>=3", "sqlalchemy>=2", "alembic>=1.13"],
    "tfds-prepare": ["tensorflow-cpu>=2.18"],
    "sweep": ["optuna>=4.4"],
    "postgres": ["optuna>=4.4", "psycopg2-binary>=2.9.10"],
    "completion": ["shtab>=1.13"],
    "cluster": ["submitit>=1.5.2"],
    "reproduce": ["skada>=0.6"],
    "notebooks": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
    "docs": [
        "sphinx>=8.2",
        "myst-nb>=1.3",
        "furo>=2025.7.19",
        "sphinx-copybutton>=0.5.2",
        "latex2mathml>=3.78",
    ],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.9",
        "mypy>=1.13",
        "tokenizers>=0.20",
        "grain>=0.2.10",
        "tensorboardX>=2.6",
        "optuna>=4.4",
        "psycopg2-binary>=2.9.10",
        "submitit>=1.5.2",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "ipykernel>=6.29",
    ],
}
EXTRAS["all"] = sorted(
    {
        need
        for name, needs in EXTRAS.items()
        # torch and tensorflow are large and have wheels of many kinds: ask by name.
        if name not in ("torch", "tfds-prepare")
        for need in needs
    }
)

setup(
    name="jaxtl",
    version=VERSION,
    description="Transfer learning in JAX: clear, fast, honest experiments.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["jaxtl", "jaxtl.*"]),
    package_data={"jaxtl": ["py.typed", "results/assets/*"]},
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "tensorflow-datasets>=4.9.8",
        # Undeclared needs: tfds wants importlib_resources, jax.export flatbuffers.
        "importlib_resources>=6",
        "flatbuffers>=24",
        "numpy>=2",
        "pydantic>=2.8",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "pillow>=10",
        "matplotlib>=3.9",
        "rich>=13",
        "safetensors>=0.5",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["jaxtl = jaxtl.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
