"""The shadows of the operations that are the engine's own: how its modules that ATen has no word for see space."""

from collections.abc import Mapping
from typing import Any

from engine.geometry.nodes import Pad, Window
from engine.models.operations import image, windowed
from engine.models.shadow import Shadows, Traced


def pad_globe(shadows: Shadows, arguments: Mapping[str, Any], shape: tuple[int, ...]) -> Traced:
    """:class:`engine.models.globe.PadGlobe`: latitude goes on as if reflected, but with columns from all round."""
    source: Traced = arguments["x"]
    amount, nodes = int(arguments["amount"]), list(source.nodes)
    for dimension, mode in ((-2, "reflect"), (-1, "around")):
        axis = source.labels[dimension]
        if not isinstance(axis, int):
            raise shadows.unbounded("pads a globe along what are no axes of space", "Give (batch, channel, lat, lon)")
        nodes[axis] = shadows.add(axis, Pad((nodes[axis],), amount, amount, mode))
    return Traced(source.labels, shape, tuple(nodes))


def fill_nearest(shadows: Shadows, arguments: Mapping[str, Any], shape: tuple[int, ...]) -> Traced:
    """:class:`engine.models.nearest.Nearest`: a window about each voxel, beyond the border of which nothing is."""
    source = image(shadows, {"input": arguments["x"]}, "filling by the nearest voxel")
    reach = int(arguments["reach"])
    return windowed(shadows, source, shape, [Window((n,), 2 * reach + 1, 1, reach, reach) for n in source.nodes])
