"""Strategies of Hypothesis for the kinds of malformed input: which files are damaged, and which command reads them.

This module does not import mpcc: Hypothesis takes constants from the modules that are loaded, and the cases should not
change when mpcc does.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays_of
from hypothesis.strategies import DrawFn, SearchStrategy
from malformation import ODD_VALUES, ODD_WORDS, damaged, damaged_archive, damaged_png, damaged_toml

__all__ = ["KINDS", "TINY", "Case"]

Stock = Mapping[str, bytes]
Files = dict[str, bytes]

# One iteration of a network of width 1, in a fraction of a second.
TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 4, "d-steps": 1, "e-steps": 1, "standing-passes": 1},
    **{"metrics": "occupancy", "threads": 1, "iterations": 1, "latent-dim": 3, "clusters": 3, "eval-images": 20},
    **{"device": "cpu", "workers": 0, "preset": "none"},
}
# Large values of these would mean hours of real work, or gigabytes. As flags they override the damaged files.
BUDGET = ("--iterations", "--d-steps", "--e-steps", "--standing-passes", "--threads", "--workers")


@attrs.frozen
class Case:
    """A command on malformed input.

    Attributes:
        command: ``mpcc-run`` or ``mpcc``.
        arguments: The words of the command line.
        files: The files of the working folder.
        writes: Paths below the working folder that a successful command may change or make.
        environment: Environment variables.
        sealed: Checkpoints that get a new digest, so that the reader gets past the check of the digest.
    """

    command: str
    arguments: Sequence[str]
    files: Files = attrs.field(factory=dict)
    writes: Sequence[str] = ("out",)
    environment: Mapping[str, str] = attrs.field(factory=dict)
    sealed: Sequence[str] = ()


def run_of(files: Files, *flags: str, without: Sequence[str] = ()) -> Case:
    """Return a tiny run into the folder ``out``; ``flags`` replace the flags of the same names."""
    named = {flag.partition("=")[0] for flag in (*flags, *without)}
    rest = [f"--{name}={value}" for name, value in TINY.items() if f"--{name}" not in named]
    return Case("mpcc-run", [*rest, *([] if "--out" in named else ["--out=out"]), *flags], files)


def below(stock: Stock, *folders: str) -> Files:
    """Return the files of some folders."""
    return {name: data for name, data in stock.items() if name.startswith(tuple(f"{folder}/" for folder in folders))}


def one_damaged(files: Files, stock: Stock, of: Callable[[str], bool] = lambda _: True) -> SearchStrategy[Files]:
    """Damage one of some files."""
    others = [data for name, data in stock.items() if not name.startswith("run/")]
    names = some.sampled_from([name for name in files if of(name)])

    def damage(name: str) -> SearchStrategy[Files]:
        ways = [damaged(files[name], others)]
        if zipfile.is_zipfile(io.BytesIO(files[name])):
            ways.append(damaged_archive(files[name], others))
        elif name.endswith(".png"):
            ways.append(damaged_png(files[name]))
        return some.one_of(ways).map(lambda data: {**files, name: data})

    return names.flatmap(damage)


def choices(*named: str) -> SearchStrategy[list[str]]:
    """Draw some of the flags that are written as ``name=one,another``."""
    options = [(name, values.split(",")) for name, _, values in (choice.partition("=") for choice in named)]
    return some.fixed_dictionaries({}, optional={name: some.sampled_from(values) for name, values in options}).map(
        lambda chosen: [f"--data.{name}={value}" for name, value in chosen.items()]
    )


def read(stock: Stock, files: Files, *flags: str) -> SearchStrategy[Case]:
    """Train on files of the working folder, or predict them."""
    prediction = Case(
        "mpcc", ["predict", "run", *flags, "--out=out.csv"], {**files, **below(stock, "run")}, ["out.csv"]
    )
    return some.sampled_from([run_of(files, *flags)] * 2 + [prediction])


def of_run(stock: Stock, files: Files) -> SearchStrategy[Case]:
    """Read the run folder ``run``."""
    files = {**files, "bytes.npy": stock["arrays/bytes.npy"]}
    predict = ["predict", "run", "bytes.npy", "--out=out.csv", "--posterior=out.npy"]
    commands = [["export", "run", "--out=out"], ["evaluate", "run", "--out=out"], predict]
    cases = [Case("mpcc", words, files, ["out", "out.csv", "out.npy"]) for words in commands]
    return some.sampled_from([*cases, Case("mpcc-run", ["--resume=run", "--iterations=2"], files, ["run"])])


@some.composite
def config(draw: DrawFn, stock: Stock) -> Case:
    """A damaged configuration file."""
    files = {"config.toml": draw(damaged_toml(stock["run/config.toml"]))}
    budget = [f"{name}={TINY[name[2:]]}" for name in BUDGET]
    rest = draw(some.sampled_from((["--dry-run"], [*budget, "--out=out"])))
    return Case("mpcc-run", ["--config=config.toml", *rest], files)


@some.composite
def registry(draw: DrawFn, stock: Stock) -> Case:
    """A damaged registry file, whose entries are used or listed."""
    files = {"registry.toml": draw(damaged_toml(stock["registry.toml"]))}
    used = ["--prior=mine", "--preset=small"]
    # The preset sets these two.
    run = run_of(files, *used, "--metrics=used", without=["--latent-dim", "--clusters"])
    words = (["plugins"], ["plugins", "--json"])
    cases = [run, Case("mpcc-run", [*used, "--dry-run"], files), *(Case("mpcc", listing, files) for listing in words)]
    case = draw(some.sampled_from(cases))
    if draw(some.booleans()):
        return attrs.evolve(case, environment={"MPCC_REGISTRY": "registry.toml"})
    return attrs.evolve(case, arguments=[*case.arguments, "--registry=registry.toml"])


@some.composite
def plugin(draw: DrawFn, stock: Stock) -> Case:
    """A damaged one-file plugin: its text, or a value that it registers."""
    text = stock["malformed_plugin.py"]
    words = (b'"local"', b'"mpcc.plugins.priors.gmm:GaussianMixture"', b'"The mixture of Gaussians once more."')
    values = (b"None", b"5", b"''", b"[]", b"b'x'", b"object()", b"'os:path'", b"'x\\ny'", b"'[/]'", b"lambda: 1")
    exchanged = some.builds(text.replace, some.sampled_from(words), some.sampled_from(values))
    files = {"malformed_plugin.py": draw(damaged(text) | exchanged)}
    named = ["--plugin=malformed_plugin.py", "--prior=local"]
    runs = [run_of(files, *named), run_of(files, *named, "--dry-run")]
    return draw(some.sampled_from([Case("mpcc", ["plugins", named[0]], files), *runs]))


@some.composite
def run_flags(draw: DrawFn, stock: Stock) -> Case:
    """Flags of mpcc-run that are odd, missing, repeated, unknown or without a value."""
    names = [name for name in json.loads(stock["flags.json"])["mpcc-run"] if name not in (*BUDGET, "--help")]
    flags = draw(odd_flags(names)) + draw(some.sampled_from([[], [], ["--dry-run"]]))
    # An odd budget, of values that must be refused.
    if draw(some.integers(0, 4)) == 0:
        name = draw(some.sampled_from(BUDGET))
        huge = str(10**30) if name in ("--threads", "--workers") else "1e9"
        flags.append(f"{name}={draw(some.sampled_from(('0', '-1', 'x', 'nan', '', '1.5', huge)))}")
    return attrs.evolve(run_of({}, *flags), writes=["out", "runs", *names_in(flags)])


SMALL = ("0", "1", "1", "2", "2", "3", "5", "7", "64", "1797", "1798")
HUGE = [str(number) for number in (2**15, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**12, 10**30, 10**400)]
REAL = ("0", "1", "-1", "1e-320", "1e-45", "1e-38", "1e-8", "0.999999999999", "100", "1e6", "1e38", "1e39", "1e308")
LIMITS = {
    "bool": some.sampled_from(("true", "false")),
    "float": some.sampled_from(REAL) | some.floats(0, 2).map(repr),
    "int": some.sampled_from([*SMALL, *HUGE]),
}
# Networks of 20 GB and more, which fit into the memory of some machines.
WIDE = ("--arch.width=1797", "--arch.width=1798", f"--arch.width={2**15}")
METRICS = ("all", "silhouette", "reconstruction,acc", "nmi,ari,purity")


@some.composite
def extremes(draw: DrawFn, stock: Stock) -> Case:
    """Numbers and choices that are well formed, of any prior and any conditioning, as small and as large as they go."""
    options = json.loads(stock["options.json"])
    prior = draw(some.sampled_from(sorted(options)))
    pairs = [some.tuples(some.sampled_from(BUDGET), some.just(str(10**30)))] * 4
    pairs += [some.tuples(some.just("--metrics"), some.sampled_from(METRICS))] * 6
    pairs += [
        some.tuples(some.just(name), some.one_of([LIMITS.get(word, some.just(word)) for word in words]))
        for name, words in options[prior].items()
        if words and name not in (*BUDGET, "--download", "--device", "--generated-images")
    ]
    flags = [f"{name}={value}" for name, value in draw(some.lists(some.one_of(pairs), min_size=1, max_size=5))]
    # 10^30 iterations or steps are valid and would never end, so such a run is only a dry run.
    endless = any(flag in [f"{name}={10**30}" for name in BUDGET[:4]] for flag in flags)
    dry = ["--dry-run"] * (endless or draw(some.integers(0, 4)) == 0)
    return run_of({}, f"--prior={prior}", *(flag for flag in flags if flag not in WIDE), *dry)


@some.composite
def mpcc_flags(draw: DrawFn, stock: Stock) -> Case:
    """Words of ``mpcc evaluate``, ``predict``, ``plugins`` and ``bench`` that are odd, missing, repeated or unknown."""
    commands = json.loads(stock["flags.json"])
    del commands["mpcc-run"]
    chosen = draw(some.sampled_from(sorted(commands)))
    words = chosen.split()
    if chosen in ("evaluate", "export", "predict"):
        words.append(draw(some.sampled_from(("run", "run", "run", "run", "nowhere", "arrays")) | ODD_WORDS))
        words += ["arrays/bytes.npy"] * (chosen == "predict" and draw(some.booleans()))
    elif chosen in ("plugins new", "plugins check"):
        words += draw(some.lists(some.sampled_from(("prior", "metric", "dataset", "my-thing")) | ODD_WORDS, max_size=3))
    elif chosen == "bench":
        # No name of a preset, so that nothing is measured.
        words.append(f"--presets={draw(ODD_WORDS)}")
    words += draw(odd_flags([*commands[chosen], "--plugin", "--registry", "--help", "--traceback", "--version"]))
    files = below(stock, "run", "arrays")
    return Case("mpcc", words, files, ["out", "run", "my-thing", "predictions-bytes.csv", *names_in(words)])


def names_in(words: Sequence[str]) -> list[str]:
    """Return all words that may name a file that the command writes, and the folders above them."""
    names = [Path(name) for word in words for name in (word, word.partition("=")[2]) if name]
    return [str(path) for name in names for path in (name, *name.parents) if path.name]


@some.composite
def odd_flags(draw: DrawFn, names: Sequence[str]) -> list[str]:
    """Draw one to three flags, each with an odd value, or with none."""
    words: list[str] = []
    for _ in range(draw(some.integers(1, 3))):
        name, value = draw(some.sampled_from(names)), draw(ODD_WORDS)
        spellings = (f"{name}x", name[1:], name[:-1], f"{name}.x", f"--no-{name[2:]}", name.replace("-", "_"))
        joined = [[f"{flag}={value}"] for flag in (name, name, name, draw(some.sampled_from(spellings)))]
        words += draw(
            some.sampled_from([*joined, [name, value], [name, value], [name], [name, value, draw(ODD_WORDS)]])
        )
    return words


@some.composite
def arrays(draw: DrawFn, stock: Stock) -> Case:
    """A damaged file of arrays, of images or of labels; a run trains on it or predicts it."""
    name = draw(some.sampled_from(sorted(below(stock, "arrays"))))
    files = draw(one_damaged({name: stock[name]}, stock))
    flags = draw(choices("memory=auto,load,stream"))
    if name == "arrays/labels.npy":
        flags += [f"--data.labels={name}"]
        files["arrays/bytes.npy"], name = stock["arrays/bytes.npy"], "arrays/bytes.npy"
    elif name.startswith(("arrays/both", "arrays/packed")):
        flags += ["--data.labels-key=labels"]
    return draw(read(stock, files, "--data=arrays", f"--data.path={name}", *flags))


def one_odd(kind: str, value: float, at: int) -> np.ndarray:
    """Return images between 0 and 1, except for one pixel."""
    pixels = np.linspace(0, 1, 12 * 8 * 8).astype(kind)
    pixels[at] = value
    return pixels.reshape(12, 8, 8)


SHAPES = ((0, 8, 8), (12, 0, 8), (12, 8), (12, 8, 8), (12, 8, 8, 2), (12, 3, 8, 3), (1, 8, 8), (3, 1, 1), (5, 8, 9))
PIXELS = some.sampled_from((np.nan, np.inf, -np.inf, -2.0, 256.0, 6e4, 1.0)) | some.floats(width=16)
IMAGES = some.builds(one_odd, some.sampled_from(("f2", "f4", "f8", ">f4")), PIXELS, some.integers(0, 767))
IMAGES |= arrays_of.arrays(
    arrays_of.scalar_dtypes() | arrays_of.unicode_string_dtypes(),
    some.sampled_from(SHAPES) | arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=12),
)
LABELS = some.sampled_from(
    ([0] * 11, [0] * 13, [-1] * 12, [0.5] * 12, [float("nan")] * 12, [2**62] * 12, [], 5, ["a"] * 12)
).map(np.asarray) | arrays_of.arrays(arrays_of.scalar_dtypes(), (12,))


def saved(array: np.ndarray) -> bytes:
    """Return a file of an array."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@some.composite
