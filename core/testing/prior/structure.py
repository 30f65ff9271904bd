"""Laws on the structure of a prior: shapes, types, devices, state, seeds."""

from __future__ import annotations

import copy
from typing import get_args, get_type_hints

import torch
from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.contracts import Prior
from mpcc.core.testing.module_state import require_same, require_state_complete, require_trained, through_file
from mpcc.core.testing.prior.cases import PriorCase
from mpcc.core.testing.report import Law, broken, law, require

__all__ = ["STRUCTURE", "quantities"]

# K and J: the smallest, more clusters than dimensions, fewer.
SIZES = ((1, 1), (3, 2), (4, 5))
COUNT = 6


def quantities(prior: Prior, seed: int, count: int = 20) -> dict[str, Tensor]:
    """Return everything that training takes from a prior, at samples of its own."""
    torch.manual_seed(seed)
    z, y = prior.sample(count)
    found = {"z": z, "y": y, "weights": prior.weights(), "log_weights": prior.log_weights()}
    found |= {"log_density": prior.log_density(z), "log_responsibilities": prior.log_responsibilities(z)}
    if prior.entropy_kind != "none":
        found["entropies"] = prior.entropies()
    return {name: value.detach() for name, value in found.items()}


@law("it is a Prior that builds for K clusters and J dimensions", essential=True)
def builds(case: PriorCase) -> str:
    kinds = get_args(get_type_hints(Prior)["entropy_kind"])
    for clusters, latent_dim in SIZES:
        prior = case.start(clusters, latent_dim)
        require(isinstance(prior, Prior), f"expected a subclass of Prior, got {type(prior).__name__}")
        found = (prior.clusters, prior.latent_dim)
        require(
            found == (clusters, latent_dim),
            f"clusters and latent_dim: expected {(clusters, latent_dim)}, got {found}",
        )
        require(
            prior.entropy_kind in kinds, f"entropy_kind: expected one of {', '.join(kinds)}, got {prior.entropy_kind!r}"
        )
        require(prior.training, "it must start in training mode")
        require(prior.weights().device.type == "cpu", f"it must be built on the CPU, got {prior.weights().device}")
    return f"(K, J) of {', '.join(map(str, SIZES))}; entropy {prior.entropy_kind}"


def check_shapes(prior: Prior, dtype: torch.dtype, device: torch.device) -> None:
    K, J = prior.clusters, prior.latent_dim
    at = f"K={K}, J={J}, {str(dtype).removeprefix('torch.')}, {device.type}"

    def expect(what: str, value: object, shape: tuple[int, ...], kind: torch.dtype = dtype) -> None:
        if not isinstance(value, Tensor):
            broken(f"{at}: {what}: expected a tensor, got {type(value).__name__}")
        require(tuple(value.shape) == shape, f"{at}: {what}: expected shape {shape}, got {tuple(value.shape)}")
        require(value.dtype == kind, f"{at}: {what}: expected {kind}, got {value.dtype}")
        require(value.device == device, f"{at}: {what}: expected device {device}, got {value.device}")

    def expect_distribution(what: str, found: object, batch: tuple[int, ...], z: Tensor) -> None:
        if not isinstance(found, Distribution):
            broken(f"{at}: {what}: expected a Distribution, got {type(found).__name__}")
        shapes = (tuple(found.batch_shape), tuple(found.event_shape))
        require(shapes == (batch, (J,)), f"{at}: {what}: expected batch and event shape {(batch, (J,))}, got {shapes}")
        expect(f"{what}.rsample()", found.rsample(), (*batch, J))
        expect(f"{what}.log_prob(z)", found.log_prob(z), batch)

    expect("weights()", prior.weights(), (K,))
    expect("log_weights()", prior.log_weights(), (K,))
    for batch in ((COUNT,), (), (2, 3)):
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        z = torch.zeros(*batch, J, dtype=dtype, device=device)
        expect_distribution(f"component(y of shape {batch})", prior.component(labels), batch, z)
    z, y = prior.sample(COUNT)
    expect("sample(): z", z, (COUNT, J))
    expect("sample(): y", y, (COUNT,), torch.int64)
    require(int(y.min()) >= 0 and int(y.max()) < K, f"{at}: sample(): y is outside of 0..{K - 1}: {y.tolist()}")
    expect("log_density(z)", prior.log_density(z), (COUNT, K))
    expect("log_responsibilities(z)", prior.log_responsibilities(z), (COUNT, K))
    if prior.entropy_kind != "none":
        expect("entropies()", prior.entropies(), (K,))
    ratio = prior.label_ratio(y)
    if ratio is not None:
        expect("label_ratio(y)", ratio, (COUNT,))
    expect("input_map(z)", prior.input_map(z), (COUNT, J))
    zeros = torch.zeros_like(z)
    expect_distribution("encoder_distribution(loc, raw_scale)", prior.encoder_distribution(z, zeros), (COUNT,), z)
    scales = prior.scales()
    if scales is not None:
        expect("scales()", scales, (K, J))
        require(bool((scales > 0).all()), f"{at}: scales() must be positive, got {float(scales.detach().min()):.3g}")
    for name, value in prior.quantities().items():
        require(
            isinstance(name, str) and isinstance(value, Tensor) and bool(torch.isfinite(value).all()),
            f"{at}: quantities()[{name!r}] must be a tensor of finite numbers",
        )


