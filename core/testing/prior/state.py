"""Laws on the state of a prior: what building does to the process, what calls do to the prior, what is kept of them."""

from __future__ import annotations

import torch

from mpcc.core.testing.comparison import require_same
from mpcc.core.testing.module_state import require_fair_building, require_known_parameters
from mpcc.core.testing.prior.cases import PriorCase
from mpcc.core.testing.prior.structure import quantities
from mpcc.core.testing.report import Laws

__all__ = ["STATE"]

STATE = Laws[PriorCase]()
# A schedule that a prior counts for itself shows after this many calls.
CALLS = 1000


@STATE.add("building leaves the settings of the process alone, and parameters start in float32")
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


@STATE.add("results follow the parameters: nothing is kept of earlier ones")
def follows(case: PriorCase) -> str:
    used, unused, other = case.start(3, 2), case.start(3, 2), case.build(3, 2, torch.float32, seed=1)
    quantities(used, case.seed)
    for prior in (used, unused):
        prior.load_state_dict(other.state_dict())
    expected = quantities(unused, case.seed)
    when = "after other parameters were loaded, compared with a prior that nobody has called before"
    require_same(expected, quantities(used, case.seed), when)
    return "parameters loaded after a first call"
