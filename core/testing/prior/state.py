"""Laws on the state of a prior: what building and calls do to it and to the process, what is saved, in which dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from mpcc.core.testing.comparison import require_same
from mpcc.core.testing.module_state import (
    require_copied,
    require_fair_building,
    require_known_parameters,
    require_saved,
    trained,
)
from mpcc.core.testing.prior.cases import PriorCase, formulas
from mpcc.core.testing.prior.structure import quantities
from mpcc.core.testing.report import Laws, require

__all__ = ["STATE"]

STATE = Laws[PriorCase]()
# A schedule that a prior counts for itself shows after this many calls.
CALLS = 1000
# A change that float64 sees and float32 does not, and one that both see.
TINY, SMALL = 1e-11, 1e-3


@STATE.add("building leaves the settings of the process alone, and parameters start in float32", essential=True)
def building(case: PriorCase) -> str:
    return require_fair_building(lambda seed: {"prior": case.start(3, 2, seed)})


@STATE.add("a call makes no parameter, and 1,000 calls change no result", of_choices=False)
@torch.no_grad()
def calls(case: PriorCase) -> str:
    prior = case.start(3, 2)
    names = set(prior.state_dict())
    before = quantities(prior, case.seed)
    require_known_parameters("prior", names, prior)
    heads = torch.zeros(1, 2)
    for _ in range(CALLS):
        z, _ = prior.sample(1)
        prior.log_responsibilities(z)
        prior.encoder_distribution(heads, heads)
    require_same(before, quantities(prior, case.seed), f"after {CALLS} calls with the same parameters")
    return f"{CALLS} calls of sample, log_responsibilities and encoder_distribution"


@STATE.add("results follow the parameters: nothing is kept of earlier ones", after=[calls.name])
def follows(case: PriorCase) -> str:
    used, unused, other = case.start(3, 2), case.start(3, 2), case.build(3, 2, torch.float32, seed=1)
    quantities(used, case.seed)
    for prior in (used, unused):
        prior.load_state_dict(other.state_dict())
    expected = quantities(unused, case.seed)
    when = "after other parameters were loaded, compared with a prior that nobody has called before"
    require_same(expected, quantities(used, case.seed), when)
    return "parameters loaded after a first call"


@STATE.add("saving and loading its state gives the same prior", after=[calls.name, follows.name])
def saved(case: PriorCase) -> str:
    prior, other = case.build(seed=0), case.build(seed=1)
    require_saved({"prior": prior}, {"prior": other}, lambda modules: quantities(modules["prior"], case.seed))
    return f"{len(prior.state_dict())} tensors, weights_only"


@STATE.add("a copy shares nothing with its original", after=[calls.name])
def copied(case: PriorCase) -> str:
    require_copied({"prior": case.build()}, lambda modules: quantities(modules["prior"], case.seed))
    return "copy.deepcopy"


@STATE.add("arithmetic is in the dtype of the parameters: float64 stays float64")
@torch.no_grad()
def own_dtype(case: PriorCase) -> str:
    prior = case.build(3, 3)
    z, _ = prior.sample(40)
    single = bool((z == z.float().double()).all())
    require(not single, "sample(): float64 samples hold float32 numbers: make noise in the dtype of the parameters")

    def values(at: Tensor) -> dict[str, Tensor]:
        heads = torch.full_like(at, 0.3)
        of_points = {name: formula() for name, formula in formulas(prior, at).items()}
        of_points["input_map"] = prior.input_map(at)
        return {**of_points, "log q(z|x)": prior.encoder_distribution(heads, heads).log_prob(at)}

    start = values(z)
    tiny, small = values(z * (1 + TINY)), values(z * (1 + SMALL))
    names = [f"{name} of z" for name in start]
    changes = list(zip(names, start.values(), tiny.values(), small.values(), strict=True))
    for key, parameter in trained(prior).items():
        before = parameter.detach().clone()
        moved = []
        for step in (TINY, SMALL):
            parameter.copy_(before * (1 + step))
            moved.append(values(z))
        parameter.copy_(before)
        names = [f"{name} of {key}" for name in start]
        changes += zip(names, start.values(), moved[0].values(), moved[1].values(), strict=True)
    for what, before, after_tiny, after_small in changes:
        reacts = (after_small - before).abs() > 1e-4 * (1 + before.abs())
        lost = reacts & (after_tiny == before)
        require(
            int(lost.sum()) * 2 <= int(reacts.sum()) or not bool(reacts.any()),
            f"float64 {what.replace(' of ', ' as a function of ')} does not change when that is multiplied by "
            f"1 + {TINY:g}: it is computed in float32; take the dtype from the parameters",
        )
    return f"float64, changes of {TINY:g}"
