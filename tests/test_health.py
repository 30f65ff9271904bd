"""Breakdowns stop a run at the update where they happen; known failures are named; sound runs are left in peace."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.optim import Adam

from mpcc.core.commands import entry
from mpcc.core.config import Layer, RunSettings, resolve
from mpcc.core.method.finite_guard import FiniteGuard
from mpcc.core.method.losses import Loss
from mpcc.core.method.phases import MPCC, Phase
from mpcc.core.method.shapes import ROWS
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry
from mpcc.core.reporting.cures import CURES
from mpcc.core.reporting.symptoms import symptoms
from mpcc.core.reporting.verdict import caution, verdict
from mpcc.core.reporting.vitals import Vitals
from mpcc.core.storage.checkpoint import load_checkpoint
from mpcc.plugins.objectives.mpcc import MatchingPriorsAndConditionals
from mpcc.plugins.priors.gmm import GaussianMixture

TINY = {
    **{"arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 2, "e-steps": 2, "standing-passes": 1, "threads": 1},
    **{"iterations": 8, "eval-every": 8, "eval-images": 60, "checkpoint-every": 2, "metrics": "occupancy"},
}
SOUND = Vitals(
    sizes=(40, 60, 50),
    diversity=(0.5, 0.2, 0.3),
    saturation=0.02,
    posterior_entropy=0.3,
    agreement=0.95,
    hinge=0.8,
    spectral_norms={"generator": (1.5, "entry.weight"), "discriminator": (2.0, "score.weight")},
)


def run(*arguments: str | Path, **flags: Any) -> int:
    given = [f"--{name}={value}" for name, value in flags.items()]
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*map(str, arguments), *given])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def tiny(folder: Path, *arguments: str, **flags: Any) -> int:
    return run("--out", folder, *arguments, **{**TINY, **flags})


def health(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))["health"]
    return found


def newest(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "checkpoints" / "last.pt")


Breaker = Callable[..., None]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    """Spoil the loss of a network, or its gradients alone, in certain updates of it."""

    def arrange(network: str, *calls: int, gradient_only: bool = False) -> None:
        count = [0]

        def spoilt(right: Callable[..., Loss]) -> Callable[..., Loss]:
            def wrong(*arguments: Any) -> Loss:
                loss = right(*arguments)
                count[0] += 1
                if count[0] not in calls:
                    return loss
                # A square root has no slope at 0: its gradient is not finite where its value is.
                steep = loss.total + (0 * loss.total).abs().sqrt()
                return attrs.evolve(loss, total=steep if gradient_only else loss.total * math.nan)

            return wrong

        rows = [
            attrs.evolve(row, loss=spoilt(row.loss)) if isinstance(row, Phase) and network in row.advances else row
            for row in MPCC
        ]
        monkeypatch.setattr(MatchingPriorsAndConditionals, "phases", lambda _: tuple(rows))

    return arrange


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize(
    ("network", "call", "update", "phase"),
    [
        ("discriminator", 10, 2, "discriminator"),
        ("generator", 5, 3, "generator and prior"),
        ("encoder", 9, 4, "encoder and prior"),
    ],
)
def test_a_breakdown_names_the_update_and_leaves_the_parameters_before_it(
    tmp_path: Path,
    broken: Breaker,
    capsys: pytest.CaptureFixture[str],
    engine: str,
    network: str,
    call: int,
    update: int,
    phase: str,
) -> None:
    broken(network, call)
    # The log and the evaluations are rare: what is found is found in the iteration itself.
    assert tiny(tmp_path / "run", engine=engine, **{"log-every": 100}) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"the loss and the gradient of the {network}" in last
    assert f"are not finite in the {phase} step (update {update} of iteration 5): training has diverged" in last
    assert f"the last checkpoint is kept: {tmp_path / 'run' / 'checkpoints' / 'last.pt'} (iteration 4)" in last
    assert newest(tmp_path / "run")["iteration"] == 4


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_found(
    tmp_path: Path, broken: Breaker, capsys: pytest.CaptureFixture[str]
) -> None:
    broken("generator", 3, gradient_only=True)
    assert tiny(tmp_path / "run") == 3
    expected = (
        "the gradient of the generator and the gradient of the prior are not finite in the generator and prior step"
    )
    assert expected in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[GaussianMixture, Tensor], None]], None]:
    """Change the prior, or its sample, in a certain call of its sampler."""

    def arrange(call: int, change: Callable[[GaussianMixture, Tensor], None]) -> None:
        right, count = GaussianMixture.sample, [0]

        def wrong(self: GaussianMixture, number: int) -> tuple[Tensor, Tensor]:
            # Shapes are checked before training, on fewer samples than a batch.
            if number == ROWS:
                return right(self, number)
            count[0] += 1
            if count[0] == call:
                change(self, torch.empty(0))
            z, y = right(self, number)
            if count[0] == call:
                # Samples may share memory with what autograd keeps.
                z = z.clone()
                change(self, z.data)
            return z, y

        monkeypatch.setattr(GaussianMixture, "sample", wrong)

    return arrange


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("call", [11, 13, 14])
def test_samples_that_are_not_finite_are_blamed_on_the_sampler_and_not_on_the_step_sizes(
    tmp_path: Path, sampling: Any, capsys: pytest.CaptureFixture[str], engine: str, call: int
) -> None:
    # Calls 11 to 15 are those of iteration 3: discriminator, discriminator, generator, encoder with prior, encoder.
    sampling(call, lambda _, z: z[:1].fill_(-math.inf))
    assert tiny(tmp_path / "run", engine=engine) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    steps = {
        11: "discriminator step (update 1",
        13: "generator and prior step (",
        14: "encoder and prior step (",
    }
    assert f"a sample of z that the prior drew is not finite in the {steps[call]}" in last
    assert "of iteration 3), though all parameters are sound: the sampler of the prior gmm is at fault" in last
    assert "not the step sizes (mpcc plugins check gmm tests it); --on-nonfinite restart-from-last goes on" in last
    assert "--lr" not in last
    assert newest(tmp_path / "run")["iteration"] == 2


def test_samples_that_are_not_finite_because_the_prior_has_diverged_are_blamed_on_its_step_size(
    tmp_path: Path, sampling: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sampling(13, lambda prior, z: prior.raw_scale.data.fill_(1e4))
    assert tiny(tmp_path / "run") == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Normal.scale: expected finite values, GreaterThan(lower_bound=0.0), got inf at iteration 3" in last
    assert "lower --prior-lr, or raise the floor of the scales" in last


@pytest.mark.check
def test_a_run_that_draws_a_uniform_number_of_0_goes_on(tmp_path: Path) -> None:
    # In torch 2.15, the noise of iteration 60 contains a 0, whose logistic sample would be -inf.
    assert run("--prior=logistic", "--seed=12", "--iterations=61", "--threads=1", "--out", tmp_path / "run") == 0


def test_a_run_goes_on_after_a_sample_that_is_not_finite_if_that_is_wanted(tmp_path: Path, sampling: Any) -> None:
    sampling(13, lambda _, z: z[:1].fill_(math.nan))
    assert tiny(tmp_path / "run", "--on-nonfinite=restart-from-last") == 0
    (restart,) = health(tmp_path / "run")["restarts"]
    assert restart["reason"].startswith("a sample of z that the prior drew is not finite")


def test_updates_are_left_out_from_the_first_that_is_not_finite() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = Adam([weight], lr=0.1, betas=(0.0, 0.999), fused=True)
    guard = FiniteGuard([optimizer], torch.device("cpu"))
    before = []
    for iteration, gradient in enumerate([1.0, 2.0, math.inf, 1.0, math.nan]):
        guard.begin()
        weight.grad = torch.full((3,), gradient)
        guard.watch("first", torch.tensor(0.0), {"one": [torch.ones(1)]})
        guard.watch("second", torch.tensor(0.0), {"weights": [weight.grad]})
        optimizer.step()
        before.append(weight.detach().clone())
        assert (guard.breakdown() is None) == (iteration < 2)
    assert not torch.equal(before[0], before[1])
    assert all(torch.equal(each, before[1]) for each in before[2:])
    found = guard.breakdown()
    assert found is not None
    assert (found.iteration, found.update, found.phase, found.loss, found.gradients) == (
        *(3, 1, "second", False),
        ("weights",),
    )
    assert guard.norms["one"] == 1
    guard.reset(7)
    assert guard.breakdown() is None
    guard.begin()
    guard.watch("first", torch.tensor(math.nan), {"one": [torch.ones(1)]})
    again = guard.breakdown()
    assert again is not None
    assert (again.iteration, again.loss, again.gradients, again.latents) == (8, True, (), False)
    bad = torch.tensor(math.inf)
    for latents in (torch.ones(2), torch.tensor([1.0, -math.inf]), torch.tensor([math.nan, 1.0])):
        guard.reset(0)
        guard.begin()
        guard.watch("only", bad, {"one": [torch.ones(1)], "other": [torch.full((2,), math.nan)]}, latents)
        found = guard.breakdown()
        assert found is not None
        assert (found.loss, found.gradients, found.latents) == (True, ("other",), not bool(latents.isfinite().all()))


def test_a_run_restarts_from_its_last_checkpoint_if_that_is_wanted(
    tmp_path: Path, broken: Breaker, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    broken("encoder", 11)
    flags = {"eval-every": 1, "log-every": 1}
    assert tiny(folder, "--on-nonfinite", "restart-from-last", **flags) == 0
    err = capsys.readouterr().err
    assert re.search(
        r"warning: the loss and .* not finite .*; restart 1 from iteration 4 with other random numbers", err
    )
    (restart,) = health(folder)["restarts"]
    assert (restart["iteration"], restart["from"]) == (6, 4)
    assert newest(folder)["restarts"] == [restart]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["iteration"] for line in metrics] == list(range(1, 9))
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("terms/latent")] == list(range(1, 9))


def test_a_restart_is_as_reproducible_as_the_run(tmp_path: Path, broken: Breaker) -> None:
    for name in ("one", "other"):
        broken("encoder", 11)
        assert tiny(tmp_path / name, "--on-nonfinite=restart-from-last") == 0
    weights = [newest(tmp_path / name)["parts"]["encoder"] for name in ("one", "other")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert tiny(tmp_path / "unbroken") == 0
    sound = newest(tmp_path / "unbroken")["parts"]["encoder"]
    assert any(not torch.equal(weights[0][name], sound[name]) for name in sound)


@pytest.mark.parametrize(
    ("calls", "restarts", "part"),
    [
        ((11, 15, 19), 2, r"no restart is left \(--max-restarts 2\); the last checkpoint is kept: .* \(iteration 4\)"),
        ((1,), 3, "there is no checkpoint yet to restart from"),
        ((11,), 0, r"no restart is left \(--max-restarts 0\)"),
    ],
)
def test_restarts_are_bounded(
    tmp_path: Path,
    broken: Breaker,
    capsys: pytest.CaptureFixture[str],
    calls: tuple[int, ...],
    restarts: int,
    part: str,
) -> None:
    broken("encoder", *calls)
    flags = {"on-nonfinite": "restart-from-last", "max-restarts": restarts}
    assert tiny(tmp_path / "run", **flags) == 3
    assert re.search(part, capsys.readouterr().err.splitlines()[-1])


# What goes wrong in a system that is not the paper's, and the terms and the trained parts of the other systems.
WRONG: list[dict[str, Any]] = [
    {"sizes": (0, 0, 150)},
    {"diversity": (0.5, 0.001, 0.3)},
    {"saturation": 0.4},
    {"posterior_entropy": 0.97},
    {"agreement": 0.34},
    {"spectral_norms": {"encoder": (1e4, "loc.0.weight")}},
]
OTHERS = {
    "aim": (("data_discriminator", "data_generator", "latent"), ("discriminator", "generator", "encoder")),
    "vade": (("reconstruction", "latent_divergence", "label_divergence"), ("generator", "encoder", "prior")),
    "vae": (("reconstruction", "latent_divergence"), ("generator", "encoder")),
}


@pytest.mark.parametrize("objective", OTHERS)
@pytest.mark.parametrize("size", [1.0, 1e5, 1e-8])
def test_the_cures_of_another_objective_can_be_typed_with_it(objective: str, size: float) -> None:
    registry, (terms, parts) = load_registry([]), OTHERS[objective]
    config = resolve(registry, [Layer("flag", {"objective": {"name": objective}})])
    norms = dict.fromkeys(parts, size)
    for change in WRONG:
        if config.run.clusters == 1 and change.keys() & {"sizes", "posterior_entropy"}:
            continue  # the only cluster has all images, for sure
        measured = attrs.evolve(
            SOUND,
            hinge=None,
            terms=frozenset(terms),
            gradient_norms=norms,
            prior_is_fixed="prior" not in parts,
            **change,
        )
        for symptom in symptoms(measured, config.run):
            flags = dict(re.findall(r"--([a-z][a-z-]+) ([0-9.e-]+)", symptom.message))
            assert flags, symptom.message
            typed = {name.replace("-", "_"): value for name, value in flags.items()}
            assert not ("d_steps" in typed and "data_discriminator" not in terms)
            assert not ("prior_lr" in typed and "prior" not in parts)
            if "clusters" not in typed:
                resolve(registry, [Layer("flag", {"objective": {"name": objective}, "run": typed})])


def test_clusters_that_a_bound_has_lost_name_the_autoencoder_before_it() -> None:
    vade = attrs.evolve(SOUND, hinge=None, terms=frozenset(OTHERS["vade"][0]))
    config = resolve(load_registry([]), [Layer("flag", {"objective": {"name": "vade"}, "run": {"prior_fit": 0.0}})])
    few = attrs.evolve(vade, sizes=(1, *[0] * 8, 149), diversity=(0.5,) * 10)
    alike = attrs.evolve(vade, sizes=(*[1] * 9, 141), diversity=(0.5,) * 10)
    for measured, name in ((few, "empty_clusters"), (few, "collapsed_assignments"), (alike, "collapsed_assignments")):
        message = {symptom.name: symptom.message for symptom in symptoms(measured, config.run)}[name]
        assert "--prior-fit 0.2 (an autoencoder is trained before it)" in message
        after_one = symptoms(measured, attrs.evolve(config.run, prior_fit=0.2))
        assert "--prior-fit" not in {symptom.name: symptom.message for symptom in after_one}[name]


def test_two_peaks_say_nothing_in_a_system_without_labels() -> None:
    sick = attrs.evolve(SOUND, two_peaks=(0,))
    assert [symptom.name for symptom in symptoms(sick)] == ["two_groups"]
    assert symptoms(attrs.evolve(sick, terms=frozenset(OTHERS["vae"][0]))) == []
    assert len(symptoms(attrs.evolve(sick, terms=frozenset(OTHERS["vade"][0])))) == 1


@pytest.mark.parametrize(
    ("change", "name", "part"),
    [
        (
            {"sizes": (0, 0, 150)},
            "empty_clusters",
            "2 of 3 clusters have none of the 150 evaluated images (clusters 0, 1)",
        ),
        (
            {"sizes": (20, 0, 0, 0), "diversity": (0.5,) * 4, "real_terms": True},
            "collapsed_assignments",
            "as in 1.0 equal ones, expected at least 1.2",
        ),
        ({"diversity": (0.5, 0.001, 0.3)}, "collapsed_clusters", "(cluster 1; variance 0.001 of that of real images"),
        ({"saturation": 0.4}, "saturation", "0.4 more of the generated pixels than of real ones are black or white"),
        ({"posterior_entropy": 0.97}, "undecided_posteriors", "mean entropy of q(y|x) 0.97 of log K"),
        ({"agreement": 0.34}, "ignored_clusters", "only 34% of the generated images"),
        ({"hinge": 0.01}, "discriminator_won", "hinge loss is 0.01 "),
        (
            {"spectral_norms": {"encoder": (1e4, "loc.0.weight"), "generator": (1.0, "x")}},
            "exploding_spectral_norms",
            "weight loc.0.weight of the encoder has a spectral norm of 1e+04",
        ),
        (
            {"gradient_norms": {"prior": 1e-9, "generator": 3e4, "encoder": 1.0}},
            "exploding_gradients",
            "generator has a norm of 3e+04 (median since the last evaluation, expected below 10000)",
        ),
        (
            {"gradient_norms": {"prior": 1e9, "generator": 3.0, "encoder": 1e-7}},
            "vanishing_gradients",
            "the gradient of the encoder has a norm of 1e-07 (median since the last evaluation, expected above 1e-06)",
        ),
    ],
)
def test_each_symptom_is_named_alone(change: dict[str, Any], name: str, part: str) -> None:
    assert symptoms(SOUND) == []
    (seen,) = symptoms(attrs.evolve(SOUND, **change))
    assert seen.name == name
    assert part in seen.message
    # A cure has a flag with a value, and what it costs.
    assert re.search(r"; in a new run, .*--[a-z.-]+ [a-z0-9.]+ \(.+\)", seen.message), seen.message


def test_every_cure_is_a_value_that_the_run_would_take() -> None:
    named: set[str] = set()
    extremes = (
        RunSettings(),
        RunSettings(d_steps=1, e_steps=1, batch=2, balance_direction="prior", membership_weight=0.0),
        RunSettings(consistency_weight=9.6, invariant_to="shift", generator_membership_weight=6.4, balance_weight=3.2),
    )
    measured = attrs.evolve(
        SOUND,
        sizes=(50, 100, 0),
        two_peaks=(1,),
        gradient_norms={"generator": 1.0, "encoder": 0.0, "discriminator": 1.0},
    )
    for settings, (name, words) in itertools.product(extremes, CURES.items()):
        for flag, value in re.findall(r"--([a-z-]+) ([a-z0-9.]+)", text := words(settings, measured)):
            field = flag.replace("-", "_")
            own = getattr(settings, field)
            assert type(own)(value) != own
            attrs.evolve(settings, **{field: type(own)(value)})
            named.add(name)
        assert text.count("(") == text.count(")") > 0
    assert named == {*CURES}


def test_a_few_images_say_nothing_of_empty_clusters_and_one_cluster_of_none() -> None:
    assert symptoms(attrs.evolve(SOUND, sizes=(0, 1, 28))) == []
    alone = attrs.evolve(SOUND, sizes=(90,), diversity=(0.4,), posterior_entropy=0.0, agreement=1.0, hinge=None)
    assert symptoms(alone) == []
    assert "discriminator_hinge" not in alone.quantities()


# Commands that provoke a symptom: on the digits, on images of noise, on nearly grey ones, on dark and bright ones.
PROVOKED = {
    "empty_clusters": ["--clusters", "100", "--iterations", "60"],
    "collapsed_assignments": [
        *("--balance-weight", "0", "--consistency-weight", "1000", "--real-terms-rise", "0"),
        *("--iterations", "60"),
    ],
    "collapsed_clusters": [
        *("--prior-lr", "0.5", "--lr", "1e-3", "--lr-decay", "0", "--iterations", "150"),
        *("--generator-latent-weight", "0", "--generator-membership-weight", "0", "--label-draws", "independent"),
    ],
    "two_groups": [
        *("--preset", "digits", "--data", "arrays", "--data.path", "halves.npy"),
        *("--clusters", "1", "--iterations", "1"),
    ],
    "saturation": [
        *("--preset", "digits", "--data", "arrays", "--data.path", "grey.npy"),
        *("--d-steps", "1", "--lr", "3e-2", "--iterations", "1"),
    ],
    "undecided_posteriors": ["--membership-weight", "0", "--prior.scale-floor", "20", "--iterations", "60"],
    "ignored_clusters": ["--iterations", "30"],
    "discriminator_won": [
        *("--preset", "digits", "--data", "arrays", "--data.path", "noise.npy"),
        *("--d-steps", "40", "--lr", "1e-2", "--iterations", "10", "--log-every", "5"),
    ],
    "exploding_spectral_norms": ["--lr", "1", "--iterations", "100"],
    "exploding_gradients": ["--latent-weight", "1e8", "--iterations", "20", "--log-every", "5"],
    "vanishing_gradients": [
        *("--latent-weight", "0", "--membership-weight", "0", "--entropy-weight", "0", "--balance-weight", "0"),
        *("--consistency-weight", "0", "--iterations", "20", "--log-every", "5"),
    ],
}
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_the_page_lists_every_warning_with_the_command_that_provokes_it() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| .* \| (.*) \|$", PAGE, re.MULTILINE))
    assert list(rows) == list(PROVOKED)
    for name, words in PROVOKED.items():
        made = [at for at, word in enumerate(words) if word.endswith(".npy")]
        assert " ".join(words[made[0] + 1 :] if made else words) in rows[name]


QUICK = ("--threads", "1", "--standing-passes", "2", "--metrics", "occupancy")


# One of them in every run of the tests: the shortest.
@pytest.mark.parametrize(
    "name", [name if name == "saturation" else pytest.param(name, marks=pytest.mark.check) for name in PROVOKED]
)
def test_a_run_that_goes_wrong_says_so_on_screen_in_the_events_and_in_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for made, ends in {"noise": (0, 256), "grey": (118, 138)}.items():
        np.save(f"{made}.npy", np.random.default_rng(0).integers(*ends, (400, 8, 8), dtype=np.uint8))
    # Half of the images are dark, half are bright.
    np.save("halves.npy", np.load("noise.npy") // 8 + np.repeat([20, 200], 200).astype(np.uint8)[:, None, None])
    assert run(*PROVOKED[name], *QUICK, "--out", "run") == 0
    warnings = {each["name"]: each["message"] for each in health(Path("run"))["warnings"]}
    assert name in warnings
    assert f"warning: {warnings[name]}" in capsys.readouterr().err
    tags = EventAccumulator("run").Reload().Tags()
    assert f"health/{name}/text_summary" in tags["tensors"]


@pytest.mark.check
def test_a_sound_run_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "--iterations", "400", "--out", tmp_path / "run") == 0
    assert "warning" not in capsys.readouterr().err
    assert health(tmp_path / "run")["warnings"] == []
    assert health(tmp_path / "run")["restarts"] == []


def test_what_an_evaluation_says_of_health_is_the_same_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = Trainer.iterate

    def killed(self: Trainer) -> dict[str, torch.Tensor]:
        if self.iteration == 5:
            raise KeyboardInterrupt
        return iterate(self)

    flags = {"eval-every": 4, "log-every": 1, "checkpoint-every": 1}
    assert tiny(tmp_path / "alone", **flags) == 0
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "iterate", killed)
        assert tiny(tmp_path / "killed", **flags) == 130
    assert run("--resume", tmp_path / "killed") == 0
    assert health(tmp_path / "killed") == health(tmp_path / "alone")
    assert health(tmp_path / "alone")["quantities"]["gradient_norm_encoder"] > 0


def test_a_restart_names_a_broken_checkpoint_and_keeps_the_divergence_if_all_are(
    tmp_path: Path, broken: Breaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = FiniteGuard.breakdown
    spoil = ["last.pt"]

    def spoiling(self: FiniteGuard) -> Any:
        found = watch(self)
        if found is not None:
            for path in (tmp_path / "run" / "checkpoints").iterdir():
                if path.name in spoil or spoil == ["all"]:
                    path.write_bytes(b"nothing")
        return found

    monkeypatch.setattr(FiniteGuard, "breakdown", spoiling)
    broken("encoder", 11)
    assert tiny(tmp_path / "run", "--on-nonfinite=restart-from-last") == 0
    err = capsys.readouterr().err
    assert re.search(r"warning: checkpoint \S*last\.pt: cannot be read, it is broken", err)
    assert "restart 1 from iteration 2 with other random numbers" in err
    spoil[:] = ["all"]
    shutil.rmtree(tmp_path / "run")
    broken("encoder", 11)
    assert tiny(tmp_path / "run", "--on-nonfinite=restart-from-last") == 3
    assert "not finite in the encoder and prior step" in (last := capsys.readouterr().err.splitlines()[-1])
    assert "there is no checkpoint to restart from: no checkpoint can be read" in last


def test_what_is_normal_while_clusters_form_is_told_afterwards() -> None:
    young = attrs.evolve(SOUND, sizes=(150, 0, 0), posterior_entropy=0.95, agreement=0.2, real_terms=True, forming=True)
    assert symptoms(young) == []
    grown = [symptom.name for symptom in symptoms(attrs.evolve(young, forming=False))]
    assert grown == ["empty_clusters", "undecided_posteriors", "ignored_clusters"]


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        ({"diversity": (0.5, 0.0199999, 0.3)}, 0.02),
        ({"saturation": 0.2500001}, 0.25),
        ({"posterior_entropy": 0.9000001}, 0.9),
        ({"hinge": 0.0499999}, 0.05),
        ({"spectral_norms": {"generator": (100.00001, "entry.weight")}}, 100.0),
        ({"gradient_norms": {"encoder": 0.00000099999999}}, 1e-6),
    ],
)
def test_the_number_in_a_warning_is_not_its_bound(change: dict[str, Any], bound: float) -> None:
    (symptom,) = symptoms(attrs.evolve(SOUND, **change))
    numbers = [float(number) for number in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w])", symptom.message)]
    assert numbers.count(bound) == 1


RESULTS = {
    "iterations": 1000,
    "iterations_per_second": 5.0,
    "clusters": {"total": 4, "used": 4, "sizes": [30, 20, 25, 25]},
    "metrics": {"acc": 0.95, "silhouette": 0.3},
    "baseline": {"metrics": {"acc": 0.8}, "agreement": 0.61},
    "health": {"warnings": []},
}
UNLABELLED = {"metrics": {}, "baseline": {"metrics": {}, "agreement": 0.61}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "4 of 4 clusters in use; acc 0.950 (k-means on the pixels: 0.800)"),
        ({"metrics": {"acc": 0.8}}, "4 of 4 clusters in use; acc 0.800 (k-means on the pixels: 0.800)"),
        (
            UNLABELLED,
            "4 of 4 clusters in use; compare clusters.png with kmeans.png, the groups of k-means on the pixels",
        ),
        ({"iterations": 77}, "too short to judge, 77 iterations: clusters need 1,000 or more; train longer: "),
        ({"iterations": 77, "iterations_per_second": 0.0}, "train longer: mpcc-run --resume runs/a"),
        ({"clusters": {"total": 2, "used": 1, "sizes": [99, 0]}}, "not useful yet: all images are in one of the 2 "),
        ({"clusters": {"total": 1, "used": 1, "sizes": [99]}}, "one cluster: all images are in it"),
        # Groups may be as unequal, and fewer than K.
        ({"clusters": {"total": 9, "used": 3, "sizes": [90, 5, 5, *[0] * 6]}}, "3 of 9 clusters in use; acc 0.950"),
        (
            {"clusters": {"total": 3, "used": 3, "sizes": [900, 9, 91]}},
            "3 of 3 clusters in use, 1 of them with very few images; acc",
        ),
        (
            {"health": {"warnings": [{"name": "ignored_clusters"}]}},
            "not useful yet: the images that are generated for a",
        ),
        ({"health": {"warnings": [{"name": "saturation"}]}}, "4 of 4 clusters in use"),
    ],
)
def test_the_last_line_says_whether_the_clusters_are_of_use(change: dict[str, Any], line: str) -> None:
    assert line in verdict({**RESULTS, **change}, "runs/a").line


def test_a_run_from_the_weights_of_another_one_is_never_too_short() -> None:
    assert verdict({**RESULTS, "iterations": 10}, "runs/a", warm=True) == verdict(RESULTS, "runs/a")


@pytest.mark.parametrize(("changes", "said"), [({}, False), ({"iterations": 77}, True)])
def test_whoever_uses_a_run_is_told_if_it_is_of_no_use_yet(tmp_path: Path, changes: dict[str, Any], said: bool) -> None:
    assert caution(tmp_path) is None
    for text in ("{", "[]", "{}", json.dumps({**RESULTS, "clusters": 3})):
        (tmp_path / "results.json").write_text(text, encoding="utf-8")
        assert caution(tmp_path) is None
    (tmp_path / "results.json").write_text(json.dumps({**RESULTS, **changes}), encoding="utf-8")
    assert (caution(tmp_path) is not None) == said
