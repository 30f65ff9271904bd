"""Laws on the structure of a prior: shapes, types, devices, state, seeds."""

from __future__ import annotations

from typing import get_args, get_type_hints

import torch
from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.contracts import Prior
from mpcc.core.testing.cases import SizeRefused
from mpcc.core.testing.comparison import (
    NO_CUDA,
    devices,
    finite,
    require_instance,
    require_plugin,
    require_same,
    require_tensor,
)
from mpcc.core.testing.module_state import require_trained
from mpcc.core.testing.prior.cases import LARGER, SIZES, PriorCase, formulas
from mpcc.core.testing.report import Laws, require

__all__ = ["STRUCTURE", "quantities"]

STRUCTURE = Laws[PriorCase]()
COUNT = 6
# A tenth of a nat is more than the entropies of clusters usually differ by.
LARGEST_TOLERANCE = 0.1


def quantities(prior: Prior, seed: int, count: int = 20) -> dict[str, Tensor]:
    """Return everything that training takes from a prior, at samples of its own."""
    torch.manual_seed(seed)
    z, y = prior.sample(count)
    values = {name: formula() for name, formula in formulas(prior, z).items()}
    return {name: value.detach() for name, value in {"z": z, "y": y, **values}.items()}


@STRUCTURE.add("it is a Prior that builds for K clusters and J dimensions", essential=True)
def builds(case: PriorCase) -> str:
    kinds = get_args(get_type_hints(Prior)["entropy_kind"])
    accepted, refused = [], []
    for size in (*SIZES, LARGER):
        try:
            prior = require_plugin(case.start(*size), Prior)
        except SizeRefused as error:
            refused.append(str(error))
            continue
        accepted.append(size)
        built = (prior.clusters, prior.latent_dim)
        require(built == size, f"clusters and latent_dim: expected {size}, got {built}")
        kind = prior.entropy_kind
        require(kind in kinds, f"entropy_kind: expected one of {', '.join(kinds)}, got {kind!r}")
        require_tolerance(prior)
        require(prior.training, "it must start in training mode")
        device = require_instance("weights()", prior.weights(), Tensor).device
        require(device.type == "cpu", f"it must be built on the CPU, got {device}")
    require(bool(accepted), f"it refuses every size that was tried: {'; '.join(refused)}")
    return "; ".join([f"(K, J) of {', '.join(map(str, accepted))}", f"entropy {kind}", *refused])


def require_tolerance(prior: Prior) -> None:
    """Check that numerical entropies, and no others, come with the largest error that they may have."""
    tolerance, numerical = prior.entropy_tolerance, prior.entropy_kind == "numerical"
    expected = f"above 0 and at most {LARGEST_TOLERANCE:g} nats for numerical entropies" if numerical else "0"
    right = isinstance(tolerance, int | float) and (0 < tolerance <= LARGEST_TOLERANCE if numerical else tolerance == 0)
    require(right, f"entropy_tolerance: expected {expected}, got {tolerance!r} with entropy_kind {prior.entropy_kind}")


def check_shapes(prior: Prior, dtype: torch.dtype, device: torch.device) -> None:
    K, J = prior.clusters, prior.latent_dim
    at = f"K={K}, J={J}, {str(dtype).removeprefix('torch.')}, {device.type}"

    def expect(what: str, value: object, shape: tuple[int, ...], kind: torch.dtype = dtype) -> Tensor:
        return require_tensor(f"{at}: {what}", value, shape, kind, device)

    def expect_distribution(what: str, value: object, batch: tuple[int, ...], z: Tensor) -> None:
        distribution = require_instance(f"{at}: {what}", value, Distribution)
        shapes = (tuple(distribution.batch_shape), tuple(distribution.event_shape))
        require(shapes == (batch, (J,)), f"{at}: {what}: expected batch and event shape {(batch, (J,))}, got {shapes}")
        expect(f"{what}.rsample()", distribution.rsample(), (*batch, J))
        expect(f"{what}.log_prob(z)", distribution.log_prob(z), batch)

    for batch in ((COUNT,), (), (2, 3)):
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        z = torch.zeros(*batch, J, dtype=dtype, device=device)
        expect_distribution(f"component(y of shape {batch})", prior.component(labels), batch, z)
    z, y = prior.sample(COUNT)
    expect("sample(): z", z, (COUNT, J))
    expect("sample(): y", y, (COUNT,), torch.int64)
    require(int(y.min()) >= 0 and int(y.max()) < K, f"{at}: sample(): expected y in 0..{K - 1}, got {y.tolist()}")
    of_points = ("log_density", "log_responsibilities")
    for name, formula in formulas(prior, z).items():
        expect(name, formula(), (COUNT, K) if name in of_points else (K,))
    ratio = prior.label_ratio(y)
    if ratio is not None:
        expect("label_ratio(y)", ratio, (COUNT,))
    expect("input_map(z)", prior.input_map(z), (COUNT, J))
    zeros = torch.zeros_like(z)
    expect_distribution("encoder_distribution(loc, raw_scale)", prior.encoder_distribution(z, zeros), (COUNT,), z)
    scales = prior.scales()
    if scales is not None:
        smallest = float(expect("scales()", scales, (K, J)).detach().min())
        require(smallest > 0, f"{at}: scales() must be positive, got {smallest:.3g}")
    for name, value in prior.quantities().items():
        right = isinstance(name, str) and isinstance(value, Tensor) and finite(value)
        require(right, f"{at}: quantities()[{name!r}] must be a tensor of finite numbers")


@STRUCTURE.add("shapes, dtypes and devices are those of the contract", essential=True)
def shapes(case: PriorCase) -> str:
    for device in devices():
        for clusters, latent_dim in case.accepted(SIZES):
            # A run uses a prior as it is built, without a change of its dtype.
            check_shapes(case.start(clusters, latent_dim).to(device), torch.float32, device)
            for dtype in (torch.float32, torch.float64):
                check_shapes(case.build(clusters, latent_dim, dtype).to(device), dtype, device)
    if len(devices()) > 1:
        return "float32 and float64, CPU and CUDA"
    # Without CUDA, the move of the weights to another device can still be watched.
    try:
        device = case.start(3, 2).to("meta").weights().device
    except NotImplementedError:
        # An operation of this prior has no kernel on the meta device. That is no fault of the prior.
        device = torch.device("meta")
    require(
        device.type == "meta",
        f"weights() stays on {device} when the prior moves: make it from parameters or buffers, which move along",
    )
    return f"float32 and float64, {NO_CUDA}"


@STRUCTURE.add("validate() accepts its parameters")
def validates(case: PriorCase) -> str:
    case.start(3, 2).validate()
    case.build(3, 2).validate()
    return "at the start and moved"


@STRUCTURE.add("every parameter is trained; fixed values are buffers")
def parameters_trained(case: PriorCase) -> str:
    return require_trained({"prior": case.start(3, 2)})


@STRUCTURE.add("building and sampling are functions of the seed")
def seeded(case: PriorCase) -> str:
    first, second = case.start(3, 2).state_dict(), case.start(3, 2).state_dict()
    require_same(first, second, "built twice from one seed")
    prior = case.build()
    require_same(quantities(prior, 1), quantities(prior, 1), "sampled twice from one seed")
    same = torch.equal(quantities(prior, 1)["z"], quantities(prior, 2)["z"])
    require(not same, "two seeds gave the same samples: draw from torch's global random state")
    return "torch's global random state"


@STRUCTURE.add("labels are drawn first, then the noise")
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
