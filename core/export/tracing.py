"""From a module to a program for any number of rows, in which all that does not depend on the input is a constant.

Spectral norms, the scales of a prior and the constants of its densities are computed once. What is left is plain:
convolutions, products and elementwise functions, which other systems have as well.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node, map_arg

from mpcc.core.errors import InvalidInput

__all__ = ["traced"]

# ONNX writes the logarithm of a logistic function as two functions, and loses what is far out.
DECOMPOSED = {torch.ops.aten.log_sigmoid.default: lambda x: -F.softplus(-x)}


@torch.no_grad()
def traced(module: nn.Module, inputs: Sequence[Tensor], name: str) -> ExportedProgram:
    """Return a module as a program of torch.export whose first dimension, of each input, is free.

    Arguments:
        module: In evaluation mode, without random numbers.
        inputs: Examples, each with at least two rows.
        name: What the program is, for errors.

    Raises:
        InvalidInput: If the module does something that cannot be exported.
    """
    try:
        # torch warns of itself, and torch 2.9 prints the whole program if it fails.
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
            program = export(module, inputs).run_decompositions(DECOMPOSED)
            plain = export(with_constants(program.module(check_guards=False)), inputs)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(
            f"{name} cannot be exported as a program: {type(error).__name__}: {reason} (expected torch operations on "
            "any number of rows, without random draws, as in all built-in plugins; what can be exported is --format "
            "safetensors)"
        ) from error
    for node in plain.graph.nodes:
        # The rest is about the source: its lines, and the folders in which it is on this machine.
        # torch 2.9 needs the stack of modules, be it empty.
        node.meta = {**{key: value for key, value in node.meta.items() if key == "val"}, "nn_module_stack": {}}
    return plain


def export(module: nn.Module, inputs: Sequence[Tensor]) -> ExportedProgram:
    """Return a program with a free first dimension."""
    return torch.export.export(module, tuple(inputs), dynamic_shapes=[{0: Dim.DYNAMIC} for _ in inputs], strict=False)


def with_constants(module: GraphModule) -> GraphModule:
    """Return a graph without inner modules and writes, with a constant for each value that needs no input."""
    graph = module.graph
    known: dict[Node, Any] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = attribute(module, str(node.target))
        elif (
            node.op == "call_function" and all(each in known for each in node.all_input_nodes) and not node.is_impure()
        ):
            arguments = map_arg((node.args, dict(node.kwargs)), lambda each: known[each])
            known[node] = node.target(*arguments[0], **arguments[1])
    for index, (node, value) in enumerate(list(known.items())):
        wanted = any(user not in known for user in node.users)
        if node.op != "call_function" or not wanted or not isinstance(value, Tensor):
            continue
        buffer = f"constant_{index}"
        module.register_buffer(buffer, value.detach().clone(memory_format=torch.contiguous_format))
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(buffer))
    graph.eliminate_dead_code()
    kept = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    used = {name: attribute(module, name) for name in sorted(kept)}
    plain = nn.Module()
    for number, (name, value) in enumerate(used.items()):
        plain.register_buffer(f"value_{number}", value.detach().clone())
        for node in graph.nodes:
            if node.op == "get_attr" and node.target == name:
                node.target = f"value_{number}"
    result = GraphModule(plain, graph)
    result.recompile()
    return result


def attribute(module: nn.Module, path: str) -> Any:
    """Return what a dotted path names."""
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value