def array_values(draw: DrawFn, stock: Stock) -> Case:
    """Well-formed files of arrays with odd shapes, types and values: of images, or of labels."""
    flags = draw(choices("memory=auto,load,stream", "layout=auto,NHW,NHWC,NCHW", "range=type,set,percentiles,255"))
    if draw(some.booleans()):
        files = {"images.npy": saved(draw(IMAGES))}
    else:
        files = {"images.npy": saved(np.zeros((12, 8, 8), dtype=np.uint8)), "labels.npy": saved(draw(LABELS))}
        flags += ["--data.labels=labels.npy"]
    return draw(read(stock, files, "--data=arrays", "--data.path=images.npy", *flags))


@some.composite
def images(draw: DrawFn, stock: Stock) -> Case:
    """A folder with one damaged image."""
    files = draw(one_damaged(below(stock, "images"), stock))
    flags = draw(choices("memory=load,stream", "unreadable=refuse,skip,skip", "labels=auto,none"))
    # Without this flag, the mixture of grey and colour images is refused, whatever the damage.
    flags += draw(some.sampled_from([[], *[["--data.channels=3"]] * 4]))
    return draw(read(stock, files, "--data=folder", "--data.path=images", *flags))


@some.composite
def mnist(draw: DrawFn, stock: Stock) -> Case:
    """Files of MNIST, one of them damaged; in a quarter of the cases a packed one, to be unpacked."""
    files = below(stock, "root/MNIST")
    flags = ["--data=mnist", "--data-root=root", *draw(choices("split=all,train,test"))]
    if draw(some.integers(0, 3)):
        return run_of(draw(one_damaged(files, stock, lambda name: not name.endswith(".gz"))), *flags)
    name = draw(some.sampled_from([name for name in files if name.endswith(".gz")]))
    raw = files.pop(name.removesuffix(".gz"))
    files[name] = draw(damaged(files[name]) | damaged(raw).map(partial(gzip.compress, mtime=0)))
    # The command is asked to unpack, so it may write into the data folder.
    return attrs.evolve(run_of(files, *flags, "--download"), writes=["out", "root"])


