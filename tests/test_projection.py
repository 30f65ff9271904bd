"""The conditional discriminator: its score, which labels it gets, what is refused; and runs without it as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from mpcc.core.commands import entry
from mpcc.core.config.options import convert, fields
from mpcc.core.contracts import Networks
from mpcc.core.errors import InvalidInput
from mpcc.core.method.losses import Batch, discriminator_loss, draw, generator_loss
from mpcc.core.method.model import Model, trainable
from mpcc.core.method.terms import TermWeights
from mpcc.core.testing import ContractViolation, check_architecture
from mpcc.core.testing.architectures import reacts_to_labels
from mpcc.plugins.architectures.biggan import BigGAN8, ProjectionDiscriminator
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

K, J, N = 4, 5, 12
WEIGHTS = TermWeights(data=3.0)


def model(**options: Any) -> Model:
    """A small model in float64, its parameters far from their start."""
    torch.manual_seed(0)
    prior = GaussianMixture(K, J, GaussianMixtureOptions()).double()
    networks = BigGAN8(BigGANOptions(width=2, **options)).build(K, J, 1)
    made = Model.assemble(prior, networks, torch.device("cpu"))
    for part in made.parts().values():
        part.double()
        for parameter in part.parameters():
            parameter.copy_(torch.randn_like(parameter))
    # Clusters where the encoder puts some of the real images, so that not all of them are in one.
    prior.loc.copy_(networks.encoder(real()[:K])[0])
    prior.raw_scale.zero_()
    return made


def real() -> Tensor:
    return torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


# The score


@torch.no_grad()
def test_the_score_is_that_of_the_features_plus_the_embedded_label_times_the_features() -> None:
    discriminator = model(projection="posterior").networks.discriminator
    assert isinstance(discriminator, ProjectionDiscriminator)
    x, y = real(), torch.arange(N) % K
    h = torch.relu(discriminator.blocks(discriminator.trunk(x))).numpy().sum((2, 3))
    score, label = discriminator.score, discriminator.label
    row = (score.weight / (score.u @ score.weight @ score.v)).numpy()[0]
    table = (label.weight / (label.u @ label.weight @ label.v)).numpy()
    assert table.shape == (K, 8)
    expected = h @ row + score.bias.item() + np.einsum("nw,nw->n", table[y], h)
    np.testing.assert_allclose(discriminator(x, y).numpy(), expected, atol=1e-9)


def test_without_a_projection_the_discriminator_is_unconditional() -> None:
    for options, expected in (({}, False), ({"projection": "none"}, False), ({"projection": "posterior"}, True)):
        networks = BigGAN8(BigGANOptions(width=1, **options)).build(K, J, 1)  # type: ignore[arg-type]
        assert networks.conditional is expected
        assert isinstance(networks.discriminator, ProjectionDiscriminator) is expected


def test_the_networks_are_the_same_with_and_without_a_projection_but_for_the_embedding() -> None:
    plain, conditional = (model(projection=projection) for projection in ("none", "posterior"))
    more = set(conditional.networks.discriminator.state_dict()) - set(plain.networks.discriminator.state_dict())
    assert more == {"label.weight", "label.u", "label.v"}
    assert conditional.networks.encoder.state_dict().keys() == plain.networks.encoder.state_dict().keys()


# Which labels it gets


class Spy(nn.Module):
    """Keeps what it was called with; scores are a function of its parameters."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls: list[tuple[Tensor, ...]] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        self.calls.append(inputs)
        scores: Tensor = self.inner(*inputs)
        return scores


def spied(**options: Any) -> tuple[Model, Spy]:
    made = model(**options)
    spy = Spy(made.networks.discriminator)
    networks = Networks(made.networks.generator, spy, made.networks.encoder, made.networks.conditional)
    return Model(made.prior, networks, made.averaged, made.entropy), spy


def most_probable(made: Model, x: Tensor) -> np.ndarray:
    """argmax_y q(y|z) at the encoder's location, by scipy's normal density."""
    with torch.no_grad():
        loc = made.networks.encoder(x)[0].numpy()
        mean, scale = made.prior.loc.numpy(), made.prior.scales().numpy()  # type: ignore[union-attr]
    log_joint = np.log(1 / K) + stats.norm.logpdf(loc[:, None], mean, scale).sum(-1)
    return np.asarray(log_joint.argmax(1))


def test_generated_images_come_with_their_own_labels_and_real_ones_with_the_most_probable() -> None:
    made, spy = spied(projection="posterior")
    torch.manual_seed(2)
    z, y = made.prior.sample(N)
    torch.manual_seed(2)
    discriminator_loss(made, Batch(N, real(), draw(made, N, train_prior=False)), WEIGHTS)
    ((images, labels),) = spy.calls
    expected = most_probable(made, real())
    assert set(expected.tolist()) == set(range(K))
    assert labels[:N].tolist() == expected.tolist()
    assert labels[N:].tolist() == y.tolist()
    assert torch.equal(images[:N], real())
    torch.testing.assert_close(images[N:], made.generate(z, y))


def test_the_discriminators_loss_is_the_hinge_of_its_conditional_scores() -> None:
    made = model(projection="posterior")
    torch.manual_seed(2)
    z, y = made.prior.sample(N)
    D = made.networks.discriminator
    on_real = D(real(), torch.from_numpy(most_probable(made, real()))).numpy()
    on_fake = D(made.generate(z, y), y).numpy()
    expected = np.maximum(1 - on_real, 0).mean() + np.maximum(1 + on_fake, 0).mean()
    torch.manual_seed(2)
    loss = discriminator_loss(made, Batch(N, real(), draw(made, N, train_prior=False)), WEIGHTS)
    assert loss.terms["data_discriminator"].item() == pytest.approx(expected, rel=1e-9)
    assert loss.total.item() == pytest.approx(3 * expected, rel=1e-9)


