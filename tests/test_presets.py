"""Presets: which one a run starts from, what it says about that, and the paper's settings value by value."""

from __future__ import annotations

import re
import struct
import tomllib
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from mpcc.core.commands import entry
from mpcc.core.config import Layer, compat_layer, read_config, resolve
from mpcc.core.errors import InvalidInput
from mpcc.core.method.terms import TermWeights
from mpcc.core.registry import Registry, load_registry

# What the presets of the paper said before they were called so, with the defaults of that day: sizes, options, run.
RUN = {
    **{"batch": 50, "lr": 2e-4, "lr_decay": 0.0, "d_steps": 4, "e_steps": 4, "ema_decay": 0.9999, "ema_start": 1000},
    **{"latent_weight": "published", "entropy_weight": "published"},
    **{"membership_weight": 1.0, "balance_weight": 0.0, "consistency_weight": 0.0, "invariant_to": "none"},
    **{"generator_latent_weight": 0.0, "generator_membership_weight": 0.0},
    **{"entropy": "auto", "standing_passes": 16, "metrics": "all", "eval_every": 5000, "eval_images": "all"},
    **{"checkpoint_every": 1000, "keep_checkpoints": 2, "best_by": "auto", "log_every": 50, "on_nonfinite": "stop"},
    **{"seed": 0, "device": "auto", "augment_crop": 0, "augment_flip": False, "workers": 2, "engine": "fast"},
    **{"precision": "auto", "generator_lr_factor": 1.0, "label_draws": "independent"},
}
PRIOR = {
    **{"name": "gmm", "scale_floor": 0.5, "initial_raw_scale": 1.0, "locations": "orthogonal", "location_scale": 1.0},
    **{"weights": "uniform", "input_map": "identity", "variances": "consistent"},
}
ARCH = {
    **{"name": "biggan32", "upsampling": "bilinear", "encoder_blocks": "reference", "projection": "none"},
    "power_iterations": "step",
}
OBJECTIVE = {"name": "mpcc"}


def paper(K: int, J: int, iterations: int, prior_lr: float, C: int, conditioning: str) -> dict[str, dict[str, Any]]:
    """The tables of one experiment."""
    run = {**RUN, "clusters": K, "latent_dim": J, "iterations": iterations, "prior_lr": prior_lr}
    arch = {**ARCH, "width": C, "conditioning": conditioning}
    return {"run": run, "prior": PRIOR, "arch": arch, "objective": OBJECTIVE}


PAPER = {
    "mnist": paper(10, 24, 210_000, 1.6e-3, 12, "embedding"),
    "fashion-mnist": paper(10, 16, 210_000, 1.6e-3, 24, "shared"),
    "omniglot": paper(100, 24, 120_000, 1.6e-3, 16, "embedding"),
    "cifar10": paper(10, 128, 90_000, 6e-4, 96, "split"),
    "cifar20": paper(20, 128, 78_000, 6e-4, 96, "split"),
}
# Both of a value that no preset may bring.
MISSING = ("entropy_samples", "threads")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry([])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without a data root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPCC_DATA", raising=False)


def flags(**tables: dict[str, Any]) -> Layer:
    return Layer("flag", tables)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run mpcc-run in this process; return status, output, errors."""
    with pytest.raises(SystemExit) as caught:
        entry.run_main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code, *capsys.readouterr()


def chosen(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line of a dry run that says which preset was taken."""
    out = run(capsys, "--dry-run", *arguments)[1]
    lines = [line for line in out.splitlines() if line.startswith("# ") and "preset" in line]
    assert len(lines) <= 1
    return lines[0].removeprefix("# ") if lines else ""


# The paper's settings


def write_mnist(root: Path, train: int, test: int) -> None:
    """Write random images in MNIST's format."""
    random, raw = np.random.default_rng(0), root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        pixels = random.integers(0, 256, count * 784, dtype=np.uint8).tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + pixels)
        labels = bytes(index % 10 for index in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels)


