"""Feature extractors: the standard Inception network of torch-fidelity, or the user's own, by name."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mpcc.core.contracts import FeatureRequest
from mpcc.core.errors import InvalidInput

__all__ = ["Extractor", "Features", "check_extractor", "load_extractor", "require_torch_fidelity"]

# How many images pass through an extractor at once. At 299x299 pixels, more would take gigabytes.
FEATURE_BATCH = 64
# The first layer's and the last layer's shapes tell Inception's weights from other files.
FIRST, LAST = ("Conv2d_1a_3x3.conv.weight", (32, 3, 3, 3)), ("fc.weight", (1008, 2048))


@attrs.frozen(eq=False)
class Features:
    """The output of an extractor for n images.

    Attributes:
        values: float64, shape (n, F), on the CPU.
        logits: float64, shape (n, classes), on the CPU, or None if the extractor has no classes.
    """

    values: Tensor
    logits: Tensor | None


@attrs.frozen(eq=False)
class Extractor:
    """A feature extractor that is ready to be called.

    Attributes:
        call: uint8 images, shape (n, D, R, R), on the device, to features (n, F) or (features, logits).
        device: The device on which it computes.
        described: Its description in errors, e.g. ``--features module:name``.
        record: Its entry in ``results.json``.
    """

    call: Callable[[Tensor], Any]
    device: torch.device
    described: str
    record: dict[str, object]

    @torch.no_grad()
    def extract(self, batches: Iterable[Tensor]) -> Features:
        """Return the features of images, uint8, (n, D, R, R), that come in batches.

        Raises:
            InvalidInput: If the extractor fails, or its output does not fit its contract.
        """
        outputs = [self._checked(images) for batch in batches for images in torch.split(batch, FEATURE_BATCH)]
        widths = {(values.shape[1], None if logits is None else logits.shape[1]) for values, logits in outputs}
        if len(widths) > 1:
            raise InvalidInput(
                f"{self.described}: expected equally many features for every batch, got {sorted(map(str, widths))}"
            )
        logits_of_parts = [logits for _, logits in outputs if logits is not None]
        values = torch.cat([part for part, _ in outputs])
        return Features(values, torch.cat(logits_of_parts) if logits_of_parts else None)

    def _checked(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        try:
            output = self.call(images.to(self.device))
        except InvalidInput:
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            raise InvalidInput(
                f"{self.described}: it raised {type(error).__name__}: {text} (for uint8 images {tuple(images.shape)})"
            ) from error
        parts = output if isinstance(output, tuple) else (output,)
        if len(parts) not in (1, 2):
            raise InvalidInput(f"{self.described}: expected features, or (features, logits), got {len(parts)} values")
        checked: list[Tensor | None] = []
        for what, part in zip(("features", "logits"), parts, strict=False):
            if not isinstance(part, Tensor):
                raise InvalidInput(f"{self.described}: expected {what} as a tensor, got {type(part).__name__}")
            if part.dim() != 2 or len(part) != len(images) or part.shape[1] < 1:
                raise InvalidInput(
                    f"{self.described}: expected {what} of shape ({len(images)}, F), one row an image, "
                    f"got {tuple(part.shape)}"
                )
            if not bool(torch.isfinite(part).all()):
                raise InvalidInput(f"{self.described}: expected finite {what}, got nan or infinity")
            checked.append(part.detach().cpu().double())
        values, logits = (*checked, None)[:2]
        assert values is not None
        return values, logits


def check_extractor(request: FeatureRequest) -> None:
    """Check that the extractor is available; with ``download``, fetch the weights of the standard one.

    Raises:
        InvalidInput: If it is not; the message names the remedies.
    """
    if request.extractor is not None:
        find_by_name(request.extractor)
        return
    require_torch_fidelity("the standard feature extractor")
    check_weights(weights_file(request))


def load_extractor(request: FeatureRequest, device: torch.device) -> Extractor:
    """Return the extractor that was asked for, on a device.

    Raises:
        InvalidInput: If it is not available; the message names the remedies.
    """
    if request.extractor is not None:
        name = request.extractor
        return Extractor(instantiated(name, device), device, f"--features {name}", {"extractor": name})
    require_torch_fidelity("the standard feature extractor")
    path = weights_file(request)
    check_weights(path)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Published Inception scores are made of "logits_unbiased".
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(path)).to(device)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise InvalidInput(
            f"feature weights {path}: they do not fit torch-fidelity's Inception network: {text}"
        ) from error

    def standard(images: Tensor) -> Any:
        if images.shape[1] not in (1, 3):
            raise InvalidInput(
                f"the standard feature extractor takes images with 1 or 3 channels, got {images.shape[1]}: "
                "choose another one with --features module:name"
            )
        # Inception takes three channels: grey images are repeated.
        return network(images.expand(-1, 3, -1, -1).contiguous())

    record: dict[str, object] = {
        "extractor": "inception-v3-compat of torch-fidelity",
        "torch_fidelity": metadata.version("torch-fidelity"),
        "weights": path.name,
        "weights_sha256": digest(path),
    }
    return Extractor(standard, device, f"Inception with {path}", record)


def require_torch_fidelity(what: str) -> None:
    """Check that torch-fidelity is installed.

    Raises:
        InvalidInput: If it is not.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise InvalidInput(f'{what} needs torch-fidelity, which is not installed: pip install "mpcc[features]"')