@law("shapes, dtypes and devices are those of the contract")
def shapes(case: PriorCase) -> str:
    # With CUDA where there is some; without, the weights at least are watched on the way to another device.
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda", torch.cuda.current_device()))
    for device in devices:
        for clusters, latent_dim in SIZES:
            for dtype in (torch.float32, torch.float64):
                check_shapes(case.build(clusters, latent_dim, dtype).to(device), dtype, device)
    if len(devices) > 1:
        return "float32 and float64, CPU and CUDA"
    try:
        device = case.start(3, 2).to("meta").weights().device
    except NotImplementedError:
        # An operation of this prior has no kernel on the meta device: nothing is known, or held against it.
        return "float32 and float64, CPU; no CUDA device here"
    require(
        device.type == "meta",
        f"weights() stays on {device} when the prior moves: make it from parameters or buffers, which move along",
    )
    return "float32 and float64, CPU; no CUDA device here"


@law("validate() accepts its parameters")
def validates(case: PriorCase) -> str:
    case.start(3, 2).validate()
    case.build(3, 2).validate()
    return "at the start and moved"


@law("every parameter is trained; what is fixed is a buffer")
def parameters_trained(case: PriorCase) -> str:
    return require_trained({"prior": case.start(3, 2)})


@law("saving and loading its state gives the same prior")
def saved(case: PriorCase) -> str:
    prior, other = case.build(seed=0), case.build(seed=1)
    expected = quantities(prior, case.seed)
    other.load_state_dict(through_file(prior))
    require_same(expected, quantities(other, case.seed), "loaded into a prior of another seed")
    require_state_complete({"prior": prior})
    return f"{len(prior.state_dict())} tensors, weights_only"


@law("a copy shares nothing with its original")
@torch.no_grad()
def copied(case: PriorCase) -> str:
    prior = case.build()
    twin = copy.deepcopy(prior)
    expected = quantities(prior, case.seed)
    require_same(expected, quantities(twin, case.seed), "copy")
    for parameter in twin.parameters():
        parameter.add_(1)
    require_same(expected, quantities(prior, case.seed), "after its copy was changed")
    return "copy.deepcopy"


@law("building and sampling are functions of the seed")
def seeded(case: PriorCase) -> str:
    first, second = case.start(3, 2).state_dict(), case.start(3, 2).state_dict()
    require_same(first, second, "built twice from one seed")
    prior = case.build()
    require_same(quantities(prior, 1), quantities(prior, 1), "sampled twice from one seed")
    same = torch.equal(quantities(prior, 1)["z"], quantities(prior, 2)["z"])
    require(not same, "two seeds gave the same samples: draw from torch's global random state")
    return "torch's global random state"


@law("labels are drawn first, then the noise")
@torch.no_grad()
def label_order(case: PriorCase) -> str:
    prior = case.build(4, 3)
    torch.manual_seed(case.seed)
    z, y = prior.sample(30)
    torch.manual_seed(case.seed)
    labels = prior.sample_labels(30)
    latents = prior.component(labels).rsample()
    require(torch.equal(y, labels), "sample() does not begin with the labels that sample_labels() draws")
    require(torch.equal(z, latents), "sample() does not draw z from component(y).rsample() right after the labels")
    return "y, then z"


STRUCTURE: tuple[Law[PriorCase], ...] = (
    builds,
    shapes,
    validates,
    parameters_trained,
    saved,
    copied,
    seeded,
    label_order,
)