@some.composite
def cifar(draw: DrawFn, stock: Stock) -> Case:
    """Pickles of CIFAR, one of them damaged."""
    name, place = draw(some.sampled_from((("cifar10", "cifar-10-batches-py"), ("cifar20", "cifar-100-python"))))
    files = draw(one_damaged(below(stock, f"root/{place}"), stock))
    return run_of(files, f"--data={name}", "--data-root=root", *draw(choices("split=all,train,test")))


@some.composite
def omniglot(draw: DrawFn, stock: Stock) -> Case:
    """A damaged zip of Omniglot, or one with a damaged member."""
    files = draw(one_damaged(below(stock, "root/omniglot-py"), stock))
    return run_of(files, "--data=omniglot", "--data-root=root", "--data.classes=2", *draw(choices("copies=1,2")))


@some.composite
def checkpoint(draw: DrawFn, stock: Stock) -> Case:
    """A damaged checkpoint: its bytes, the members of its archive, or one of its values."""
    name = "run/checkpoints/last.pt"
    sealed = draw(some.sampled_from(([], [name], [name], [name])))
    odd = odd_checkpoint(stock[name])
    data = draw(damaged_archive(stock[name]) | odd | odd if sealed else damaged(stock[name]))
    return attrs.evolve(draw(of_run(stock, {**below(stock, "run"), name: data})), sealed=sealed)


