"""Everything the engine knows of a model's shape: one axis program per space axis, and what comes out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from engine.geometry.receptive_field import AxisProgram


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One named output of a model."""

    name: str
    n_channels: int | None
    """Channels, or None where the output has no channel axis (a label map)."""
    dtype: str
    """Name of the NumPy dtype that holds it: float32, uint8, ..."""


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
        )
