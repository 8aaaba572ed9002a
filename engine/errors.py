"""What can go wrong, by kind: every error that the engine raises on purpose.

A message has four parts: what was wanted, what came (with its values), where (axis, block,
file), and what to do. The command line prints it as one line and exits with ``exit_code``.
"""

from typing import ClassVar


class EngineError(Exception):
    """The root of all errors that a user can cause or cure."""

    exit_code: ClassVar[int] = 2
    """Exit status of the command line: 2 for a refusal, 1 for a run that did not finish."""


class RegionError(EngineError):
    """A box is malformed, or lies where it must not."""


class AxisError(EngineError):
    """An axis is unknown, doubled, or has a role or spacing that makes no sense."""


class EdgeError(EngineError):
    """An edge rule cannot be kept on this axis."""


class ModelError(EngineError):
    """A model cannot be loaded, cannot be tiled, or gives other outputs than it should."""


class WeightsError(ModelError):
    """Weights are missing, damaged, unsafe to load, or do not fit their module."""


class VolumeError(EngineError):
    """A volume cannot be opened, read, created or written."""


class IngestError(VolumeError):
    """A source file cannot be turned into a volume."""


class MissingError(IngestError):
    """A source file is not there."""


class EmptyError(IngestError):
    """A source file has nothing in it."""


class ResolutionError(IngestError):
    """A slide does not say its micrometre per pixel, or is nowhere as fine as it is wanted."""


class TissueError(EngineError):
    """What is wanted of a slide cannot be found, or is nothing."""


class PlanError(EngineError):
    """A plan would break an invariant, or cannot be made within its limits."""


class LedgerError(EngineError):
    """The record of what is done is missing, damaged, or of another run."""


class LedgerWriteError(LedgerError):
    """The record of what is done cannot be stored, so the run stops; what it says is still true."""

    exit_code: ClassVar[int] = 1


class ResumeError(LedgerError):
    """An output cannot be resumed: its model, plan or source is not the one at hand."""


class RunError(EngineError):
    """A run ended with blocks that are not done."""

    exit_code: ClassVar[int] = 1


class VerifyError(EngineError):
    """Recomputed tiles do not equal what the output holds."""

    exit_code: ClassVar[int] = 1


class CollectionError(EngineError):
    """A collection is named wrongly, or is not the one that its folder holds."""


class UsageError(EngineError):
    """A command or a call has an argument that it cannot take."""