@some.composite
def odd_checkpoint(draw: DrawFn, data: bytes) -> bytes:
    """Exchange one value of a checkpoint, at any depth, or leave it out."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    place: Any = state
    while True:
        key = draw(some.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        inner = place[key]
        if not (isinstance(inner, (dict, list)) and inner) or draw(some.integers(0, 6)) == 0:
            break
        place = inner
    odd: list[Any] = [None, -1, 2**62, 2**70, float("nan"), "", "x", [], {}, [1], {"a": 1}, True, torch.zeros(0)]
    odd += [torch.full((2, 3), torch.nan), torch.zeros(1, dtype=torch.int64)]
    if isinstance(inner, torch.Tensor):
        odd += [inner.flatten()[:0], torch.full_like(inner, 255), inner.double(), inner.unsqueeze(0)]
        odd += [inner.to(torch.complex64)]
        odd += [torch.full_like(inner, torch.nan)] if inner.is_floating_point() else [-inner.to(torch.int64)]
        odd += [inner.to_sparse()] if inner.ndim and inner.dtype != torch.uint8 else []
    elif isinstance(inner, str):
        odd += [inner[: len(inner) // 2], inner.replace("1", draw(ODD_VALUES)), "a\0b"]
    elif isinstance(inner, (int, float)):
        odd += [inner + 1, -inner, inner * 10**12]
    if isinstance(place, dict) and draw(some.integers(0, 4)) == 0:
        del place[key]
    else:
        place[key] = draw(some.sampled_from(odd))
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@some.composite
def run_folder(draw: DrawFn, stock: Stock) -> Case:
    """A run folder with a damaged configuration or damaged metrics."""
    files = below(stock, "run")
    if draw(some.integers(0, 2)) == 0:
        files["run/metrics.jsonl"] = draw(damaged(files["run/metrics.jsonl"]))
        return Case("mpcc-run", ["--resume=run", "--iterations=2"], files, ["run"])
    files["run/config.toml"] = draw(damaged_toml(files["run/config.toml"]))
    return draw(of_run(stock, files))


KINDS: dict[str, Callable[[Stock], SearchStrategy[Case]]] = {
    kind.__name__.replace("_", "-"): kind
    for kind in (
        *(config, registry, plugin, run_flags, extremes, mpcc_flags, arrays),
        *(array_values, images, mnist, cifar, omniglot, checkpoint, run_folder),
    )
}
