"""What a model folder says of the model beside what it computes: classes, orientation, and what to know."""

from collections.abc import Sequence

from torch import nn


class Card(nn.Identity):
    """A part of a pipeline that changes nothing, and holds what its folder says.

    >>> pipeline = nn.Sequential(Card(class_names=("background", "liver"), orientation="RAS"), nn.ReLU())
    >>> card = card_of(pipeline)
    >>> card.class_names, card.orientation
    (('background', 'liver'), 'RAS')
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str] = (),
        orientation: str | None = None,
        n_channels: int | None = None,
        n_space: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Keep what a folder says.

        Args:
            class_names: Of the labels, or of the output's channels.
            orientation: Where the axes of the scans that it was trained on point to, x first, such as RAS; None where
                it does not say.
            n_channels: Of the input.
            n_space: Axes of space of the input.
            notes: What differs from the tool that wrote the folder, in sentences.
        """
        super().__init__()
        self.class_names = tuple(class_names)
        self.orientation = orientation
        self.n_channels = n_channels
        self.n_space = n_space
        self.notes = tuple(notes)


def card_of(module: nn.Module) -> Card | None:
    """Return the first card of a pipeline."""
    return next((part for part in module.modules() if isinstance(part, Card)), None)
