"""One space axis as the model sees it: the volume, what its edge adds, and what is kept of each output."""

from dataclasses import dataclass
from fractions import Fraction

from engine.errors import PlanError
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.nodes import Opaque
from engine.geometry.receptive_field import AxisProgram


@dataclass(frozen=True, slots=True)
class Extent:
    """One space axis as the model sees it: the volume, what its edge adds, and what is kept of each output."""

    size: int
    """Voxels of the volume."""
    before: int
    """Voxels added before it by the edge; a multiple of the step."""
    extended: int
    """Voxels in all: a length that the model can take. The whole run is the model over these."""
    crops: tuple[tuple[str, int], ...]
    """Per output, the first voxel of the whole run that is kept."""
    kept: tuple[tuple[str, int], ...]
    """Per output, how many voxels are kept: its size on this axis."""

    @property
    def far_extension(self) -> int:
        """Voxels added after the volume."""
        return self.extended - self.before - self.size


def extend(program: AxisProgram, edge: Edge, *, size: int, name: str) -> Extent:
    """Return the axis as the model will see it under ``edge``.

    Raises:
        PlanError: If the edge cannot be kept: a periodic axis whose size the step does not divide,
            or no legal length is near.
    """
    if size < 1:
        raise PlanError(f"axis '{name}' must have at least one voxel, not {size}. Check the source.")
    if edge.kind is not EdgeKind.MODEL and program.is_around:
        raise PlanError(
            f"axis '{name}' must have the edge 'model', not '{edge.kind}': the model crosses the poles in its layers, "
            f"and takes what lies beyond them from all along it. Leave --edge {name} out."
        )
    if edge.kind is EdgeKind.MODEL:
        extended = _legal(program, size, name=name)
        sizes = program.sizes(extended) or {}
        kept = {o: min(n, _ceil(size * program.scale(o))) if extended > size else n for o, n in sizes.items()}
        return Extent(size, 0, extended, tuple((o, 0) for o in sizes), tuple(kept.items()))
    if edge.kind is EdgeKind.WRAP and size % program.step:
        raise PlanError(
            f"axis '{name}' is periodic, so its {size} voxels must be a multiple of the model's step {program.step}: "
            "the network is not equivariant to a turn by one voxel. Regrid it, or use another edge."
        )
    return _surrounded(program, size=size, name=name)


def _surrounded(program: AxisProgram, *, size: int, name: str) -> Extent:
    """Return the axis extended on both sides by as much as the kept outputs need."""
    legal = _legal(program, size, name=name)
    kept, shifts, lows, highs = {}, {}, [0], [size]
    for output, whole in (program.sizes(legal) or {}).items():
        kept[output] = _ceil(size * program.scale(output))
        shifts[output] = max(0, int(legal * program.scale(output) - whole) // 2)
        low, high = program.demand(output, -shifts[output], kept[output] - 1 - shifts[output])
        lows.append(low)
        highs.append(high + 1)
        lows.append(-_ceil(shifts[output] / program.scale(output)))
    before = -(min(lows) // program.step) * program.step
    crops = {output: int(before * program.scale(output)) - shift for output, shift in shifts.items()}
    needed = before + max(highs)
    extended = _legal(program, -(-needed // program.step) * program.step, name=name)
    while any(n < crops[output] + kept[output] for output, n in (program.sizes(extended) or {}).items()):
        extended = _legal(program, extended + 1, name=name)
    return Extent(size, before, extended, tuple(crops.items()), tuple(kept.items()))


def _legal(program: AxisProgram, size: int, *, name: str) -> int:
    legal = program.legal_size(size)
    if legal is None:
        only = next((node.only for node in program.nodes if isinstance(node, Opaque) and node.only), None)
        if only:
            raise PlanError(
                f"axis '{name}' has {size} voxels, and the model was exported for one shape: it takes {only} voxels "
                "only. Export it with dynamic shapes, or give its Python factory and weights."
            )
        raise PlanError(
            f"axis '{name}' needs a length that the model can take, and none comes after {size} "
            f"(step {program.step}). Check the model at this size, or crop the source."
        )
    return legal


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
