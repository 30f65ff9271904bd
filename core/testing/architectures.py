"""Laws of an architecture: shapes and ranges, gradients, independence of images in a batch, state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mpcc.core.contracts import Architecture, Networks
from mpcc.core.errors import InvalidInput
from mpcc.core.testing.module_state import require_same, require_state_complete, require_trained, through_file
from mpcc.core.testing.report import Law, broken, law, require

__all__ = ["ARCHITECTURE_LAWS", "ArchitectureCase"]

# K and J; an architecture may refuse some with an InvalidInput, such as J that it cannot divide.
SIZES = ((3, 8), (1, 1), (7, 5), (4, 60), (10, 128))
# Differences of one image computed alone and in a batch: rounding only.
COMPANY = 1e-4


@attrs.frozen
class ArchitectureCase:
    """An architecture's class and options: builds what the laws look at.

    Attributes:
        cls: The class under test.
        options: Its options.
        seed: Of everything random.
    """

    cls: Callable[[Any], Architecture]
    options: Any
    seed: int

    def make(self) -> Architecture:
        """Make the architecture."""
        return self.cls(self.options)

    def depths(self) -> tuple[int, ...]:
        """Return numbers of channels that it takes."""
        given = self.make().channels
        return (1, 3) if given is None else tuple(given)

    def build(self, clusters: int, latent_dim: int, channels: int, seed: int = 0) -> Networks:
        """Build networks; ``seed`` is added to the kit's."""
        torch.manual_seed(self.seed + seed)
        return self.make().build(clusters, latent_dim, channels)

    def size(self) -> tuple[int, int, int]:
        """Return K, J and D of the first networks that it builds."""
        for clusters, latent_dim in SIZES:
            try:
                self.build(clusters, latent_dim, self.depths()[0])
            except InvalidInput:
                continue
            return clusters, latent_dim, self.depths()[0]
        raise AssertionError("the essential law has built networks")

    def networks(self, seed: int = 0, training: bool = False) -> Networks:
        """Build networks of `size` in one mode."""
        found = self.build(*self.size(), seed)
        for part in parts(found).values():
            part.train(training)
        return found

    def inputs(self, count: int, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, y and images of `size`."""
        clusters, latent_dim, channels = self.size()
        size = self.make().image_size
        y = torch.arange(count) % clusters
        images = torch.rand(count, channels, size, size) * 2 - 1
        return torch.randn(count, latent_dim).to(device), y.to(device), images.to(device)


def parts(networks: Networks) -> dict[str, nn.Module]:
    """Return the three networks by name."""
    return {name: getattr(networks, name) for name in ("generator", "discriminator", "encoder")}


def labels(networks: Networks, y: Tensor) -> tuple[Tensor, ...]:
    """Return what the discriminator takes beside images: ``y``, or nothing."""
    return (y,) if networks.conditional else ()


def outputs(networks: Networks, z: Tensor, y: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Return what the three networks give; a conditional discriminator takes ``y`` with the images."""
    scores = networks.discriminator(images, *labels(networks, y))
    found: Mapping[str, Tensor] = {"images": networks.generator(z, y), "scores": scores}
    loc, raw_scale = networks.encoder(images)
    return {**found, "loc": loc, "raw_scale": raw_scale}


@law("it is an Architecture that says its image size and channels and builds three networks", essential=True)
def builds(case: ArchitectureCase) -> str:
    made = case.make()
    require(isinstance(made, Architecture), f"expected a subclass of Architecture, got {type(made).__name__}")
    size = made.image_size
    require(type(size) is int and size > 0, f"image_size: expected a positive whole number, got {size!r}")
    depths = case.depths()
    require(
        bool(depths) and all(type(depth) is int and depth > 0 for depth in depths),
        f"channels: expected positive whole numbers or None, got {made.channels!r}",
    )
    built, refused = [], []
    for clusters, latent_dim in SIZES:
        for channels in depths:
            words = f"K={clusters}, J={latent_dim}, D={channels}"
            try:
                networks = case.build(clusters, latent_dim, channels)
            except InvalidInput as error:
                refused.append(f"{words} ({error})")
                continue
            require(isinstance(networks, Networks), f"{words}: expected Networks, got {type(networks).__name__}")
            for name, part in parts(networks).items():
                require(isinstance(part, nn.Module), f"{words}: {name} is {type(part).__name__}, not a module")
            built.append(words)
    require(bool(built), f"it refuses every size that was tried: {'; '.join(refused)}")
    words = f"{size}x{size}, {len(built)} sizes such as {built[0]} and {built[-1]}"
    return f"{words}{'; refused: ' if refused else ''}{'; '.join(refused)}"


def check_outputs(case: ArchitectureCase, device: torch.device) -> None:
    made = case.make()
    for clusters, latent_dim in SIZES[:4]:
        for channels in case.depths():
            try:
                networks = case.build(clusters, latent_dim, channels)
            except InvalidInput:
                continue
            z = 3 * torch.randn(4, latent_dim, device=device)
            y = (torch.arange(4) % clusters).to(device)
            shape = (4, channels, made.image_size, made.image_size)
            images = torch.rand(shape, device=device) * 2 - 1
            expected = {"images": shape, "scores": (4,), "loc": (4, latent_dim), "raw_scale": (4, latent_dim)}
            for training in (True, False):
                at = f"K={clusters}, J={latent_dim}, D={channels}, {'training' if training else 'evaluation'} mode"
                for part in parts(networks).values():
                    part.to(device).train(training)
                for name, value in outputs(networks, z, y, images).items():
                    found = tuple(value.shape)
                    require(found == expected[name], f"{at}: {name}: expected shape {expected[name]}, got {found}")
                    require(value.dtype == torch.float32, f"{at}: {name}: expected float32, got {value.dtype}")
                    require(value.device == device, f"{at}: {name}: expected device {device}, got {value.device}")
                    require(bool(torch.isfinite(value).all()), f"{at}: {name} is not finite")
                    if name == "images":
                        top = float(value.abs().max())
                        require(top <= 1, f"{at}: images reach {top:.4g}, expected at most 1 in size")
                        require(float(value.std()) > 0, f"{at}: all pixels of the images are equal")


@law("shapes, dtypes and devices are those of the contract; images lie in [-1, 1]")
@torch.no_grad()
def shapes(case: ArchitectureCase) -> str:
    check_outputs(case, torch.device("cpu"))
    if not torch.cuda.is_available():
        return "float32, training and evaluation mode, CPU; no CUDA device here"
    check_outputs(case, torch.device("cuda", torch.cuda.current_device()))
    return "float32, training and evaluation mode, CPU and CUDA"


@law("every parameter is trained; what is fixed is a buffer")
def parameters_trained(case: ArchitectureCase) -> str:
    return require_trained(parts(case.networks()))


@law("every parameter of a network gets a finite gradient from what the network gives")
def reached(case: ArchitectureCase) -> str:
    # A parameter counts as reached if it is in one of three networks: rectifiers may be dead in narrow ones.
    dead: list[set[str]] = []
    for seed in range(3):
        networks = case.networks(seed)
        dead.append(unreached(networks, *case.inputs(2 * max(3, case.size()[0]))))
        if not set.intersection(*dead):
            break
    never = sorted(set.intersection(*dead))
    require(not never, f"the gradient is 0 in {', '.join(never)}")
    return ", ".join(f"{name} {sum(1 for _ in part.parameters())}" for name, part in parts(networks).items())


def unreached(networks: Networks, z: Tensor, y: Tensor, images: Tensor) -> set[str]:
    """Return the names of parameters whose gradient is 0.

    In evaluation mode: in training mode a bias in front of a batch norm has the gradient 0.
    """
    zero = set()
    found = outputs(networks, z, y, images)
    # Random weights: in the hinge loss the last bias of a discriminator cancels.
    sums = {name: (value * torch.randn_like(value)).sum() for name, value in found.items()}
    sums["loc"] = sums["loc"] + sums.pop("raw_scale")
    for (name, part), total in zip(parts(networks).items(), sums.values(), strict=True):
        parameters = dict(part.named_parameters())
        chosen = {key: parameter for key, parameter in parameters.items() if parameter.requires_grad}
        require(total.requires_grad, f"the {name} has no gradient at all")
        gradients = torch.autograd.grad(total, list(chosen.values()), allow_unused=True, retain_graph=True)
        for key, gradient in zip(chosen, gradients, strict=True):
            if gradient is None:
                broken(f"{name}.{key} gets no gradient: it is never used")
            require(bool(torch.isfinite(gradient).all()), f"{name}.{key}: its gradient is not finite")
            if float(gradient.abs().max()) == 0:
                zero.add(f"{name}.{key}")
    return zero


@law("gradients reach the images and the latents")
def inputs_reached(case: ArchitectureCase) -> str:
    networks = case.networks(training=True)
    z, y, images = case.inputs(6)
    z.requires_grad_()
    images.requires_grad_()
    found = outputs(networks, z, y, images)
    for name, value in found.items():
        source = z if name == "images" else images
        if not value.requires_grad:
            broken(f"{name} has no gradient")
        (gradient,) = torch.autograd.grad(
            (value * torch.randn_like(value)).sum(), source, allow_unused=True, retain_graph=True
        )
        what = "z" if name == "images" else "the images"
        if gradient is None:
            broken(f"{name} has no gradient in {what}")
        require(
            bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0,
            f"the gradient of {name} in {what} is 0 or not finite",
        )
    return "training mode"


@law("scores and encodings of an image do not depend on its company")
@torch.no_grad()
def company(case: ArchitectureCase) -> str:
    # Each forward from the same state: spectral norms may advance in a forward. Dropout is random by design.
    networks = case.networks(training=True)
    for part in (networks.discriminator, networks.encoder):
        for module in part.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
    _, y, images = case.inputs(4)
    worst = 0.0
    for name, given in (("discriminator", (images, *labels(networks, y))), ("encoder", (images,))):
        part = parts(networks)[name]
        together = torch.stack(list(tuple_of(copy.deepcopy(part)(*given)))).transpose(0, 1)
        for index in range(len(images)):
            one = [value[index : index + 1] for value in given]
            alone = torch.stack(list(tuple_of(copy.deepcopy(part)(*one)))).transpose(0, 1)[0]
            off = float((alone - together[index]).abs().max()) / (1 + float(together[index].abs().max()))
            worst = max(worst, off)
            require(
                off < COMPANY,
                f"{name}: an image alone and in a batch of {len(images)} differ by {off:.3g}, allowed {COMPANY:g}: "
                "no batch statistics there",
            )
    return f"training mode, largest difference {worst:.1g}, allowed {COMPANY:g}"


def tuple_of(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return one tensor or several as several."""
    return (value,) if isinstance(value, Tensor) else tuple(value)


@law("the generator reacts to the latent and to the cluster")
@torch.no_grad()
def reacts(case: ArchitectureCase) -> str:
    generator = case.networks().generator
    clusters, latent_dim, _ = case.size()
    z = torch.randn(2, latent_dim)
    first = generator(z[:1], torch.tensor([0]))
    by_latent = float((generator(z[1:], torch.tensor([0])) - first).abs().max())
    require(by_latent > 1e-6, f"another z changes the image by {by_latent:.2g}")
    if clusters == 1:
        return f"another z changes the image by {by_latent:.2g}"
    by_label = float((generator(z[:1], torch.tensor([1])) - first).abs().max())
    require(by_label > 1e-6, f"another y changes the image by {by_label:.2g}")
    return f"another z changes the image by {by_latent:.2g}, another y by {by_label:.2g}"


@law("a discriminator reacts to labels if it says that it is conditional, and takes none otherwise")
@torch.no_grad()
def reacts_to_labels(case: ArchitectureCase) -> str:
    networks = case.networks()
    require(type(networks.conditional) is bool, f"conditional: expected True or False, got {networks.conditional!r}")
    if not networks.conditional:
        return "unconditional"
    _, _, images = case.inputs(4)
    clusters = case.size()[0]
    if clusters == 1:
        return "conditional, one cluster"
    scores = [networks.discriminator(images, torch.full((4,), label)) for label in range(clusters)]
    change = min(float((score - scores[0]).abs().max()) for score in scores[1:])
    require(change > 1e-6, f"another label changes the scores by {change:.2g} only")
    return f"conditional, another label changes the scores by {change:.2g} or more"


@law("saving and loading its state gives the same networks")
@torch.no_grad()
def saved(case: ArchitectureCase) -> str:
    first, other = case.networks(seed=0), case.networks(seed=1)
    inputs = case.inputs(4)
    expected = outputs(first, *inputs)
    for name, part in parts(first).items():
        parts(other)[name].load_state_dict(through_file(part))
    require_same(expected, outputs(other, *inputs), "loaded into networks of another seed")
    require_state_complete(parts(first))
    return "weights_only"


@law("a copy shares nothing with its original")
@torch.no_grad()
def copied(case: ArchitectureCase) -> str:
    networks, inputs = case.networks(), case.inputs(4)
    expected = outputs(networks, *inputs)
    generator, discriminator, encoder = (copy.deepcopy(part) for part in parts(networks).values())
    twin = Networks(generator, discriminator, encoder, networks.conditional)
    require_same(expected, outputs(twin, *inputs), "copy")
    for part in parts(twin).values():
        for parameter in part.parameters():
            parameter.add_(1)
    require_same(expected, outputs(networks, *inputs), "after its copy was changed")
    return "copy.deepcopy"


@law("building is a function of the seed")
def seeded(case: ArchitectureCase) -> str:
    first, second, other = (parts(case.networks(seed)) for seed in (0, 0, 1))
    for name, part in first.items():
        require_same(part.state_dict(), second[name].state_dict(), f"{name} built twice from one seed")
        states = zip(part.state_dict().values(), other[name].state_dict().values(), strict=True)
        require(
            any(not torch.equal(one, two) for one, two in states),
            f"two seeds gave the same {name}: draw from torch's global random state",
        )
    return "torch's global random state"


@law("the generator shares no parameter with the other networks")
def separate(case: ArchitectureCase) -> str:
    networks = case.networks()
    own = {id(parameter): name for name, parameter in networks.generator.named_parameters()}
    shared = 0
    of_discriminator = {id(parameter) for parameter in networks.discriminator.parameters()}
    for name in ("discriminator", "encoder"):
        for key, parameter in parts(networks)[name].named_parameters():
            require(
                id(parameter) not in own,
                f"{name}.{key} is generator.{own.get(id(parameter))}",
            )
            shared += name == "encoder" and id(parameter) in of_discriminator
    return f"discriminator and encoder share {shared}"


ARCHITECTURE_LAWS: tuple[Law[ArchitectureCase], ...] = (
    builds,
    shapes,
    parameters_trained,
    reached,
    inputs_reached,
    company,
    reacts,
    reacts_to_labels,
    saved,
    copied,
    seeded,
    separate,
)