@pytest.mark.parametrize("data", PAPER)
@pytest.mark.parametrize("way", ["preset", "compat", "cuda"])
def test_the_papers_settings_are_unchanged(registry: Registry, data: str, way: str) -> None:
    preset = f"{data}-paper" if way == "preset" else None
    layers = [compat_layer(registry, "paper")] if way == "compat" else []
    device = {"run": {"device": "cuda"}} if way == "cuda" else {}
    config = resolve(registry, [*layers, flags(data={"name": data}, **device)], preset)
    tables = config.to_tables()
    for section, values in PAPER[data].items():
        wanted = {**values, **device.get(section, {})}
        assert {name: tables[section].get(name) for name in wanted} == wanted
    assert [name for name in MISSING if getattr(config.run, name) is not None] == []
    assert config.preset.name == f"{data}-paper"


@pytest.mark.check
def test_the_papers_mnist_trains_the_bits_of_its_settings_given_by_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mnist(tmp_path / "data", train=50, test=10)
    shared = ["--data=mnist", "--data-root=data", "--iterations=5", "--device=cpu", "--threads=1", "--log-every=1"]
    typed = [
        f"--{name.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in PAPER["mnist"]["run"].items()
        if name not in ("iterations", "device", "log_every")
    ]
    for section in ("prior", "arch"):
        values = PAPER["mnist"][section]
        typed += [f"--{section}={values['name']}"]
        typed += [f"--{section}.{name.replace('_', '-')}={value}" for name, value in values.items() if name != "name"]
    ways = {"preset": ["--preset=mnist-paper"], "compat": ["--compat=paper"], "flags": ["--preset=none", *typed]}
    saved = {}
    for way, words in ways.items():
        assert run(capsys, *shared, *words, "--out", way)[0] == 0
        state = torch.load(tmp_path / way / "checkpoints" / "last.pt", weights_only=True)
        saved[way] = {name: state[name] for name in ("parts", "optimizers", "random")}
    for way in ("preset", "compat"):
        torch.testing.assert_close(saved[way], saved["flags"], rtol=0, atol=0)
        assert (tmp_path / way / "posterior.npy").read_bytes() == (tmp_path / "flags" / "posterior.npy").read_bytes()


# The choice


CHOICES = [
    # data set, typed architecture, device, preset, the architecture that it was made for if that is another
    ("digits", None, "cpu", "digits", None),
    ("digits", None, "cuda", "digits", None),
    ("mnist", None, "cpu", "mnist", None),
    ("mnist", "biggan16", "cpu", "mnist", None),
    ("mnist", "biggan32", "cpu", "mnist", "biggan16"),
    ("mnist", "biggan64", "cpu", "mnist", "biggan16"),
    ("mnist", None, "cuda", "mnist-paper", None),
    ("mnist", "biggan32", "cuda", "mnist-paper", None),
    ("mnist", "biggan16", "cuda", "mnist", None),
    ("mnist", "biggan64", "cuda", "mnist-paper", "biggan32"),
    ("omniglot", None, "cpu", "omniglot", None),
    ("omniglot", "biggan32", "cpu", "omniglot-biggan32", None),
    ("omniglot", "biggan32", "cuda", "omniglot-paper", None),
    ("cifar10", None, "cpu", "cifar10", None),
    ("folder", None, "cpu", "folder", None),
    ("folder", None, "cuda", "folder-cuda", None),
    ("arrays", None, "cuda", "arrays-cuda", None),
]


@pytest.mark.parametrize(("data", "arch", "device", "preset", "made_for"), CHOICES)
@pytest.mark.parametrize("origin", ["flag", "mine.toml"])
def test_data_set_typed_architecture_and_device_choose(
    registry: Registry, data: str, arch: str | None, device: str, preset: str, made_for: str | None, origin: str
) -> None:
    tables = {"data": {"name": data}, "run": {"device": device}, "arch": {"name": arch} if arch else {}}
    config = resolve(registry, [Layer(origin, tables)])
    assert (config.preset.name, config.preset.made_for) == (preset, made_for)
    assert config.run.iterations == registry.presets[preset]["run"]["iterations"]
    assert config.arch.name == (arch or registry.presets[preset]["arch"]["name"])


