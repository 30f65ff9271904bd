"""Networks without buffers, such as those with attention and no normalisation: a whole life of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mpcc.core.commands import entry
from mpcc.core.storage.checkpoint import load_checkpoint

PLUGIN = """
import torch
from torch import nn
from mpcc.core.contracts import Architecture, Networks
from mpcc.core.hookspecs import hookimpl


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens):
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2)
        return tokens + torch.softmax(scores / 2, -1) @ self.value(tokens)


class Generator(nn.Module):
    def __init__(self, clusters, latent_dim, channels):
        super().__init__()
        self.shape, self.label = (channels, 8, 8), nn.Embedding(clusters, 16)
        self.entry, self.attention = nn.Linear(latent_dim, 16), Attention(4)
        self.exit = nn.Linear(16, channels * 64)

    def forward(self, z, y):
        hidden = self.attention((self.entry(z) + self.label(y)).view(-1, 4, 4)).flatten(1)
        return torch.tanh(self.exit(hidden)).view(-1, *self.shape)


class Trunk(nn.Module):
    def __init__(self, channels, outputs):
        super().__init__()
        self.attention, self.exit = Attention(8), nn.Linear(64 * channels, outputs)

    def forward(self, x):
        return self.exit(self.attention(x.flatten(1, 2)).flatten(1))


class Discriminator(Trunk):
    def forward(self, x):
        return super().forward(x).squeeze(1)


class Encoder(Trunk):
    def forward(self, x):
        return super().forward(x).chunk(2, 1)


class Attending(Architecture):
    image_size = 8

    def __init__(self, options=None):
        pass

    def build(self, clusters, latent_dim, channels):
        return Networks(
            Generator(clusters, latent_dim, channels), Discriminator(channels, 1), Encoder(channels, 2 * latent_dim)
        )


@hookimpl
def register_architectures(register):
    register("attending", "attending_without_buffers:Attending", summary="attention without normalisation")
"""
TINY = [
    *("--arch=attending", "--batch=10", "--latent-dim=3", "--d-steps=1", "--e-steps=1", "--eval-every=2"),
    *("--eval-images=60", "--standing-passes=1", "--device=cpu", "--iterations=2", "--ema-start=0"),
]


def succeeds(function: Callable[[list[str]], None], *words: str | Path) -> None:
    with pytest.raises(SystemExit) as caught:
        function([str(word) for word in words])
    assert caught.value.code == 0


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_networks_without_buffers_are_trained_resumed_evaluated_and_used(tmp_path: Path, engine: str) -> None:
    plugin, folder = tmp_path / "plugin" / "attending_without_buffers.py", tmp_path / "run"
    plugin.parent.mkdir()
    plugin.write_text(PLUGIN.replace("attending_without_buffers", f"attending_{engine}"), encoding="utf-8")
    plugin = plugin.rename(plugin.with_name(f"attending_{engine}.py"))
    succeeds(entry.run_main, *TINY, f"--engine={engine}", "--plugin", plugin, "--out", folder)
    succeeds(entry.run_main, "--resume", folder, "--iterations=4")
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    averaged, live = (state["parts"][part] for part in ("averaged_generator", "generator"))
    assert state["iteration"] == 4
    assert any((averaged[name] != live[name]).any() for name in live)
    succeeds(entry.main, "evaluate", folder)
    succeeds(entry.main, "predict", folder)
