"""The contract kit on plugins that are wrong, each in one way, on right ones that are unusual, and on attacks.

The plugins are in the files of ``tests/kit``, which are loaded as a user's own files are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Distribution

from mpcc.core.commands import entry
from mpcc.core.mixture_options import MixtureOptions
from mpcc.core.registry import Registry, load_registry
from mpcc.core.testing import Report, examine

FILES = [
    Path(__file__).parent / "kit" / f"{name}.py"
    for name in ("wrong_priors", "wrong_architectures", "wrong_datasets", "wrong_metrics", "right_plugins", "attacks")
]

# What is wrong, by a part of the message; a plugin that is not in these lists has a test of its own.
WRONG_PRIORS = {
    "CappedEntropy": "entropies() 8.8",
    "Tilted": "the product of dimensions 0 and 2, each through tanh, is 0.1",
    "Pairs": "sample(1000): rows 276 and 277 are equal, 500 of 1000 rows differ",
    "OneNoise": "dimensions 0 and 1 rise and fall together in all rows",
    "SeedsNumPy": "building seeds NumPy's global random state",
    "SetsDefault": "building sets torch's default dtype to torch.float64",
    "StartsDouble": "prior.loc starts as torch.float64: expected torch.float32",
    "DetachedLogarithm": "the gradient of weights() in logits, compared with that of exp(log_weights()), is off by",
    "EveryOther": "components 0 and 2 have the same density: does component(y) use y?",
    "SquashedHead": "at raw_scale = -8, log q has a gradient of 0 in raw_scale[0]",
    "CentredEncoder": "encoder_distribution(loc, raw_scale): row 0 alone and in a batch of 5 differ by",
    "FoldedAxis": "dimension 2 of 0..2: it is not strictly monotone",
    "Stranded": "aten.mul meets a tensor of shape (2,) that has stayed on the host",
    "Annealed": "after 1000 calls with the same parameters: z differs in 40 of 40 numbers",
    "LateEntropy": "J = 3, cluster 5: entropies() 7.2",
    "OnlyWithAsinh": "input_map = asinh: the input map is strictly monotone",
    "MultipliedDensity": "K=100, J=256, at the start: 400 of 400 numbers in log_density are not finite",
    "WideSixth": "it diverges: K = 7, moved parameters, component 5",
    "Cached": "after other parameters were loaded, compared with a prior that nobody has called before: z differs",
    "SingleInside": "float64 log_density as a function of z does not change when that is multiplied by 1 + 1e-11",
    "SwappedHeads": "the median of q(z|x) is -6.43: are the two heads swapped?",
    "LateParameter": "prior.gain is made in a call: make it in the constructor",
    "ListedWeights": "weights(): expected a Tensor, got list",
    "HiddenParameters": "prior.extra is a plain list that holds a Parameter",
    "OpenEnd": "rand gave 0 and rand gave 0, and z is inf",
    "StuckLabels": "weights = trainable: the label ratio is 1 and has the gradient of log phi",
    "HalfEntropyGradient": "entropies in raw_scale: Jacobian mismatch",
}
WRONG_ARCHITECTURES = {
    "PositiveImages": "images: all values lie in 0..1, whatever the parameters: expected both signs",
    "PositiveLocation": "loc: all values lie in",
    "LastDropped": "the generated images have no gradient in z, at 1 of 8 dimensions, such as 7",
    "HalfTheLabels": "K=7: for one z, the images of clusters 4 and 5 differ by at most 0",
    "Cropped": "the scores have no gradient in the images, at 6 of 36 pixels, such as (0, 0, 5)",
    "HostConstant": "aten.mul meets a tensor of shape (6, 6) that has stayed on the host",
    "SeedsAfterwards": "building seeds torch's global random state",
    "ByPlace": "training mode, in reverse order: an image differs by",
    "BatchStatistics": "encoder: an image alone and in a batch of 4 differ",
    "HiddenLayers": "generator.blocks is a plain list that holds a Linear",
    "LateLayer": "discriminator.late.bias, late.weight is made in a call",
    "Drifting": "generator after a call in evaluation mode: mean differs in 8 of 8 numbers",
}
WRONG_DATASETS = {
    "Wrapped": "all pixels are one of 0, 1, 2, 254, 255: expected shades between 0 and 255",
    "OneLabel": "all 60 labels are 3, but there are 5 class names",
    "Repeated": "3 of 60 images are different: is one image read again and again?",
    "Reversed": "100% of the images at 12 pixels look like others at 8 pixels, such as image 0 like image 59",
    "Littering": "labels.txt: a data set may write into the data folder only",
    "Buffered": "the source gives the same buffer again",
    "Unrepeatable": "an index that is asked for twice in one batch gives other images",
    "Scaled": "grey levels span 0..1 only",
}
WRONG_METRICS = {
    "Sampling": "for the same 3000 images: draw no images at random",
    "Recording": "record['sizes']['clusters'][0] is a ndarray",
    "TakesAName": "'purity' is the name of another metric",
    "OrderedClasses": "classes renamed",
    "Sorting": "it changes labels of its input in place",
    "WrongSecond": "its_error: perfect 0, random 0.6333, but it declares that higher is better",
    "Written": "a typical clustering: expected a float, got str",
    "FirstHalf": "shuffled",
}
WRONG = {
    "prior": WRONG_PRIORS,
    "architecture": WRONG_ARCHITECTURES,
    "dataset": WRONG_DATASETS,
    "metric": WRONG_METRICS,
}
WARNED = {
    ("architecture", "Probabilities"): "a discriminator gives logits, without a sigmoid at its end",
    ("dataset", "EmptyClass"): "2 of 7 classes have no image, such as f, g",
    ("prior", "LearnedTails"): "on CUDA the host would wait",
}
RIGHT = {
    "prior": ["LearnedGain", "Correlated", "ClampedFarOut"],
    "architecture": ["SpectralNorms", "Dropping", "Attending", "NoisyImages", "NarrowStart", "BatchNormed"],
    "dataset": ["BlackAndWhite", "PartlyLabelled", "OnDemand"],
    "metric": ["Counted", "Single", "Several"],
}


@pytest.fixture(scope="module")
def registry() -> Registry:
    """The built-in plugins and those of ``tests/kit``."""
    return load_registry(plugins=FILES)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin may write into the current folder."""
    monkeypatch.chdir(tmp_path)


