"""The commands: what they accept, print and import."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from mpcc.core.commands import entry
from mpcc.core.config import RunSettings, flag, resolve
from mpcc.core.config.options import fields
from mpcc.core.registry import load_registry

# Frozen: a flag that is renamed or lost breaks people's scripts. New ones are added here on purpose.
FLAGS = {
    *(
        "--prior",
        "--arch",
        "--data",
        "--objective",
        "--prior-fit",
        "--prior-fit-groups",
        "--prior-refit",
        "--density-weight",
        "--clusters",
        "--latent-dim",
        "--iterations",
        "--batch",
        "--lr",
        "--lr-decay",
    ),
    *("--generator-lr-factor", "--label-draws", "--init-from", "--batch-norm", "--devices"),
    *("--prior-lr", "--d-steps", "--e-steps", "--ema-decay", "--ema-start", "--latent-weight", "--membership-weight"),
    *(
        "--entropy-weight",
        "--entropy",
        "--entropy-samples",
        "--standing-passes",
        "--metrics",
        "--eval-every",
        "--eval-images",
        "--picture-clusters",
        "--checkpoint-every",
    ),
    *("--balance-weight", "--balance-direction", "--balance-tolerance", "--consistency-weight", "--invariant-to"),
    *("--seeds", "--all", "--part"),
    *("--real-terms-rise", "--minutes", "--first-eval", "--generator-latent-weight", "--generator-membership-weight"),
    *("--keep-checkpoints", "--best-by", "--on-nonfinite", "--max-restarts"),
    *(
        "--log-every",
        "--features",
        "--feature-weights",
        "--generated-images",
        "--augment-crop",
        "--augment-flip",
        "--workers",
        "--threads",
        "--engine",
        "--kernels",
        "--graph-reductions",
        "--precision",
        "--resume",
        "--device",
        "--seed",
        "--out",
        "--data-root",
        "--download",
        "--config",
        "--preset",
        "--compat",
    ),
    *(
        "--plugin",
        "--registry",
        "--dry-run",
        "--traceback",
        "--version",
        "--help",
        "--prior.scale-floor",
        "--prior.initial-raw-scale",
    ),
    *(
        "--prior.locations",
        "--prior.location-scale",
        "--prior.weights",
        "--prior.input-map",
        "--prior.variances",
        "--arch.width",
    ),
    *("--arch.conditioning", "--arch.upsampling", "--arch.shared-blocks", "--arch.encoder-blocks"),
    *("--arch.projection", "--arch.power-iterations", "--arch.edges"),
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run mpcc-run in this process; return status, output, errors."""
    with pytest.raises(SystemExit) as caught:
        entry.run_main(list(arguments))
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without a data root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPCC_DATA", raising=False)


def test_help_names_every_flag_and_every_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "--help")
    assert (status, err) == (0, "")
    words = set(out.replace("│", " ").split())
    assert {word for word in words if word.startswith("--") and word.strip("-")} == FLAGS
    for name in ("gmm", "biggan8", "biggan16", "biggan32", "digits", "mnist", "omniglot", "folder", "acc", "nmi"):
        assert name in words


def test_every_setting_has_its_flag() -> None:
    assert {flag("run", name) for name in fields(RunSettings)} <= FLAGS


