"""How far apart the pixels of a TIFF are, as far as it says: micrometre per voxel along z, y and x."""

from typing import Any
from xml.etree import ElementTree

_PLAUSIBLE = (0.01, 100.0)
_MICROMETRES = {"pm": 1e-6, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_UNITS = {2: 25400.0, 3: 10000.0}  # TIFF 6.0, ResolutionUnit: inch, centimetre


def steps(file: Any) -> tuple[float | None, float | None, float | None]:  # noqa: ANN401 -- tifffile has no types
    """Return micrometre per voxel along z, y and x; None where the file does not say.

    An OME-TIFF says it in its XML, an ImageJ file by tags and unit, others by their tags. Tags that give
    less than 0.01 or more than 100 micrometre are about paper (72 dots per inch is 353), and say nothing.
    """
    if file.is_ome:
        return _from_ome(file.ome_metadata)
    tags = file.pages[0].tags
    unit = _UNITS.get(int(tags.valueof("ResolutionUnit", 2)))
    depth = None
    if file.is_imagej:
        said = file.imagej_metadata or {}
        unit = _MICROMETRES.get(str(said.get("unit", "")).replace("\\u00B5", "µ")) or unit
        depth = float(said["spacing"]) * unit if "spacing" in said and unit else None
    y, x = (_from_tag(tags.valueof(name), unit) for name in ("YResolution", "XResolution"))
    return depth, y, x


def _from_tag(value: Any, unit: float | None) -> float | None:  # noqa: ANN401
    if unit is None or not isinstance(value, tuple) or not all(value):
        return None
    step = unit * value[1] / value[0]
    return step if _PLAUSIBLE[0] <= step <= _PLAUSIBLE[1] else None


def _from_ome(text: str) -> tuple[float | None, float | None, float | None]:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None, None, None
    pixels = next((node for node in root.iter() if node.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None, None, None
    z, y, x = (_physical(pixels, name) for name in "ZYX")
    return z, y, x


def _physical(pixels: ElementTree.Element, name: str) -> float | None:
    unit = _MICROMETRES.get(pixels.get(f"PhysicalSize{name}Unit", "µm"))
    try:
        return float(pixels.get(f"PhysicalSize{name}", "")) * unit if unit else None
    except ValueError:
        return None