def weights_file(request: FeatureRequest) -> Path:
    """Return the file with the standard network's weights: the one that was given, or torch.hub's copy.

    Raises:
        InvalidInput: If it is not there, and may not or cannot be fetched.
    """
    if request.weights is not None:
        if not request.weights.is_file():
            raise InvalidInput(f"--feature-weights {request.weights}: no such file")
        return request.weights
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    name = str(URL_INCEPTION_V3).rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    if not request.download:
        raise InvalidInput(
            f"the weights of the standard feature extractor are not there: {path}; give their file with "
            "--feature-weights PATH, fetch them with --download, or choose another extractor with "
            "--features module:name"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The file's name ends in the first digits of its SHA-256.
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), Path(name).stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as error:
        raise InvalidInput(
            f"--download: cannot fetch {URL_INCEPTION_V3} to {path}: {error}; give the file with --feature-weights PATH"
        ) from error
    return path


def check_weights(path: Path) -> None:
    """Check that a file holds Inception's weights and nothing that could run.

    torch-fidelity itself would run the code that a pickle in the file names.

    Raises:
        InvalidInput: If it does not.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises errors of many types for a broken file; all mean the same to the user.
        cause = " ".join(str(error).split()).partition(". ")[0][:200]
        raise InvalidInput(f"feature weights {path}: cannot be read as weights ({cause})") from error
    for name, shape in (FIRST, LAST):
        weight = state.get(name) if isinstance(state, dict) else None
        if not isinstance(weight, Tensor) or tuple(weight.shape) != shape:
            raise InvalidInput(
                f"feature weights {path}: expected those of torch-fidelity's Inception network, with {name} "
                f"of shape {shape}"
            )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_by_name(name: str) -> Any:
    """Return the function or class that ``module:name`` names.

    Raises:
        InvalidInput: If there is no such module or name, or it cannot be called.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or ":" in attribute:
        raise InvalidInput(f"--features {name}: expected module:name, such as my_features:extract")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        text = " ".join(str(error).split())
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        hint = "; expected a module on the path: install it, set PYTHONPATH, or give its file with --plugin"
        raise InvalidInput(
            f"--features {name}: cannot import {module_name}: {type(error).__name__}: {text}{hint if missing else ''}"
        ) from error
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, dir(module), n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InvalidInput(f"--features {name}: module {module_name} has no {attribute!r}{hint}")
    extractor = getattr(module, attribute)
    if not callable(extractor):
        raise InvalidInput(
            f"--features {name}: expected a function, or a class without arguments, got {type(extractor).__name__}"
        )
    return extractor


def instantiated(name: str, device: torch.device) -> Callable[[Tensor], Any]:
    """Return the extractor that ``module:name`` names, as a function on a device.

    Raises:
        InvalidInput: As `find_by_name` does, or if a class cannot be instantiated.
    """
    extractor = find_by_name(name)
    if inspect.isclass(extractor):
        try:
            extractor = extractor()
        except Exception as error:
            text = " ".join(str(error).split())
            raise InvalidInput(
                f"--features {name}: a class must work without arguments: {type(error).__name__}: {text}"
            ) from error
    if not callable(extractor):
        raise InvalidInput(f"--features {name}: an instance of {type(extractor).__name__} cannot be called")
    call: Callable[[Tensor], Any] = extractor.to(device).eval() if isinstance(extractor, nn.Module) else extractor
    return call
