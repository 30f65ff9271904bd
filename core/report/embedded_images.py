"""Images inside a page, within a limit of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping

import attrs
from PIL import Image

from mpcc.core.storage.cluster_images import ClusterImages, Pixels

__all__ = ["KINDS", "EmbeddedCluster", "embedded", "uri"]

KINDS = ("typical", "uncertain", "generated")
# How many images of each kind are embedded, as what: the first way that fits. JPEG at this quality has no visible
# difference at this size; the picture of the cluster beside the page has every pixel.
WAYS = ((8, "PNG"), (8, "JPEG"), (4, "JPEG"))
QUALITY = 90


@attrs.frozen(eq=False)
class EmbeddedCluster:
    """The images of a cluster as addresses that hold them.

    Attributes:
        images: By kind, in the order of `ClusterImages`.
    """

    images: Mapping[str, tuple[str, ...]]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(len(address) for addresses in self.images.values() for address in addresses)


def uri(content: bytes, kind: str) -> str:
    """Return an address that holds a file.

    Example:
        >>> uri(b"GIF89a", "image/gif")
        'data:image/gif;base64,R0lGODlh'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def image_uri(pixels: Pixels, form: str) -> str:
    """Return an address that holds an image, uint8, shape (S, S) or (S, S, 3)."""
    content = io.BytesIO()
    # Pillow ignores what a format does not know.
    Image.fromarray(pixels).save(content, form, quality=QUALITY, subsampling=0, optimize=True)
    return uri(content.getvalue(), f"image/{form.lower()}")


def embedded(clusters: Iterable[ClusterImages], limit: int) -> dict[int, EmbeddedCluster]:
    """Return the images of clusters, as many of each as fit; of very many clusters, only the first ones.

    Arguments:
        clusters: Their images.
        limit: Bytes for all of them.
    """
    wanted, found = list(clusters), dict[int, EmbeddedCluster]()
    for count, form in WAYS:
        found, total = {}, 0
        for cluster in wanted:
            images = {
                kind: tuple(image_uri(pixels, form) for pixels in getattr(cluster, kind)[:count]) for kind in KINDS
            }
            made = EmbeddedCluster(images)
            total += made.size
            if total > limit:
                break
            found[cluster.cluster] = made
        if len(found) == len(wanted):
            break
    return found