def test_the_generators_loss_takes_the_labels_that_it_drew() -> None:
    made, spy = spied(projection="posterior")
    torch.manual_seed(3)
    _, y = made.prior.sample(N)
    torch.manual_seed(3)
    loss = generator_loss(made, Batch(N), WEIGHTS)
    ((images, labels),) = spy.calls
    assert torch.equal(labels, y)
    assert loss.total.item() == pytest.approx(-3 * spy.inner(images, y).mean().item(), rel=1e-9)


def test_inferred_labels_give_no_gradient_to_the_encoder_or_the_prior() -> None:
    made = model(projection="posterior")
    networks = made.networks
    trunk = {id(parameter) for parameter in networks.discriminator.parameters()}
    with trainable(networks.discriminator, networks.encoder, made.prior):
        discriminator_loss(made, Batch(N, real(), draw(made, N, train_prior=False)), WEIGHTS).total.backward()  # type: ignore[no-untyped-call]
    assert networks.discriminator.label.weight.grad.abs().max() > 0
    own = [parameter for parameter in networks.encoder.parameters() if id(parameter) not in trunk]
    assert own
    assert all(parameter.grad is None for parameter in [*own, *made.prior.parameters()])


def test_the_data_term_reaches_generator_and_prior_through_the_projection() -> None:
    made = model(projection="posterior")
    with trainable(made.networks.generator, made.prior):
        generator_loss(made, Batch(N), WEIGHTS).total.backward()  # type: ignore[no-untyped-call]
    assert made.prior.loc.grad.abs().max() > 0  # type: ignore[union-attr]
    assert all(parameter.grad is None for parameter in made.networks.discriminator.parameters())


def test_an_unconditional_discriminator_is_called_with_images_alone_and_the_encoder_not_at_all() -> None:
    made, spy = spied()
    called: list[int] = []
    made.networks.encoder.register_forward_hook(lambda *_: called.append(1))
    torch.manual_seed(4)
    loss = discriminator_loss(made, Batch(N, real(), draw(made, N, train_prior=False)), WEIGHTS)
    after = torch.rand(1)
    generator_loss(made, Batch(N), WEIGHTS)
    assert [len(inputs) for inputs in spy.calls] == [1, 1]
    assert called == []
    # The draws and the arithmetic as written before there were labels.
    torch.manual_seed(4)
    fake = made.generate(*made.prior.sample(N))
    assert torch.equal(torch.rand(1), after)
    on_real, on_fake = spy.inner(torch.cat([real(), fake])).split(N)
    expected = torch.relu(1 - on_real).mean() + torch.relu(1 + on_fake).mean()
    assert torch.equal(loss.terms["data_discriminator"], expected)


# What is refused

REFUSED = r"labels would train the discriminator on the labels of the data set.*nearest valid choice: posterior\)$"


def test_labels_of_the_data_set_are_refused_when_the_options_are_made() -> None:
    with pytest.raises(InvalidInput, match=REFUSED):
        BigGANOptions(projection="labels")
    with pytest.raises(InvalidInput, match=f"^--arch.projection: {REFUSED}"):
        convert("labels", fields(BigGANOptions)["projection"], "--arch.projection")


def test_the_command_refuses_them_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--arch.projection", "labels", "--dry-run"])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "--arch.projection: labels would train" in line


# The contract kit


class Deaf(ProjectionDiscriminator):
    """Takes labels and ignores them."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, torch.zeros_like(y))


def pretender(conditional: bool, deaf: bool) -> type[BigGAN8]:
    """An architecture whose discriminator takes labels, or only says so."""

    class Pretender(BigGAN8):
        def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
            made = super().build(clusters, latent_dim, channels)
            D = made.discriminator
            if deaf:
                D = Deaf(D.trunk, D.blocks, self.width, clusters)  # type: ignore[arg-type]
            return Networks(made.generator, D, made.encoder, conditional)

    return Pretender


@pytest.mark.parametrize(
    ("conditional", "deaf", "message"),
    [
        (True, True, f"{reacts_to_labels.name}: another label changes the scores by 0 only"),
        (True, False, "raised TypeError"),
        (False, True, "raised TypeError"),
    ],
)
def test_the_kit_finds_a_discriminator_that_is_not_what_it_says(conditional: bool, deaf: bool, message: str) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_architecture(pretender(conditional, deaf), BigGANOptions(width=1))
    assert message in str(caught.value)


def test_the_kit_reports_a_conditional_discriminator() -> None:
    report = check_architecture(BigGAN8, BigGANOptions(width=1, projection="posterior"))
    (finding,) = [finding for finding in report.findings if finding.name == reacts_to_labels.name]
    assert finding.detail.startswith("conditional, another label changes")
    report = check_architecture(BigGAN8, BigGANOptions(width=1))
    (finding,) = [finding for finding in report.findings if finding.name == reacts_to_labels.name]
    assert finding.detail == "unconditional"


# A whole run


def test_a_run_with_a_projection_trains_and_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"projection": "posterior", "conditioning": "split", "upsampling": "nearest", "encoder-blocks": "paper"}
    flags = [f"--arch.{name}={value}" for name, value in {**options, "width": 1, "shared-blocks": 1}.items()]
    sizes = ["--iterations=3", "--batch=10", "--d-steps=1", "--e-steps=2", "--eval-images=60", "--standing-passes=2"]
    with pytest.raises(SystemExit) as caught:
        entry.run_main(
            [*flags, "--arch.power-iterations=forward", *sizes, "--latent-dim=4", "--device=cpu", "--out=run"]
        )
    assert not caught.value.code
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 <= results["metrics"]["acc"] <= 1
