"""Which preset a run starts from: the one that the user names, or the one made for data set, architecture and device.

A preset was made for a data set, for its own architecture, and perhaps for one kind of device and for another objective
than the default one (`mpcc.core.registry.presets`). Among those of the data set, the first is taken by these rules:

1. None that was made for another objective; one that was made for this objective comes first.
2. On a CPU, no preset that was made for CUDA, unless there is no other.
3. The architecture that the user has typed, if one was made for it.
4. The kind of device of the run.
5. A preset for that device before one for any, then the order of registration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from mpcc.core.config.devices import kind_of_device
from mpcc.core.config.layers import NO_PRESET, Layer, flag
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import Registry
from mpcc.core.registry.presets import DEVICES, Purpose, purpose_of

__all__ = ["PresetChoice", "choose_preset"]


@attrs.frozen
class PresetChoice:
    """A preset and why it is taken.

    Attributes:
        name: Its name; None for no preset.
        line: What the user is told about the choice; empty if nothing was chosen for the user.
        made_for: The architecture that the preset was made for, if the run has another; else None.
        data: The data set of a preset that the user has named, for users who name no data set.
    """

    name: str | None
    line: str = ""
    made_for: str | None = None
    data: str | None = None

    def layer(self, registry: Registry) -> Layer:
        """Return the values of the preset; there must be one."""
        assert self.name is not None
        tables: Mapping[str, Any] = registry.presets[self.name]
        if self.data is not None:
            tables = {**tables, "data": {"name": self.data, **tables.get("data", {})}}
        return Layer(f"preset {self.name}", tables, strict=False)


def choose_preset(registry: Registry, layers: Sequence[Layer], named: str | None = None) -> PresetChoice:
    """Choose the preset of a run.

    Arguments:
        registry: Plugins and presets.
        layers: Values of the user, with the data sets of the user's own files; a later one overrides an earlier one.
        named: The preset of the command line, or ``none``; it comes before everything else.

    Raises:
        InvalidInput: If there is no such preset, or choices for compatibility need one that the data set does not have.
    """
    in_file = next((layer.preset for layer in reversed(layers) if layer.preset is not None), None)
    compat = next((layer for layer in reversed(layers) if layer.preset_of_data is not None), None)
    asked = in_file if named is None else named
    if asked == NO_PRESET:
        told = f"--{compat.origin}: the configuration file is complete, so no preset adds to it" if compat else ""
        return PresetChoice(None, "" if named else told)
    data = typed(layers, "data", "name") or registry.defaults["data"]
    arch = typed(layers, "arch", "name")
    before = ""
    if compat is not None and named is None:
        assert compat.preset_of_data is not None
        wanted = compat.preset_of_data.replace("DATA", data)
        if wanted in registry.presets:
            purpose = purpose_of(wanted, registry.presets[wanted], registry.entries["dataset"])
            choice = described(wanted, purpose, arch, f"preset {wanted}: that of --{compat.origin}")
            if choice.made_for is None:
                return choice
            line = f"preset {wanted}: that of --{compat.origin}, made for {purpose.arch}, not for {arch}"
            return attrs.evolve(choice, line=line)
        if compat.preset_required:
            raise without_preset(registry, compat, data, wanted)
        before = f"--{compat.origin}: there is no preset {wanted}; "
    if asked is not None:
        if asked not in registry.presets:
            raise unknown_name("preset", asked, registry.presets)
        purpose = purpose_of(asked, registry.presets[asked], registry.entries["dataset"])
        return PresetChoice(asked, data=purpose.data)
    objective = typed(layers, "objective", "name") or registry.defaults["objective"]
    choice = made_for_run(registry, data, arch, typed(layers, "run", "device"), objective)
    line = choice.line or (f"preset {choice.name} is used" if before else "")
    return attrs.evolve(choice, line=before + line)


def made_for_run(registry: Registry, data: str, arch: str | None, device: object, objective: str) -> PresetChoice:
    """Return the preset for a data set, by the rules of this module.

    Arguments:
        registry: Plugins and presets.
        data: The data set.
        arch: The architecture that the user has typed, if any.
        device: The value of ``--device`` that the user has typed, if any.
        objective: That of the run.
    """
    purposes = {
        name: purpose
        for name, preset in registry.presets.items()
        if (purpose := purpose_of(name, preset, registry.entries["dataset"])).data == data
        and purpose.objective in (None, objective)
    }
    if not purposes:
        none = f"no preset was made for {data}: the defaults are used; choose a preset with {flag('run', 'preset')}"
        return PresetChoice(None, none)
    # What kind of device it is can take long to find out.
    kind = kind_of_device(device) if any(purpose.device for purpose in purposes.values()) else None

    def rank(name: str) -> tuple[bool, ...]:
        purpose = purposes[name]
        return (
            purpose.objective != objective,
            kind == "cpu" and purpose.device == "cuda",
            arch is not None and purpose.arch not in (None, arch),
            purpose.device not in (None, kind),
            purpose.device is None,
            arch is not None and purpose.arch is None,
        )

    name = min(purposes, key=rank)
    purpose, others = purposes[name], [other for other in purposes if other != name]
    if kind == "cpu" and purpose.device == "cuda":
        return described(name, purpose, arch, f"no preset was made for {data} {DEVICES[kind]}: {name} is used")
    more = f" (others: {', '.join(others)}; choose one with {flag('run', 'preset')})" if others else ""
    line = f"preset {name}: made for {purpose}{more}" if others else ""
    return described(name, purpose, arch, line, kind, more)


def described(
    name: str, purpose: Purpose, arch: str | None, line: str, kind: str | None = None, more: str = ""
) -> PresetChoice:
    """Return a choice that says if the preset was made for another architecture than the user's.

    Arguments:
        name: Of the preset.
        purpose: What it was made for.
        arch: The architecture that the user has typed, if any.
        line: What is told if the preset suits it.
        kind: The kind of the device, if it mattered.
        more: The end of the line.
    """
    if arch is None or purpose.arch in (None, arch):
        return PresetChoice(name, line)
    where = f" {DEVICES[kind]}" if kind else ""
    line = f"no preset was made for {purpose.data} with {arch}{where}: {name} (made for {purpose.arch}) is used{more}"
    return PresetChoice(name, line, made_for=purpose.arch)


def without_preset(registry: Registry, compat: Layer, data: str, wanted: str) -> InvalidInput:
    """Return the error for choices that are a preset which the data set does not have."""
    pattern = compat.preset_of_data or ""
    known = [name for name in registry.names("dataset") if pattern.replace("DATA", name) in registry.presets]
    nearest = f" (nearest valid choice: --preset {pattern.replace('DATA', known[0])})" if known else ""
    return InvalidInput(
        f"--{compat.origin}: data set {data} has no preset {wanted}: expected --data with one of "
        f"{', '.join(known)}{nearest}"
    )


def typed(layers: Sequence[Layer], section: str, name: str) -> Any:
    """Return a value of the user, by section and name; None if there is none."""
    given = (layer.tables.get(section, {}).get(name) for layer in reversed(layers))
    return next((value for value in given if value is not None), None)
