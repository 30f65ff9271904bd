"""The contract kit: checks for authors of plugins, each one line of pytest.

A plugin's test is::

    from mpcc.core.testing import check_prior
    from my_package import MyOptions, MyPrior

    def test_contract() -> None:
        check_prior(MyPrior, MyOptions())

A check examines every law of `mpcc.core.contracts`, returns a `Report` of what it measured, and raises
`ContractViolation`, an ``AssertionError``, if a law is broken. ``mpcc plugins check NAME`` prints the same report. All
random states are left as they were.
"""

from __future__ import annotations

from mpcc.core.testing.checks import (
    check_architecture,
    check_dataset,
    check_metric,
    check_objective,
    check_prior,
    examine,
)
from mpcc.core.testing.report import ContractViolation, Finding, Report

__all__ = [
    "ContractViolation",
    "Finding",
    "Report",
    "check_architecture",
    "check_dataset",
    "check_metric",
    "check_objective",
    "check_prior",
    "examine",
]