def test_help_shows_a_default_of_zero(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--help")
    assert "random seed [default: 0]" in " ".join(out.split())


def test_help_shows_the_options_of_the_chosen_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--help", "--data", "omniglot")
    assert "--data.classes" in out
    assert "Options of --arch biggan16" in out


@pytest.mark.parametrize(
    "command",
    [
        "entry.run_main(['--help'])",
        "entry.run_main(['--help', '--data', 'mnist'])",
        "entry.run_main(['--iterations', 'x'])",
        "entry.main(['plugins', '--json'])",
    ],
)
def test_help_listing_and_checks_of_flags_never_import_torch(command: str) -> None:
    heavy = "torch", "torchvision", "numpy", "sklearn", "scipy", "pyro", "tensorboard", "PIL"
    code = (
        "import sys\nfrom mpcc.core.commands import entry\n"
        f"try: {command}\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[:2] == (0, "mpcc 0.1.0\n")
    with pytest.raises(SystemExit):
        entry.main(["--version"])
    assert capsys.readouterr().out == "mpcc 0.1.0\n"


def test_the_defaults_are_gmm_biggan8_digits(capsys: pytest.CaptureFixture[str]) -> None:
    tables = tomllib.loads(run(capsys, "--dry-run")[1])
    assert (tables["prior"]["name"], tables["arch"]["name"], tables["data"]["name"]) == ("gmm", "biggan8", "digits")


def test_flags_come_in_any_order_and_with_or_without_an_equals_sign(capsys: pytest.CaptureFixture[str]) -> None:
    expected = run(capsys, "--data", "omniglot", "--data.classes", "7", "--prior.scale-floor", "0.3", "--dry-run")
    assert tomllib.loads(expected[1])["data"]["classes"] == 7
    assert tomllib.loads(expected[1])["prior"]["scale_floor"] == 0.3
    assert run(capsys, "--dry-run", "--prior.scale-floor=0.3", "--data.classes=7", "--data=omniglot") == expected


def test_a_negative_number_is_a_value_and_a_truth_needs_none(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--prior", "student_t", "--prior.initial-raw-scale", "-1e-1", "--prior.learn-df", "--augment-flip"]
    tables = tomllib.loads(run(capsys, *flags, "--dry-run")[1])
    assert tables["prior"]["initial_raw_scale"] == -0.1
    assert (tables["prior"]["learn_df"], tables["run"]["augment_flip"]) == (True, True)
    flags = ["--prior=student_t", "--prior.learn-df=no", "--augment-flip=false"]
    tables = tomllib.loads(run(capsys, *flags, "--dry-run")[1])
    assert (tables["prior"]["learn_df"], tables["run"]["augment_flip"]) == (False, False)
    assert "unexpected 'true'" in run(capsys, "--augment-flip", "true")[2]


def test_a_flag_without_its_value_takes_none_from_further_on(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "--prior.scale-floor", "--batch", "5", "0.3")
    assert (status, err.count("\n")) == (2, 1)
    assert "unexpected '0.3'" in err
    assert "--prior.scale-floor: expected a finite number, got nothing" in run(capsys, "--prior.scale-floor")[2]


def test_a_dry_run_with_several_processes_refuses_what_they_would_and_says_what_it_measures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpcc.core.run.ranks.launcher.load_before", lambda: (0.0, 2))
    status, _, err = run(capsys, "--devices", "2", "--device", "cpu", "--batch", "51", "--dry-run")
    assert status == 2
    assert "--batch 51 cannot be divided among 2 processes" in err
    out = run(capsys, "--devices", "2", "--device", "cpu", "--dry-run")[1]
    assert "# the speed was measured in one process: --devices 2 may be faster or slower" in out.splitlines()


def test_a_dry_run_prints_origins_writes_nothing_and_can_be_run_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = run(capsys, "--dry-run", "--lr", "0.001", "--out", "somewhere")
    assert (status, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    lines = {line.split(" = ")[0]: line.partition("#")[2].strip() for line in out.splitlines() if "#" in line}
    assert lines["lr"] == "flag"
    assert lines["latent_dim"] == "preset digits"
    assert lines["standing_passes"] == "default"
    assert re.fullmatch(
        r"# about .+ of training on this machine: 1,200 iterations at [0-9.e-]+ s; 3 evaluations besides",
        out.splitlines()[-1],
    )
    (tmp_path / "dry.toml").write_text(out, encoding="utf-8")
    again = run(capsys, "--dry-run", "--config", "dry.toml")[1]
    assert tomllib.loads(again) == tomllib.loads(out)


def test_the_data_root_comes_from_the_environment_below_file_and_flag(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPCC_DATA", "env")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    out = run(capsys, "--dry-run")[1]
    assert tomllib.loads(out)["run"]["data_root"] == str(tmp_path / "env")
    assert "# $MPCC_DATA" in out
    (tmp_path / "c.toml").write_text("[run]\ndata_root = 'file'\n", encoding="utf-8")
    out = run(capsys, "--dry-run", "--config", "c.toml")[1]
    assert tomllib.loads(out)["run"]["data_root"] == str(tmp_path / "file")
    out = run(capsys, "--dry-run", "--config", "c.toml", "--data-root=~/flag")[1]
    assert tomllib.loads(out)["run"]["data_root"] == str(tmp_path / "home" / "flag")


def test_the_listing_of_plugins_names_all_built_ins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main(["plugins"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for name in ("gmm", "biggan8", "digits", "acc", "built-in", "0.1.0", "summary", "version"):
        assert name in out


@pytest.mark.parametrize("arguments", [["plugns"], ["plugins", "--jsn"], ["plugins", "x"]])
def test_a_mistyped_command_of_mpcc_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("mpcc: error: ")


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import os, sys\nfrom mpcc.core.commands import entry\nread, write = os.pipe()\n"
        "os.close(read)\nos.dup2(write, 1)\nentry.run_main(['--dry-run'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_default_names_of_runs_started_in_the_same_second_differ() -> None:
    from mpcc.core.storage.run_folder import RunFolder

    config = resolve(load_registry([]), [])
    planned = [RunFolder.plan(None, config) for _ in range(3)]
    for folder in planned:
        folder.path = Path("runs/same")
        folder.create()
    assert {folder.path.name for folder in planned} == {"same", "same-2", "same-3"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--metrics", "acc,foo"], "foo"),
        (["--entropy", "monte-carlo"], "--entropy-samples"),
        (["--augment-crop", "9"], "--augment-crop 7"),
        (["--batch", "5000"], "at most its 1797 images"),
        (["--clusters", "2000"], "more than the 1797 images"),
        (["--best-by", "acc"], "--best-by"),
        (["--device", "cuda"], "--device cpu"),
        (["--features", "no_such_module:f", "--metrics", "fid"], "no_such_module"),
        (["--out", "here"], "already exists"),
        (["--out", "file/x"], "is not a directory"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(
    capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    if arguments == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("the device is there")
    Path("here").mkdir()
    Path("file").touch()
    for words in (["--dry-run", *arguments], [*arguments, "--iterations", "1"]):
        status, _, err = run(capsys, *words)
        assert status == 2
        assert part in err
        assert err.count("\n") == 1


def test_a_dry_run_without_data_shows_the_configuration_and_fails_as_the_run_would(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = run(capsys, "--data", "folder", "--dry-run")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("mpcc-run: error: data set folder needs a data folder")
    assert tomllib.loads(out)["data"]["name"] == "folder"
    assert out.splitlines()[-1].startswith("# networks not described: data set folder needs a data folder")
    # The channels of this set are known without its files.
    status, out, err = run(capsys, "--data", "mnist", "--dry-run")
    assert (status, err.count("\n")) == (2, 1)
    assert "# encoder" in out


def test_a_dry_run_does_not_fail_for_files_that_the_run_would_fetch(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = run(capsys, "--data", "mnist", "--data-root", "data", "--download", "--dry-run")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("# to be fetched by the run: missing file ")
    assert list(tmp_path.iterdir()) == []
    status, _, err = run(capsys, "--data", "mnist", "--data-root", "data", "--download", "--dry-run", "--batch", "0")
    assert status == 2


def test_the_home_folder_is_meant_by_a_tilde_that_the_shell_leaves_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.toml").write_text("[run]\nclusters = 3\n")
    status, out, _ = run(capsys, "--config=~/c.toml", "--dry-run")
    assert (status, "clusters = 3" in out) == (0, True)
    status, _, err = run(capsys, "--config=~nobody-of-this-name/c.toml", "--dry-run")
    assert status == 2
    assert err.startswith("mpcc-run: error: --config ~nobody-of-this-name/c.toml: ")


@pytest.mark.parametrize(
    ("flag", "hint"), [("--data-path", "did you mean '--data.path'"), ("--prior.name", "unknown option '--prior.name'")]
)
def test_a_dot_that_is_missing_or_too_much_is_explained(
    capsys: pytest.CaptureFixture[str], flag: str, hint: str
) -> None:
    status, _, err = run(capsys, flag, "x")
    assert (status, hint in err) == (2, True)
