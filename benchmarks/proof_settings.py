"""The named settings that `accuracy.py` and `baselines.py` measure, from settings.toml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs import transform_error
from made_sets import MADE, make
from result_files import seeds_of

from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.system.toml_file import read_toml

__all__ = ["SETTINGS", "AccuracySetting", "BaselineSetting", "Settings", "filled", "read_settings"]

SETTINGS = Path(__file__).with_name("settings.toml")
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class AccuracySetting:
    """A command of ``mpcc-run``, its seeds, and what its scores are claimed for.

    Attributes:
        name: Of the table; the results' files begin with it.
        title: As tables show it.
        data: The images, as tables show them; rows with the same images stand in one table.
        arguments: Of ``mpcc-run``; ``{made}`` stands for a set that `made` names.
        seeds: One run for each.
        budget: Wall time (s) of the command that the scores are claimed for.
        stop: Whether the run is interrupted after the budget, and its last checkpoint evaluated.
        chosen: What the settings were chosen on.
        chosen_images: How many images, the first ones, the settings were chosen on.
        made: A set of `made_sets.MADE`.
        collapse: Arguments of ``mpcc-run`` that replace others during a first part; then the run goes on without them.
        latent_groups: Whether clusters are found in the latents afterwards, by k-means with as many groups as there
            are classes: for systems that have no clusters.
        refine: Arguments of ``mpcc refine``, which then follows, and whose time counts.
        readme: Whether the README shows the row.
    """

    name: str
    title: str
    data: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: float
    stop: bool = False
    chosen: str = ""
    chosen_images: int = 0
    made: str | None = None
    collapse: tuple[str, ...] = ()
    latent_groups: bool = False
    refine: tuple[str, ...] | None = None
    readme: bool = False


@attrs.frozen(kw_only=True)
class BaselineSetting:
    """Images for the baselines.

    Attributes:
        name: Of the images, as tables show them; the results' files begin with it.
        arguments: Flags of ``mpcc-run`` that name the images; ``{made}`` stands for a set that `made` names.
        seeds: One fit of each method for each.
        budget: Wall time (s) of each fit.
        pixels: The side of the images, by default that of the preset's architecture.
        most: The most images to fit on, by default what the method can take.
        chosen_images: How many images, the first ones, do not count for the score of the rest.
        made: A set of `made_sets.MADE`.
    """

    name: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: float
    pixels: int | None = None
    most: int | None = None
    chosen_images: int = 0
    made: str | None = None


@attrs.frozen
class Settings:
    """All settings, in the order of the file."""

    accuracy: tuple[AccuracySetting, ...]
    baselines: tuple[BaselineSetting, ...]

    def named(self, names: Sequence[str]) -> list[AccuracySetting]:
        """Return the settings of these names in this order; all of them without a name.

        Raises:
            InvalidInput: If one does not exist.
        """
        known = {setting.name: setting for setting in self.accuracy}
        for name in names:
            if name not in known:
                raise unknown_name("setting", name, known)
        return [known[name] for name in names or known]


def read_settings(path: Path) -> Settings:
    """Read a file of settings.

    Raises:
        InvalidInput: If it is not one; the message names the table and what was expected.
    """
    tables, _ = read_toml(path, f"--settings {path}")
    unknown = set(tables) - {"accuracy", "baselines"}
    if unknown:
        raise unknown_name(f"table in {path}:", min(unknown), ["accuracy", "baselines"])
    return Settings(
        tuple(setting(AccuracySetting, path, *entry) for entry in tables.get("accuracy", {}).items()),
        tuple(setting(BaselineSetting, path, *entry) for entry in tables.get("baselines", {}).items()),
    )


def setting(kind: type[T], path: Path, name: str, table: dict[str, Any]) -> T:
    """Return one setting.

    Raises:
        InvalidInput: If a value is missing, unknown or of another type.
    """
    try:
        values = {"name": name, **table, "seeds": seeds_of([str(table["seeds"])])} if "seeds" in table else table
        made: T = cattrs.Converter(forbid_extra_keys=True).structure(values, kind)
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"{path}: {name}: {'; '.join(transform_error(error, path=name))}") from error
    if table.get("made") not in (None, *MADE):
        raise unknown_name(f"set made in {path}: {name}:", table["made"], MADE)
    return made


def filled(setting: AccuracySetting | BaselineSetting, folder: Path) -> list[str]:
    """Return the arguments of ``mpcc-run`` with the address of the set that the setting needs, built if it is missing.

    Arguments:
        setting: Of the file.
        folder: Where made sets are, a path that is valid where ``mpcc-run`` will be started.

    Raises:
        InvalidInput: If the set cannot be built.
    """
    if setting.made is None:
        return list(setting.arguments)
    place = str(make(setting.made, folder))
    return [word.replace("{made}", place) for word in setting.arguments]
