"""Everything the engine knows of a model's shape: one axis program per space axis, and what comes out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from engine.geometry.receptive_field import AxisProgram
from engine.geometry.resampling import Order
from engine.geometry.windows import Windows


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One named output of a model."""

    name: str
    n_channels: int | None
    """Channels, or None where the output has no channel axis (a label map)."""
    dtype: str
    """Name of the NumPy dtype that holds it: float32, uint8, ..."""


@dataclass(frozen=True)
class Canvas:
    """A network that does not paint the outputs itself, but a canvas on a grid of its own, over which they are made.

    source   --before-->  --resampled-->  network's grid: tiles or windows  --painted-->  canvas
    outputs  <--after--   <--resampled--  <-----------------------------------------------'
    """

    network: "ModelGeometry"
    """Of the network on its own grid: one output, as large as its input."""
    windows: Windows | None
    """The sliding window that it is shown; None for tiles that equal the whole."""
    spacing: tuple[float | None, ...] | None
    """Step of its grid per space axis, None where it is the source's; None where there is no other grid."""
    order: Order = "linear"
    """How the source is brought to its grid."""
    back: Order = "linear"
    """How the canvas is brought back."""

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON values."""
        return {
            "network": self.network.to_json(),
            "windows": None if self.windows is None else self.windows.to_json(),
            "spacing": None if self.spacing is None else list(self.spacing),
            "order": self.order,
            "back": self.back,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_json` wrote."""
        return cls(
            network=ModelGeometry.from_json(value["network"]),
            windows=None if value["windows"] is None else Windows.from_json(value["windows"]),
            spacing=None if value["spacing"] is None else tuple(value["spacing"]),
            order=value["order"],
            back=value["back"],
        )


@dataclass(frozen=True)
class ModelGeometry:
    """What a model needs and gives, learnt from the model itself."""

    programs: tuple[AxisProgram, ...]
    """One per space axis, in storage order."""
    outputs: tuple[OutputTensor, ...]
    n_channels: int
    """Channels of the input."""
    evidence: Literal["proved", "probed"]
    """Proved by the trace of its graph, or only probed by running it."""
    n_batch: int | None = None
    """The one batch size of a program exported with static shapes; None where any will do."""
    canvas: Canvas | None = None
    """What lies between source and outputs, where the network does not see the source itself."""

    @property
    def contract(self) -> Literal["exact", "windowed"]:
        """What the result equals: one pass over the whole volume, or a fixed sliding window over it."""
        return "windowed" if self.canvas is not None and self.canvas.windows is not None else "exact"

    @property
    def n_space(self) -> int:
        """Space axes of the input."""
        return len(self.programs)

    @property
    def steps(self) -> tuple[int, ...]:
        """Step of each space axis: tiles start on its multiples."""
        return tuple(program.step for program in self.programs)

    def to_json(self) -> dict[str, Any]:
        """Return this geometry as JSON values."""
        return {
            "programs": [program.to_json() for program in self.programs],
            "outputs": [asdict(output) for output in self.outputs],
            "n_channels": self.n_channels,
            "evidence": self.evidence,
            "n_batch": self.n_batch,
            "canvas": None if self.canvas is None else self.canvas.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the geometry that :meth:`to_json` wrote."""
        return cls(
            programs=tuple(AxisProgram.from_json(program) for program in value["programs"]),
            outputs=tuple(OutputTensor(**output) for output in value["outputs"]),
            n_channels=value["n_channels"],
            evidence=value["evidence"],
            n_batch=value["n_batch"],
            canvas=Canvas.from_json(value["canvas"]) if value.get("canvas") else None,
        )
