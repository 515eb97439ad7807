"""Stages as lists of a module's paths, and parameter trees by stage."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.models.wrapping.adapter import Leaves, Path

# What `wrap` takes as stages: paths, or {stage: path or paths}.
Stages = Sequence[str] | Mapping[str, str | Sequence[str]]


@dataclasses.dataclass(frozen=True)
class StageLayout:
    """Which leaves of a module belong to which stage.

    A stage of one path holds the leaves below it, by their paths from there; a stage of
    several paths holds them by their whole paths.

    Attributes:
      members: stage -> the paths of sub-modules and leaves that it consists of.
    """

    members: Mapping[str, tuple[Path, ...]]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return tuple(self.members)

    def stage_of(self, path: Path) -> str | None:
        """The stage of the longest path that leads to a leaf or a sub-module."""
        lengths = {
            stage: max(
                (len(m) for m in members if path[: len(m)] == m),
                default=-1,
            )
            for stage, members in self.members.items()
        }
        stage = max(lengths, key=lambda name: lengths[name])
        return stage if lengths[stage] >= 0 else None

    def staged_path(self, path: Path) -> Path | None:
        """(stage, names …) of a leaf or sub-module, None outside of all stages."""
        stage = self.stage_of(path)
        if stage is None:
            return None
        members = self.members[stage]
        return (stage, *(path[len(members[0]) :] if len(members) == 1 else path))

    def staged(self, leaves: Leaves) -> dict[str, PyTree]:
        """Leaves by path as {stage: subtree}.

        Raises:
          UserError: leaves outside of all stages.
        """
        homeless = [path for path in leaves if self.stage_of(path) is None]
        if homeless:
            shown = ", ".join("/".join(path) for path in homeless[:8])
            more = ", …" if len(homeless) > 8 else ""
            tops = list(dict.fromkeys(path[0] for path in leaves))
            every = [path for paths in self.members.values() for path in paths]
            empty = [m for m in every if not any(p[: len(m)] == m for p in leaves)]
            hint = f"; {'/'.join(empty[0])!r} has no arrays" if empty else ""
            raise UserError(
                f"stages: {len(homeless)} of the module's arrays are in none of them "
                f"({shown}{more}){hint}; list each in one, such as "
                f"stages={{{self.stages[0]!r}: {_with(self, homeless[0])!r}, …}} (the "
                f"module has: {', '.join(tops[:12])}{', …' if len(tops) > 12 else ''})."
            )
        tree: dict[str, Any] = {}
        for path, leaf in leaves.items():
            *parents, name = self.staged_path(path) or ()
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = leaf
        return tree

    def leaves(self, tree: Mapping[str, PyTree]) -> Leaves:
        """The inverse of `staged`."""
        leaves: Leaves = {}
        for stage, subtree in tree.items():
            members = self.members.get(stage, ())
            start = members[0] if len(members) == 1 else ()
            _collect(subtree, start, leaves)
        return leaves

    def check_paths(self, paths: Iterable[Path]) -> None:
        """Raises UserError for a path of a stage that is none of a module's.

        Args:
          paths: of the module's leaves and of the sub-modules that run.
        """
        known = {path[:i] for path in paths for i in range(len(path) + 1)}
        names = sorted("/".join(path) for path in known if path)
        for stage, members in self.members.items():
            for path in members:
                if path not in known:
                    name = "/".join(path)
                    raise UserError(
                        f"stages: {stage!r} names {name!r}, which the module does not "
                        f"have or does not run{nearest(name, names)} (it has: "
                        f"{_listing(names)})."
                    )


def _with(layout: StageLayout, path: Path) -> tuple[str, ...]:
    """The paths of the first stage and one more, as an example of a stage."""
    return (*map("/".join, layout.members[layout.stages[0]]), path[0])


def _listing(names: list[str]) -> str:
    top = list(dict.fromkeys(name.split("/")[0] for name in names))
    return ", ".join(top[:12]) + (", …" if len(top) > 12 else "")


def _collect(tree: PyTree, path: Path, leaves: Leaves) -> None:
    if not isinstance(tree, Mapping):
        leaves[path] = tree
        return
    for name, value in tree.items():
        _collect(value, (*path, name), leaves)


def parse_path(text: str) -> Path:
    """ "encoder.layers[0]" or "encoder/layers/0" as ("encoder", "layers", "0")."""
    return tuple(part for part in re.split(r"[./\[\]]+", text) if part)


def parse_stages(stages: Stages | None) -> StageLayout:
    """The layout that a list of paths or a mapping of stages to paths describes.

    Args:
      stages: paths in the order in which the sub-modules run, each a stage of its own;
        or {stage: path or paths}; None for one stage "head" that holds everything.

    Raises:
      UserError: no stage, a stage without paths, a path twice.
    """
    if stages is None:
        return StageLayout({"head": ((),)})
    if isinstance(stages, str):
        raise UserError(
            f"stages={stages!r}: expected a list of paths or a dict of stages, such as "
            f"stages=({stages!r},)."
        )
    if not isinstance(stages, Mapping):
        names = ["_".join(parse_path(path)) for path in stages]
        if len(set(names)) < len(names):
            raise UserError(f"stages={tuple(stages)!r}: name each path once.")
        stages = dict(zip(names, stages))
    members = {
        stage: tuple(
            map(parse_path, (paths,) if isinstance(paths, str) else tuple(paths))
        )
        for stage, paths in stages.items()
    }
    every = [path for paths in members.values() for path in paths]
    twice = [path for path in every if every.count(path) > 1]
    if not every or not all(members.values()) or twice:
        reason = f"{'/'.join(twice[0])!r} is listed twice" if twice else "one is empty"
        raise UserError(f"stages={dict(stages)!r}: {reason}; name each path once.")
    slashed = [stage for stage in members if "/" in stage]
    if slashed:
        raise UserError(f"stages: the name {slashed[0]!r} may not have a slash in it.")
    return StageLayout(members)
