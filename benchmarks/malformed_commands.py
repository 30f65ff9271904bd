"""Command lines of a tiny run, and command lines with odd words."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from malformation import ODD_WORDS
from wellformed_inputs import TINY

from mpcc.core.commands.flags import COMMAND_FLAGS
from mpcc.core.config import RunSettings, flag, options
from mpcc.core.registry import load_registry

__all__ = ["BUDGET", "Case", "extremes", "mpcc_flags", "run_flags", "run_of", "tiny"]

# Numbers that would be honest work for hours, or for gigabytes, if they were let through: the flags win over the files.
BUDGET = ("iterations", "d-steps", "e-steps", "standing-passes", "threads", "workers")


@attrs.frozen
class Case:
    """A command on spoilt input.

    Attributes:
        command: ``mpcc-run`` or ``mpcc``.
        arguments: Its words; files are in the working folder.
        writes: What a success may change or make, below the working folder.
        environment: Variables.
    """

    command: str
    arguments: Sequence[str]
    writes: Sequence[str] = ("out",)
    environment: Mapping[str, str] = attrs.field(factory=dict)


def tiny(*names: str, without: Sequence[str] = (), **others: Any) -> list[str]:
    """Return flags of a tiny run, or those of them that are named."""
    chosen = {**TINY, **others}
    return [
        f"--{name}={value}" for name, value in chosen.items() if (not names or name in names) and name not in without
    ]


def run_of(*flags: str, **others: Any) -> Case:
    """Return a tiny run into the folder ``out``."""
    return Case("mpcc-run", [*tiny(**others), "--out", "out", *flags])


def run_flags(random: Random, folder: Path, stock: Path) -> Case:
    """Flags of mpcc-run that are odd, missing, repeated, unknown or without a value."""
    registry = load_registry([])
    names = [flag("run", name) for name in options.fields(RunSettings) if flag("run", name)[2:] not in BUDGET]
    for section, kind, plugin in (
        ("prior", "prior", "gmm"),
        ("arch", "architecture", "biggan8"),
        ("data", "dataset", "folder"),
    ):
        cls = registry.entry(kind, plugin).options_class()
        names += [flag(section, "name"), *(flag(section, name) for name in options.fields(cls or RunSettings))]
    names += [spelled for spelled, *_ in COMMAND_FLAGS.values() if spelled != "--help"]
    flags = odd_flags(random, names)
    named = {word.partition("=")[0] for word in flags}
    rest = [word for word in tiny() if word.partition("=")[0] not in named or random.random() < 0.05]
    out = ["--out", "out"] if "--out" not in named else []
    dry = ["--dry-run"] if random.random() < 0.3 else []
    # A budget that is odd on purpose, of what is refused.
    if random.random() < 0.2:
        odd = random.choice(BUDGET)
        value = random.choice(
            ("0", "-1", "x", "nan", "", "1.5", str(10**30) if odd in ("threads", "workers") else "1e9")
        )
        rest = [word for word in rest if not word.startswith(f"--{odd}=")] + [f"--{odd}={value}"]
    return Case("mpcc-run", [*rest, *out, *dry, *flags], writes=["out", "runs", *values(flags)])


def extremes(random: Random, folder: Path, stock: Path) -> Case:
    """Numbers and choices that are well formed, of any prior and any conditioning, as small and as large as they go."""
    registry = load_registry([])
    prior = random.choice(registry.names("prior"))
    places = [("run", name, field) for name, field in options.fields(RunSettings).items()]
    for section, kind, plugin in (("prior", "prior", prior), ("arch", "architecture", "biggan8")):
        cls = registry.entry(kind, plugin).options_class()
        places += [(section, name, field) for name, field in (options.fields(cls) if cls else {}).items()]
    chosen = {"--prior": prior}
    for section, name, field in random.choices(places, k=random.choice((1, 2, 3, 5))):
        spelled = flag(section, name)
        value = random.choice(extreme_values(field.type))
        if name == "width" and value in ("1797", "1798"):
            continue  # networks of 20 GB, on a machine that may have them
        if spelled[2:] not in (*BUDGET, "download", "device", "generated-images") and value is not None:
            chosen[spelled] = value
    if random.random() < 0.2:
        chosen[f"--{random.choice(BUDGET)}"] = str(10**30)
    if random.random() < 0.3:
        chosen["--metrics"] = random.choice(("all", "silhouette", "reconstruction,acc", "nmi,ari,purity"))
    flags = [f"{name}={value}" for name, value in chosen.items()]
    budget = {"--iterations", "--d-steps", "--e-steps", "--standing-passes"}
    # Ten to the thirtieth of these is honest work: only what it would be is looked at.
    dry = ["--dry-run"] if random.random() < 0.2 or any(chosen.get(name) == str(10**30) for name in budget) else []
    rest = [word for word in tiny() if word.partition("=")[0] not in chosen]
    return Case("mpcc-run", [*rest, *flags, "--out", "out", *dry])


def extreme_values(kind: Any) -> list[str | None]:
    """Return what an option of a type may be at its limits; None where there is no such thing."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if get_origin(kind) in (Union, UnionType):
        return [value for each in get_args(kind) for value in extreme_values(each)]
    if kind is float:
        return [
            "0",
            "1",
            "-1",
            "1e-320",
            "1e-45",
            "1e-38",
            "1e-8",
            "0.999999999999",
            "100",
            "1e6",
            "1e38",
            "1e39",
            "1e308",
        ]
    if kind is int:
        huge = (2**15, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**12, 10**30, 10**400)
        return [*map(str, (0, 1, 1, 2, 2, 3, 5, 7, 64, 1797, 1798)), *map(str, huge)]
    return ["true", "false"] if kind is bool else [None]


