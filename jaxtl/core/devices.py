"""The device that everything runs on: jax's default one, or the one a user names."""

import contextlib
import os
import re

import jax

from jaxtl.core.errors import UserError, nearest

_PLATFORMS = ("cpu", "gpu", "cuda", "rocm", "tpu")
_chosen: jax.Device | None = None


def use_device(name: str | None) -> None:
    """Runs everything that follows on a device, in place of jax's default.

    Called before anything was computed, no other kind of accelerator is opened, and of
    several GPUs no other one; later only what follows runs on it.

    Args:
      name: "cpu", "gpu", "cuda", "rocm" or "tpu", the first of the kind; "cuda:1" for
        the one of that number; None for jax's default again.

    Raises:
      UserError: there is no such device.
    """
    global _chosen
    if name is None:
        _chosen = None
        jax.config.update("jax_default_device", None)
        return
    platform, index = _parsed(name)
    settings = {"jax_platforms": platform if platform == "cpu" else f"{platform},cpu"}
    if platform in ("gpu", "cuda") and index:
        settings["jax_cuda_visible_devices"] = str(index)
    before = {key: getattr(jax.config, key, "all") for key in settings}
    for key, value in settings.items():
        jax.config.update(key, value)
    try:
        device = _find(platform, index)
    finally:  # jax reads them once, when it opens its devices
        for key, value in before.items():
            jax.config.update(key, value)
    if device is None:
        present = "; ".join(map(_title, _present()))
        raise UserError(f"--device {name}: there is none; this machine has {present}.")
    _chosen = device
    is_default = device == jax.local_devices()[0]
    jax.config.update("jax_default_device", None if is_default else device)


def _parsed(name: str) -> tuple[str, int]:
    """(platform, index) of a device's name.

    Raises:
      UserError: it is none.
    """
    match = re.fullmatch(r"([a-z]+)(?::(\d+))?", name.lower())
    if match is None or match[1] not in _PLATFORMS:
        raise UserError(
            f"--device {name} is unknown"
            f"{nearest(name.partition(':')[0].lower(), _PLATFORMS)} (expected "
            f"{', '.join(_PLATFORMS)}, or one of them with a number, such as cuda:1)."
        )
    return match[1], int(match[2] or 0)


def _find(platform: str, index: int) -> jax.Device | None:
    """A device by its platform and number; None where there is none."""
    devices = _of_platform(platform)
    if platform in ("cpu", "tpu"):
        return devices[index] if index < len(devices) else None
    # Where others are hidden from this process, it keeps the number of its hardware.
    return next((d for d in devices if _number(d) == index), None)


def _of_platform(platform: str) -> list[jax.Device]:
    try:
        return jax.local_devices(backend=platform)
    except RuntimeError:
        return []


def _number(device: jax.Device) -> int:
    number = getattr(device, "local_hardware_id", None)
    return device.id if number is None else number


def _present() -> list[jax.Device]:
    """All devices that this process can open."""
    with contextlib.suppress(RuntimeError):  # of an accelerator that can't be opened
        jax.devices()
    kinds = (_of_platform(platform) for platform in ("gpu", "tpu", "cpu"))
    return [device for devices in kinds for device in devices]


def visible() -> list[jax.Device]:
    """The devices that computations may use: all of one kind, the chosen one first.

    In a job of several processes these are the devices of all, by process.
    """
    if jax.process_count() > 1:
        everywhere = jax.devices(first().platform)
        return sorted(everywhere, key=lambda device: (device.process_index, device.id))
    if _chosen is None:
        return jax.devices()
    devices = _of_platform(_chosen.platform)
    place = devices.index(_chosen)
    return devices[place:] + devices[:place]


def first() -> jax.Device:
    """The device that a computation on one device uses."""
    return _chosen or jax.local_devices()[0]


def core_count() -> int:
    """Number of processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe() -> str:
    """The device in a line: "gpu:0, NVIDIA H100 (chosen)"."""
    origin = "chosen" if _chosen else "jax's default; --device names another"
    return f"{_title(first())} ({origin})"


def _title(device: jax.Device) -> str:
    """Name and model of a device: "gpu:0, NVIDIA H100 80GB HBM3"; a CPU has none."""
    number = device.id if device.platform == "cpu" else _number(device)
    kind = "" if device.device_kind == "cpu" else f", {device.device_kind}"
    return f"{device.platform}:{number}{kind}"
