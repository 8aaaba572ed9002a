"""What made a volume, as its output says: for the files that name their maker; and which of its volumes is exported."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from engine.errors import VolumeError
from engine.storage import arrays
from engine.storage.output import LABELS
from engine.storage.record import KEY

NAME = "haloengine"


@dataclass(frozen=True, slots=True)
class Maker:
    """The engine and the model that computed a volume."""

    version: str
    """Of the engine: the one that ran, or else this one."""
    fingerprint: str = ""
    """SHA-256 of the model; empty where it is not known."""
    source: str = ""
    """The volume that the model ran on, whatever way it was read; empty where it is not known."""

    @property
    def told(self) -> str:
        """A line for a file's header.

        >>> Maker("0.1.0", "c0ffee" * 10).told
        'haloengine 0.1.0, model c0ffeec0ffee'
        """
        return f"{NAME} {self.version}" + (f", model {self.fingerprint[:12]}" if self.fingerprint else "")


def maker_of(url: str) -> Maker:
    """Return what made a volume, by the provenance of the output around it; the engine alone where there is none."""
    place = arrays.local_path(url).split("#", maxsplit=1)[0]
    for _ in range(2):
        place = place.rpartition("/")[0]
        own = _attributes(place).get(KEY, {}) if place else {}
        if "plan" in own:
            model, source = own["plan"].get("model", {}), own["plan"].get("source", {}).get("url", "")
            ran = own.get("engine", _version())
            return Maker(ran, model.get("fingerprint", ""), source.split("#", maxsplit=1)[0])
    return Maker(_version())


def label_map_of(url: str) -> str:
    """Return the URL of an output's first label map, or ``url`` itself where it is no output.

    Raises:
        VolumeError: If it is an output without a label map.
    """
    attributes = _attributes(url)
    if "plan" not in attributes.get(KEY, {}):
        return url
    place = arrays.local_path(url)
    names = _attributes(f"{place}/{LABELS}").get("ome", {}).get("labels", ())
    if names:
        return f"{place}/{LABELS}/{names[0]}"
    others = ", ".join(f"'{place}/{path}'" for path in attributes[KEY].get("paths", {}).values())
    raise VolumeError(f"a label map is wanted, and the output '{url}' has none. Name one of its volumes: {others}.")


def _attributes(url: str) -> Mapping[str, Any]:
    """Return the attributes of a Zarr node; none where there is none."""
    try:
        return dict(arrays.open_node(url).attrs)
    except VolumeError:
        return {}


def _version() -> str:
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "unknown"