def test_without_a_device_the_machine_decides(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for available, preset in ((False, "mnist"), (True, "mnist-paper")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=available: there)
        for device in ({}, {"device": "auto"}):
            assert resolve(registry, [flags(data={"name": "mnist"}, run=device)]).preset.name == preset


def test_a_written_configuration_is_the_same_on_every_machine(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = resolve(registry, [flags(data={"name": "mnist"})])
    (tmp_path / "c.toml").write_text(written.to_toml(), encoding="utf-8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve(registry, [flags(data={"name": "mnist"})]) != written
    again = resolve(registry, [read_config(tmp_path / "c.toml")])
    assert (again, again.preset.line) == (written, "")


def test_a_named_preset_overrides_the_choice_and_brings_its_data_set(registry: Registry) -> None:
    assert resolve(registry, [], "mnist-paper").data.name == "mnist"
    assert resolve(registry, [flags(data={"name": "folder"})], "mnist-paper").data.name == "folder"
    config = resolve(registry, [flags(data={"name": "mnist"}, arch={"name": "biggan64"})], "fashion-mnist-paper")
    assert (config.preset.name, config.preset.line, config.run.latent_dim) == ("fashion-mnist-paper", "", 16)
    bare = resolve(registry, [flags(data={"name": "mnist"})], "none")
    assert (bare.preset.name, bare.preset.line, bare.arch.name) == (None, "", "biggan8")


# What a user is told


@pytest.mark.parametrize("name", ["mnist-paper", "omniglot-biggan32"])
def test_a_preset_in_place_of_a_data_set_is_an_error_that_names_its_flag(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, line = run(capsys, "--data", name, "--dry-run")
    assert status == 2
    assert f"unknown dataset {name!r}: it is a preset; nearest valid choice: --preset {name} (" in line


def test_a_choice_is_told_with_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen(capsys) == ""
    assert chosen(capsys, "--preset", "mnist") == ""
    line = chosen(capsys, "--prior", "gmm", "--arch", "biggan32", "--data", "omniglot")
    assert line == (
        "preset omniglot-biggan32: made for omniglot with biggan32 on a CPU "
        "(others: omniglot, omniglot-paper; choose one with --preset)"
    )


def test_a_run_tells_it_and_a_resumed_one_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8))
    tiny = ["--iterations=1", "--batch=4", "--arch.width=2", "--standing-passes=1", "--threads=1"]
    status, _, err = run(capsys, "--data", "x.npy", *tiny, "--metrics=occupancy", "--clusters=3", "--out", "run")
    assert status == 0
    assert (
        "preset arrays: made for arrays with biggan16 on a CPU (others: arrays-cuda; choose one with --preset)" in err
    )
    assert "preset" not in run(capsys, "--resume", "run", "--iterations=2")[2]


def test_another_architecture_is_told_with_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "mnist", "--batch", "4", "--data-root", "data", "--download"]
    costs = []
    for arch in ("biggan64", "biggan16"):
        out = run(capsys, *words, "--arch", arch, "--dry-run")[1]
        number, unit = re.findall(r"one iteration at batch 4: ([\d.]+) (.)FLOP", out)[0]
        costs.append(float(number) * {"M": 1, "G": 1000}[unit])
    line = chosen(capsys, *words, "--arch", "biggan64")
    said = re.fullmatch(
        r"no preset was made for mnist with biggan64 on a CPU: mnist \(made for biggan16\) is used \(others: "
        r"mnist-paper; choose one with --preset\); an iteration costs about (\d+) times as much as with biggan16",
        line,
    )
    assert said is not None, line
    assert abs(float(said[1]) - costs[0] / costs[1]) < 1


def test_a_cost_that_cannot_be_counted_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    # With J = 23, neither network can be built.
    words = ["--data", "cifar10", "--arch", "biggan64", "--latent-dim", "23"]
    assert chosen(capsys, *words).endswith("; an iteration may cost many times as much as with biggan16")


def test_a_data_set_without_any_preset_has_the_defaults_and_says_so(registry: Registry) -> None:
    presets = {name: preset for name, preset in registry.presets.items() if name != "digits"}
    config = resolve(Registry(registry.entries, presets, registry.defaults, ()), [])
    assert config.preset.line == "no preset was made for digits: the defaults are used; choose a preset with --preset"


# --compat


def test_the_papers_preset_replaces_that_of_the_data_set_and_nothing_else_is_added(
    registry: Registry, tmp_path: Path
) -> None:
    terms = {"balance_weight": 3.0, "consistency_weight": 2.0, "invariant_to": "shift"}
    (tmp_path / "c.toml").write_text(
        'preset = "mnist"\n[run]\nbalance_weight = 3.0\nconsistency_weight = 2.0\ninvariant_to = "shift"\n',
        encoding="utf-8",
    )
    mine = read_config(tmp_path / "c.toml")
    for name in ("paper", "reference"):
        compat = compat_layer(registry, name)
        config = resolve(registry, [mine, compat, flags(data={"name": "mnist"})])
        assert (config.preset.name, config.preset.line) == (
            "mnist-paper",
            f"preset mnist-paper: that of --compat {name}",
        )
        assert (config.run.balance_weight, config.run.consistency_weight, config.run.invariant_to) == (0, 0, "none")
        ours = {field.name for field in attrs.fields(TermWeights) if field.default == 0}
        assert ours >= {"balance", "density"}
        assert all(compat.tables["run"][f"{term}_weight"] == 0 for term in ours - {"balance_tolerance"})
        assert compat.tables["run"]["prior_fit"] == 0
        # A user's flags come last, and a preset that the user names comes before that of --compat.
        assert resolve(registry, [compat, flags(data={"name": "mnist"}, run=terms)]).run.balance_weight == 3
        config = resolve(registry, [compat, flags(data={"name": "mnist"})], "mnist")
        iterations = registry.presets["mnist"]["run"]["iterations"]
        assert (config.preset.name, config.run.iterations, config.run.balance_weight) == ("mnist", iterations, 0)


@pytest.mark.parametrize("data", ["digits", "folder", "arrays"])
def test_data_sets_without_the_papers_preset(registry: Registry, data: str) -> None:
    typed = flags(data={"name": data, **({} if data == "digits" else {"path": "x"})})
    with pytest.raises(InvalidInput) as caught:
        resolve(registry, [compat_layer(registry, "paper"), typed])
    assert str(caught.value) == (
        f"--compat paper: data set {data} has no preset {data}-paper: expected --data with one of mnist, "
        "fashion-mnist, omniglot, cifar10, cifar20 (nearest valid choice: --preset mnist-paper)"
    )
    for preset in ("mnist-paper", "digits"):
        assert resolve(registry, [compat_layer(registry, "paper"), typed], preset).run.balance_weight == 0
    config = resolve(registry, [compat_layer(registry, "reference"), typed])
    assert (config.preset.name, config.run.balance_weight) == (data, 0)
    assert config.preset.line.startswith(f"--compat reference: there is no preset {data}-paper; preset {data}")


def test_a_complete_configuration_takes_no_preset_from_compat_and_says_so(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = resolve(registry, [flags(data={"name": "mnist"})])
    (tmp_path / "c.toml").write_text(written.to_toml(), encoding="utf-8")
    config = resolve(registry, [read_config(tmp_path / "c.toml"), compat_layer(registry, "paper")])
    assert (config.run.iterations, config.run.balance_weight) == (written.run.iterations, 0)
    assert config.preset.line == "--compat paper: the configuration file is complete, so no preset adds to it"


def test_an_architecture_that_is_not_the_papers_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    line = chosen(capsys, "--data", "mnist", "--compat", "paper", "--arch", "biggan16")
    assert line.startswith(
        "preset mnist-paper: that of --compat paper, made for biggan32, not for biggan16; an iteration"
    )


# Presets of third parties


BIRDS = """
[presets.small]
source = "a guess"
for = { data = "digits", device = "cuda" }
arch = { name = "biggan8", width = 3 }
run = { clusters = 7 }

[presets.big]
source = "a guess"
for = { data = "digits" }
arch = { name = "biggan16" }
run = { clusters = 8 }
"""


def test_a_registry_file_says_what_its_presets_were_made_for(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(BIRDS, encoding="utf-8")
    registry = load_registry([], registries=[tmp_path / "mine.toml"])
    for device, arch, preset in (
        ("cpu", {}, "digits"),
        ("cuda", {}, "small"),
        ("cpu", {"name": "biggan16"}, "big"),
        ("cuda", {"name": "biggan16"}, "big"),
        ("cpu", {"name": "biggan8"}, "digits"),
        ("cpu", {"name": "biggan32"}, "digits"),
    ):
        assert resolve(registry, [flags(run={"device": device}, arch=arch)]).preset.name == preset


def test_a_preset_for_cuda_serves_a_cpu_only_if_there_is_no_other(registry: Registry) -> None:
    presets = {"only": {"for": {"data": "digits", "device": "cuda"}, "run": {"clusters": 4}}}
    config = resolve(Registry(registry.entries, presets, registry.defaults, ()), [flags(run={"device": "cpu"})])
    assert (config.run.clusters, config.preset.line) == (4, "no preset was made for digits on a CPU: only is used")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("for = 3", "expected a table for = { ... }, got 3"),
        ("for = {}", 'expected the name of a data set, as in for = { data = "NAME" }'),
        ('for = { device = "cpu" }', 'expected the name of a data set, as in for = { data = "NAME" }'),
        ('for = { dta = "digits" }', "did you mean 'data'?"),
        ("for = { data = 3 }", "for.data: expected the name of a data set, got 3"),
        ('for = { data = "" }', "for.data: expected the name of a data set, got ''"),
        ('for = { data = "digits", device = "gpu" }', "'gpu'"),
        ('for = { data = "digits", device = 3 }', "for.device: expected one of cpu, cuda, got 3"),
        ('for = { data = "digits", arch = "biggan8" }', "expected it in arch = { name"),
        (
            'for = { data = "digits" }\narch = { name = "biggan8" }',
            "presets 'digits' of registry.toml of mpcc and 'mine' of",
        ),
    ],
)
def test_a_malformed_purpose_is_one_line_with_the_preset_and_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, part: str
) -> None:
    (tmp_path / "mine.toml").write_text(f"[presets.mine]\n{text}\n", encoding="utf-8")
    status, out, err = run(capsys, "--registry", "mine.toml", "--dry-run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert part in err
    assert "mine" in err
    assert "mine.toml" in err


def test_a_preset_for_a_data_set_that_is_not_here_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text('[presets.mine]\nfor = { data = "omnigolt" }\n', encoding="utf-8")
    status, _, err = run(capsys, "--registry", "mine.toml", "--dry-run")
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith("warning: preset mine of ")
    assert "'omnigolt': did you mean 'omniglot'?" in err


def test_the_built_in_presets_have_the_form_that_is_asked_of_others(repository: Path) -> None:
    from mpcc.core.registry.registry_file import check_entry

    table = tomllib.loads((repository / "registry.toml").read_text(encoding="utf-8"))
    for name, preset in table["presets"].items():
        check_entry("registry.toml", "presets", name, preset)
        assert preset["source"]


# The documentation


def test_the_preset_on_the_page_of_hooks_is_taken_for_its_data_set(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "plugin-hooks.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "[presets." in block]
    birds = '[datasets.birds]\ntarget = "mpcc.plugins.datasets.digits:Digits"\nsummary = "Birds."\n'
    (tmp_path / "mine.toml").write_text("\n".join([birds, *blocks]), encoding="utf-8")
    registry = load_registry([], registries=[tmp_path / "mine.toml"])
    config = resolve(registry, [flags(data={"name": "birds"}, run={"device": "cpu"})])
    assert (config.preset.name, config.preset.line, config.arch.options.width) == ("birds-small", "", 8)


def test_the_table_on_the_page_of_data_is_what_is_taken(registry: Registry, repository: Path) -> None:
    page = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    section = re.search(r"## Which preset is taken\n(.*?)\n## ", page, re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| (`.*) \| (`.*) \|$", section[1], re.MULTILINE)
    for column, device in enumerate(("cpu", "cuda")):
        listed = {name for row in rows for name in re.findall(r"`([\w-]+)`", row[column])}
        taken = {
            resolve(registry, [flags(data={"name": data}, run={"device": device}, arch=arch)]).preset.name
            for data in registry.names("dataset")
            for arch in ({}, {"name": "biggan32"})
        }
        assert listed - {*registry.names("architecture")} == taken
