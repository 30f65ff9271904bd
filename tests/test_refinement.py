"""Refinement: classifiers on frozen features, which begin as a run's clusters and grow more informative."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score
from torch import Tensor

from mpcc.core.commands import entry
from mpcc.core.errors import InvalidInput
from mpcc.core.images.invariances import Invariances
from mpcc.core.method.entropy import EntropyPolicy
from mpcc.core.method.model import Model
from mpcc.core.refinement.heads import Features, RefinementSettings, batches, information, refined, shared_layers
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

SETTINGS = RefinementSettings(steps=200, heads=2, invariances=Invariances.parse("shift"), seed=3)


def model(**options: int) -> Model:
    """A model with fresh networks for digits."""
    torch.manual_seed(0)
    prior = GaussianMixture(10, 8, GaussianMixtureOptions())
    networks = BigGAN8(BigGANOptions(width=4, **options)).build(10, 8, channels=1)  # type: ignore[arg-type]
    return Model.assemble(prior, networks, torch.device("cpu"), EntropyPolicy.of(prior))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Images of the digits, uint8, (n, 1, 8, 8), and their classes."""
    loaded = load_digits()
    return torch.as_tensor(loaded.images / 16 * 255).round().to(torch.uint8)[:, None], torch.as_tensor(loaded.target)


def test_the_information_of_hard_clusters_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(5, (4000,), generator=generator)
    second = torch.where(
        torch.rand(4000, generator=generator) < 0.7, first, torch.randint(5, (4000,), generator=generator)
    )
    found = information(*(torch.nn.functional.one_hot(each, 5).double() for each in (first, second)))
    # Copies have no order, so each pair counts both ways.
    expected = mutual_info_score(torch.cat([first, second]), torch.cat([second, first]))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_the_information_of_soft_clusters_is_that_of_its_definition() -> None:
    first, second = torch.rand(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    joint = sum((torch.outer(p, q) + torch.outer(q, p)) / 2 for p, q in zip(first, second, strict=True)) / 7
    assert isinstance(joint, Tensor)
    rows = joint.sum(1)
    expected = sum(
        float(joint[j, k]) * math.log(float(joint[j, k]) / float(rows[j] * rows[k])) for j in range(3) for k in range(3)
    )
    assert float(information(first, second)) == pytest.approx(expected, rel=1e-9)
    # Images that are all alike tell nothing.
    assert float(information(first[:1].expand(7, 3), first[:1].expand(7, 3))) == pytest.approx(0, abs=1e-9)


def test_an_epoch_takes_every_image_once() -> None:
    taken = list(batches(10, 3, 6, torch.Generator().manual_seed(0)))
    assert all(len(batch) == 3 for batch in taken)
    for epoch in (taken[:3], taken[3:]):
        assert len(set(torch.cat(epoch).tolist())) == 9


def test_features_are_those_of_the_shared_layers(digits: tuple[Tensor, Tensor]) -> None:
    made, images = model(), digits[0][:300]
    assert shared_layers(made, images[:2]) is made.networks.encoder.trunk
    features = Features(made, images)(images)
    assert features.shape == (300, features.shape[1])
    assert torch.allclose(features.mean(0), torch.zeros(features.shape[1]), atol=1e-4)
    # A part of the images has the same features as with the others.
    assert torch.allclose(Features(made, images)(images[5:9]), features[5:9], atol=1e-5)


def test_networks_that_share_nothing_are_refused(digits: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InvalidInput, match="share no layers"):
        Features(model(shared_blocks=0), digits[0][:20])


def test_clusters_with_many_mistakes_are_mended_and_nothing_else_changes(digits: tuple[Tensor, Tensor]) -> None:
    images, classes = digits
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(classes), generator=generator) < 0.3
    given = torch.where(wrong, torch.randint(10, classes.shape, generator=generator), classes)
    made = model()
    weights = {name: value.clone() for name, value in made.networks.encoder.state_dict().items()}
    before = torch.get_rng_state()
    posterior = torch.nn.functional.one_hot(given, 10).float()
    found = refined(made, images, posterior, SETTINGS)
    again = refined(made, images, posterior, SETTINGS)
    assert all(torch.equal(made.networks.encoder.state_dict()[name], value) for name, value in weights.items())
    assert torch.equal(before, torch.get_rng_state())
    probabilities = found.posterior(images)
    assert torch.equal(probabilities, again.posterior(images))
    assert torch.allclose(probabilities.sum(1), torch.ones(len(images)))
    assert len(found.information) == 2
    assert 0 < max(found.information) <= 1
    # The networks are not trained, so the features are random ones: even they agree better than the given clusters.
    scores = [float((clusters == classes).float().mean()) for clusters in (given, probabilities.argmax(1))]
    assert scores[1] > scores[0] + 0.05
    assert normalized_mutual_info_score(classes, probabilities.argmax(1)) > normalized_mutual_info_score(classes, given)