def mpcc_flags(random: Random, folder: Path, stock: Path) -> Case:
    """Words of ``mpcc evaluate``, ``predict``, ``plugins`` and ``bench`` that are odd, missing, repeated or unknown."""
    shutil.copytree(stock / "run", folder / "run")
    shutil.copytree(stock / "arrays", folder / "arrays")
    chosen = random.choice(
        ("evaluate", "export", "predict", "predict", "plugins", "plugins list", "plugins new", "bench", "")
    )
    words = chosen.split()
    common = ["--plugin", "--registry", "--help", "--traceback", "--version"]
    names = {
        "evaluate": ["--metrics", "--eval-images", "--features", "--data-root", "--device", "--checkpoint", "--out"],
        "predict": [
            *(
                "--data-path",
                "--data",
                "--data.path",
                "--data.memory",
                "--data.labels",
                "--out",
                "--posterior",
                "--batch",
            ),
            *("--workers", "--checkpoint", "--device", "--data-root", "--data.images-key", "--data.x"),
        ],
        "export": ["--checkpoint", "--out"],
        "plugins": ["--json"],
        "bench": ["--presets", "--out"],
    }.get(words[0] if words else "", [])
    if chosen in ("evaluate", "export", "predict"):
        words += [random.choice(("run", "run", "run", "run", "nowhere", "arrays", random.choice(ODD_WORDS)))]
        words += ["--data-path", "arrays/bytes.npy"] * (chosen == "predict" and random.random() < 0.3)
    elif chosen == "plugins new":
        words += random.choices(
            ("prior", "metric", "dataset", "my-thing", *ODD_WORDS), k=random.choice((0, 1, 2, 2, 2, 3))
        )
        names = ["--out"]
    elif chosen == "bench":
        # Nothing that could begin to measure.
        words += ["--presets", random.choice(ODD_WORDS[:20])]
    words += odd_flags(random, [*names, *common])
    return Case("mpcc", words, writes=["out", "run", "my-thing", *values(words)])


def values(words: Sequence[str]) -> list[str]:
    """Return what may be the name of a file that a command was asked to write, and the folders above it."""
    names = [Path(name) for word in words for name in (word, word.partition("=")[2]) if name]
    return [str(path) for name in names for path in (name, *name.parents) if path.name]


def odd_flags(random: Random, names: Sequence[str]) -> list[str]:
    """Return one to three flags, each with an odd value, or with none."""
    words: list[str] = []
    for _ in range(random.choice((1, 1, 2, 3))):
        name = random.choice(names)
        match random.randrange(12):
            case 0:
                name = random.choice(
                    (f"{name}x", name[1:], name[:-1], f"{name}.x", f"--no-{name[2:]}", name.replace("-", "_"))
                )
            case 1:
                words.append(name)
                continue
            case 2:
                words += [name, random.choice(ODD_WORDS)]
        value = random.choice(ODD_WORDS)
        words += [name, value] if random.random() < 0.5 else [f"{name}={value}"]
    # No process can be given these.
    return [word.replace("\0", "") for word in words]
