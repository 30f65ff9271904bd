"""Laws of an architecture: shapes and ranges, gradients, what is saved and shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mpcc.core.contracts import Architecture, Networks
from mpcc.core.errors import InvalidInput
from mpcc.core.testing.cases import Case
from mpcc.core.testing.comparison import (
    NO_CUDA,
    devices,
    finite,
    gradients,
    largest,
    require_instance,
    require_plugin,
    require_same,
    require_tensor,
)
from mpcc.core.testing.module_state import require_trained, trained
from mpcc.core.testing.report import Laws, require

__all__ = [
    "ARCHITECTURE_LAWS",
    "REACTION",
    "ArchitectureCase",
    "assembled",
    "described",
    "outputs",
    "parameters_trained",
    "random_sum",
    "reacts",
    "with_labels",
]

# K and J; an architecture may refuse some with an InvalidInput, such as J that it cannot divide.
SIZES = ((3, 8), (1, 1), (7, 5), (4, 60), (10, 128))
# Change of an output that counts as a reaction to an input.
REACTION = 1e-6


class ArchitectureCase(Case[Architecture]):
    """An architecture's class and options: builds what the laws look at."""

    def build(self, clusters: int, latent_dim: int, channels: int, seed: int = 0) -> Networks:
        """Build networks; ``seed`` is added to the kit's."""
        torch.manual_seed(self.seed + seed)
        return self.make().build(clusters, latent_dim, channels)

    def attempts(self) -> Iterator[tuple[tuple[int, int, int], Networks | InvalidInput]]:
        """Yield K, J and D, and the networks of that size or why they were refused."""
        channels = self.make().channels
        for clusters, latent_dim in SIZES:
            for depth in (1, 3) if channels is None else channels:
                size = clusters, latent_dim, depth
                try:
                    yield size, self.build(*size)
                except InvalidInput as error:
                    yield size, error

    def size(self) -> tuple[int, int, int]:
        """Return K, J and D of the first networks that it builds."""
        return next(size for size, built in self.attempts() if not isinstance(built, InvalidInput))

    def networks(self, seed: int = 0, training: bool = False) -> Networks:
        """Build networks of `size` in one mode."""
        networks = self.build(*self.size(), seed)
        for part in networks.by_name().values():
            part.train(training)
        return networks

    def inputs(self, count: int, size: tuple[int, int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, y and images for networks of K, J and D, by default those of `size`."""
        clusters, latent_dim, channels = size or self.size()
        pixels = self.make().image_size
        images = torch.rand(count, channels, pixels, pixels) * 2 - 1
        return torch.randn(count, latent_dim), torch.arange(count) % clusters, images


ARCHITECTURE_LAWS = Laws[ArchitectureCase]()


def described(size: tuple[int, int, int]) -> str:
    """Return K, J and D in words."""
    return "K={}, J={}, D={}".format(*size)


def assembled(modules: Mapping[str, nn.Module], like: Networks) -> Networks:
    """Return networks with these modules by name, conditional if ``like`` is."""
    return Networks(modules["generator"], modules["discriminator"], modules["encoder"], like.conditional)


def with_labels(networks: Networks, images: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Return what the discriminator takes: images, and labels if it is conditional."""
    return (images, y) if networks.conditional else (images,)


def outputs(networks: Networks, z: Tensor, y: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Return what the three networks give, by name."""
    scores = networks.discriminator(*with_labels(networks, images, y))
    generated = networks.generator(z, y)
    loc, raw_scale = networks.encoder(images)
    return {"images": generated, "scores": scores, "loc": loc, "raw_scale": raw_scale}


def random_sum(value: Tensor) -> Tensor:
    """Return a sum with random weights: in a plain sum or in the hinge loss, gradients may cancel."""
    return (value * torch.randn_like(value)).sum()


@ARCHITECTURE_LAWS.add(
    "it is an Architecture that says its image size and channels and builds three networks", essential=True
)
def builds(case: ArchitectureCase) -> str:
    architecture = require_plugin(case.make(), Architecture)
    pixels, channels = architecture.image_size, architecture.channels
    require(type(pixels) is int and pixels > 0, f"image_size: expected a positive whole number, got {pixels!r}")
    require(
        channels is None or (bool(channels) and all(type(depth) is int and depth > 0 for depth in channels)),
        f"channels: expected positive whole numbers or None, got {channels!r}",
    )
    accepted, refused = [], []
    for size, built in case.attempts():
        at = described(size)
        if isinstance(built, InvalidInput):
            refused.append(f"{at} ({built})")
            continue
        for name, part in require_instance(at, built, Networks).by_name().items():
            require_instance(f"{at}: {name}", part, nn.Module)
        accepted.append(at)
    require(bool(accepted), f"it refuses every size that was tried: {'; '.join(refused)}")
    summary = f"{pixels}x{pixels}, {len(accepted)} sizes such as {accepted[0]} and {accepted[-1]}"
    return "; refused: ".join(filter(None, (summary, "; ".join(refused))))


def check_outputs(case: ArchitectureCase, device: torch.device) -> None:
    """Check outputs of the smaller sizes in both modes."""
    for size, networks in case.attempts():
        if isinstance(networks, InvalidInput) or size[:2] == SIZES[-1]:
            continue
        z, y, images = (each.to(device) for each in case.inputs(4, size))
        shapes = {"images": images.shape, "scores": (4,), "loc": z.shape, "raw_scale": z.shape}
        for mode in ("training", "evaluation"):
            at = f"{described(size)}, {mode} mode"
            for part in networks.by_name().values():
                part.to(device).train(mode == "training")
            given = outputs(networks, 3 * z, y, images)
            for name, shape in shapes.items():
                require_tensor(f"{at}: {name}", given[name], shape, torch.float32, device)
                require(finite(given[name]), f"{at}: {name} is not finite")
            top = largest(given["images"])
            require(top <= 1, f"{at}: images reach {top:.4g}, expected at most 1 in size")
            require(float(given["images"].std()) > 0, f"{at}: all pixels of the images are equal")


@ARCHITECTURE_LAWS.add("shapes, dtypes and devices are those of the contract; images lie in [-1, 1]", essential=True)
@torch.no_grad()
def shapes(case: ArchitectureCase) -> str:
    for device in devices():
        check_outputs(case, device)
    return f"float32, training and evaluation mode, {'CPU and CUDA' if len(devices()) > 1 else NO_CUDA}"


@ARCHITECTURE_LAWS.add("every parameter is trained; fixed values are buffers")
def parameters_trained(case: ArchitectureCase) -> str:
    return require_trained(case.networks().by_name())


@ARCHITECTURE_LAWS.add("every parameter of a network gets a finite gradient from what the network gives")
def reached(case: ArchitectureCase) -> str:
    # A parameter has to be reached in one of three networks, because narrow ones may have dead rectifiers.
    # They are in evaluation mode, because in training mode a bias in front of a batch norm has the gradient 0.
    unreached: set[str] | None = None
    for seed in range(3):
        networks = case.networks(seed)
        given = outputs(networks, *case.inputs(2 * max(3, case.size()[0])))
        sums = [random_sum(value) for value in given.values()]
        zero = set()
        for (name, part), total in zip(networks.by_name().items(), (sums[0], sums[1], sums[2] + sums[3]), strict=True):
            for key, gradient in gradients(total, trained(part)).items():
                require(finite(gradient), f"{name}.{key}: its gradient is not finite")
                if largest(gradient) == 0:
                    zero.add(f"{name}.{key}")
        unreached = zero if unreached is None else unreached & zero
        if not unreached:
            break
    require(not unreached, f"no gradient reaches {', '.join(sorted(unreached or ()))}")
    return ", ".join(f"{name} {sum(1 for _ in part.parameters())}" for name, part in networks.by_name().items())


@ARCHITECTURE_LAWS.add("gradients reach the images and the latents")
def inputs_reached(case: ArchitectureCase) -> str:
    networks = case.networks(training=True)
    z, y, images = case.inputs(6)
    sources = {"z": z.requires_grad_(), "the images": images.requires_grad_()}
    for name, value in outputs(networks, z, y, images).items():
        source = "z" if name == "images" else "the images"
        gradient = gradients(random_sum(value), sources)[source]
        require(
            finite(gradient) and largest(gradient) > 0,
            f"the gradient of {name} in {source} is missing, 0 or not finite",
        )
    return "training mode"


@ARCHITECTURE_LAWS.add("the generator reacts to the latent and to the cluster")
@torch.no_grad()
def reacts(case: ArchitectureCase) -> str:
    generator = case.networks().generator
    clusters, latent_dim, _ = case.size()
    z = torch.randn(2, latent_dim)
    first = generator(z[:1], torch.tensor([0]))
    changes = {"z": generator(z[1:], torch.tensor([0]))}
    if clusters > 1:
        changes["y"] = generator(z[:1], torch.tensor([1]))
    words = {
        name: f"another {name} changes the image by {largest(image - first):.2g}" for name, image in changes.items()
    }
    for name, image in changes.items():
        require(largest(image - first) > REACTION, words[name])
    return ", ".join(words.values())


@ARCHITECTURE_LAWS.add("a discriminator reacts to labels if it says that it is conditional, and takes none otherwise")
@torch.no_grad()
def reacts_to_labels(case: ArchitectureCase) -> str:
    networks = case.networks()
    require(type(networks.conditional) is bool, f"conditional: expected True or False, got {networks.conditional!r}")
    if not networks.conditional:
        return "unconditional"
    clusters = case.size()[0]
    if clusters == 1:
        return "conditional, one cluster"
    _, _, images = case.inputs(4)
    first, *others = (networks.discriminator(images, torch.full((4,), label)) for label in range(clusters))
    change = min(largest(scores - first) for scores in others)
    require(change > REACTION, f"another label changes the scores by {change:.2g} only")
    return f"conditional, another label changes the scores by {change:.2g} or more"


@ARCHITECTURE_LAWS.add("building is a function of the seed", of_choices=False)
def seeded(case: ArchitectureCase) -> str:
    first, second, other = (case.networks(seed).by_name() for seed in (0, 0, 1))
    for name, part in first.items():
        state, others = part.state_dict(), other[name].state_dict()
        require_same(state, second[name].state_dict(), f"{name} built twice from one seed")
        require(
            any(not torch.equal(tensor, others[key]) for key, tensor in state.items()),
            f"two seeds gave the same {name}: draw from torch's global random state",
        )
    return "torch's global random state"


@ARCHITECTURE_LAWS.add("the generator shares no parameter with the other networks")
def separate(case: ArchitectureCase) -> str:
    generator, discriminator, encoder = case.networks().by_name().items()
    own = {id(parameter): name for name, parameter in generator[1].named_parameters()}
    for name, part in (discriminator, encoder):
        for key, parameter in part.named_parameters():
            require(id(parameter) not in own, f"{name}.{key} is generator.{own.get(id(parameter))}")
    shared = {id(parameter) for parameter in discriminator[1].parameters()}
    return f"discriminator and encoder share {sum(id(each) in shared for each in encoder[1].parameters())}"