# The command.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four iterations."""
    folder = tmp_path_factory.mktemp("refine") / "run"
    with pytest.raises(SystemExit) as ended:
        entry.run_main(["--data", "digits", "--iterations", "4", "--seed", "0", "--threads", "1", "--out", str(folder)])
    assert ended.value.code == 0
    return folder


@pytest.fixture
def refine(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``mpcc refine`` and return status, output and errors."""

    def command(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            entry.main(["refine", *words])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return command


def test_a_run_is_refined_into_a_new_folder(trained: Path, refine: Callable[..., tuple[int, str, str]]) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    status, out, err = refine(str(trained), "--steps", "3", "--heads", "2")
    assert (status, err) == (0, "")
    folder = trained / "refined-4"
    assert out.startswith(f"{folder}: iteration 4, 1797 images acc ")
    assert {path: path.read_bytes() for path in before} == before
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["refinement"]["steps"] == 3
    assert len(results["refinement"]["information"]) == 2
    assert results["own_images"] is True
    with (folder / "assignments.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1797
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "mpcc refine " in report
    assert "--steps 3 --heads 2 --invariant-to shift" in report
    # A second one has a folder of its own.
    status, out, _ = refine(str(trained), "--steps", "1", "--heads", "1")
    second = Path(out.partition(":")[0])
    assert second != folder
    assert second.parent == trained
    for each in (folder, second):
        shutil.rmtree(each)
    assert {path for path in trained.rglob("*") if path.is_file()} == before.keys()


def test_a_run_without_clusters_is_refused(
    tmp_path: Path, refine: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["--data", "digits", "--objective", "vae", "--iterations", "1", "--threads", "1", "--out", "vae"]
    with pytest.raises(SystemExit):
        entry.run_main(train)
    status, _, err = refine("vae", "--invariant-to", "shift")
    assert status == 2
    assert "a run of 1 cluster has nothing to refine" in err


class OfLists(torch.nn.Module):
    """An encoder whose shared layers are in a list, which nobody calls."""

    def __init__(self, shared: torch.nn.ModuleList) -> None:
        super().__init__()
        self.shared = shared
        self.loc = torch.nn.Linear(4, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.shared[1](torch.relu(self.shared[0](x)).mean((2, 3)))
        return self.loc(h), self.loc(h)


def test_of_layers_in_a_list_the_largest_that_is_called_is_taken(digits: tuple[Tensor, Tensor]) -> None:
    made = model()
    shared = torch.nn.ModuleList([torch.nn.Conv2d(1, 6, 3), torch.nn.Linear(6, 4)])
    networks = attrs.evolve(made.networks, encoder=OfLists(shared), discriminator=torch.nn.Sequential(*shared))
    made = attrs.evolve(made, networks=networks)
    assert shared_layers(made, digits[0][:2]) is shared[0]
    assert Features(made, digits[0][:30])(digits[0][:3]).shape == (3, 6 * 16)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--invariant-to", "none"), "expected changes that leave a group as it is (nearest valid choice"),
        (("--invariant-to", "shfit"), "--invariant-to shfit: unknown change"),
        (("--steps", "0"), "--steps: the value must be >= 1: 0"),
        (("--batch", "5"), "--batch"),
        (("--data.path", "elsewhere"), "--data.path"),
    ],
)
def test_what_cannot_be_refined_is_refused_in_one_line(
    words: tuple[str, ...], text: str, trained: Path, refine: Callable[..., tuple[int, str, str]]
) -> None:
    status, _, err = refine(str(trained), *words)
    assert status == 2
    assert text in err
    assert err.count("\n") == 1
    assert not list(trained.glob("refined-*"))