def report_of(registry: Registry, kind: str, name: str, options: Any = None) -> Report:
    """The report on a plugin; with options, without their other choices."""
    (Path.cwd() / "data").mkdir(exist_ok=True)
    return examine(kind, name, registry, options=options, root=Path("data") if kind == "dataset" else None)


@pytest.mark.parametrize(
    ("kind", "name", "words"), [(kind, name, words) for kind, each in WRONG.items() for name, words in each.items()]
)
def test_a_wrong_plugin_is_refused_with_what_is_wrong(registry: Registry, kind: str, name: str, words: str) -> None:
    failures = report_of(registry, kind, name).failures
    assert any(words in failure.detail for failure in failures), [failure.line() for failure in failures]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in RIGHT.items() for name in names])
def test_a_right_plugin_passes_though_it_is_unusual(registry: Registry, kind: str, name: str) -> None:
    report = report_of(registry, kind, name, MixtureOptions() if kind == "prior" else None)
    assert report.passed, [failure.line() for failure in report.failures]
    assert not report.warnings


@pytest.mark.parametrize(("plugin", "words"), WARNED.items())
def test_what_is_not_wrong_for_sure_is_a_warning(registry: Registry, plugin: tuple[str, str], words: str) -> None:
    report = report_of(registry, *plugin, options=MixtureOptions() if plugin[0] == "prior" else None)
    assert report.passed
    (warning,) = report.warnings
    assert words in warning.detail
    assert warning.line().startswith("warning ")
    assert report.summary().endswith(" laws hold, 1 warning")


def test_a_prior_may_refuse_a_size_and_each_choice_of_its_options_is_checked(registry: Registry) -> None:
    report = report_of(registry, "prior", "EvenOnly")
    assert report.findings[-1].detail == "4 choices of locations, weights, input_map"
    unknown = [finding for finding in report.findings if finding.word == "unknown"]
    assert report.passed
    assert "it refuses K=1, J=1: expected an even latent_dim, got 1" in report.lines()[3]
    assert all(finding.detail.startswith("not checked: it refuses K=") for finding in unknown)
    assert 0 < len(unknown) < len(report.findings) / 2
    assert report.summary().endswith(f"laws hold, {len(unknown)} unknown")


def test_the_direction_of_a_score_without_labels_is_told_as_unknown() -> None:
    report = examine("metric", "silhouette", load_registry())
    (unknown,) = (finding for finding in report.findings if finding.word == "unknown")
    assert "nobody has checked that higher is better" in unknown.detail


# Attacks


@pytest.mark.parametrize(
    ("name", "words"), [("Unsaid", "raised UnsaidError at "), ("Cancelled", "raised CancelledError: over at ")]
)
def test_an_exception_of_any_kind_is_one_line(registry: Registry, name: str, words: str) -> None:
    (failure,) = report_of(registry, "prior", name).failures
    assert failure.detail.startswith(words)
    assert "\n" not in failure.line()


def test_a_law_that_does_not_end_is_named_with_the_line_and_ends_the_check(registry: Registry) -> None:
    told: list[str] = []
    report = examine("prior", "Endless", registry, seconds=3, tell=lambda finding: told.append(finding.line()))
    (failure,) = report.failures
    assert failure.detail.startswith("did not end within 3 s at ")
    assert "attacks.py:" in failure.detail
    assert failure.detail.endswith("nothing else was checked, for the others may not end either")
    # The laws before it were told when they ended.
    assert told == report.lines()[1:]
    assert len(told) > 10


def test_escape_codes_are_shown_and_long_messages_cut(registry: Registry) -> None:
    (failure,) = report_of(registry, "prior", "Coloured").failures
    assert failure.detail.startswith(r"raised ValueError: \x1b[2J\x1b[31mred\x07aaa")
    assert " ... " in failure.detail
    assert failure.line().isprintable()
    assert len(failure.line()) < 1000


def test_settings_of_the_process_are_put_back_and_prints_are_no_part_of_the_report(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not report_of(registry, "prior", "Leaking").passed
    assert torch.get_default_dtype() == torch.float32
    assert Distribution._validate_args is True
    assert capsys.readouterr().out == ""


def test_the_command_prints_each_law_when_it_ends_and_then_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    files = [word for file in FILES for word in ("--plugin", str(file))]
    with pytest.raises(SystemExit) as caught:
        entry.main(["plugins", "check", "Written", *files])
    assert caught.value.code == 1
    first, *laws, summary = capsys.readouterr().out.splitlines()
    assert first.startswith("metric 'Written' of local file ")
    assert {law.split()[0] for law in laws} <= {"ok", "FAILED", "unknown"}
    assert summary == f"metric Written: 1 of {len(laws)} laws broken, 6 unknown"
