"""Columns as sequences: each horizontal cell's levels, shown for themselves to a network over levels.

    input   (batch, variable x level, *space)      channels: v0 l0, v0 l1, ..., v1 l0, ...; then scalars
    network (cell, level, variable)                one row of these for each cell; scalars are variables, the same at
                                                   all levels
    output  (batch, variable x level, *space)

Any network over levels will do: a recurrent one, attention, a convolution along levels, a perceptron. It sees nothing
of the neighbouring cells, so the halo is zero in the horizontal, by construction: to learn the geometry the network is
not walked through (an LSTM is not in the trace's table); as for :class:`engine.models.patches.Patches` a pointwise
stand-in takes its place, once it was seen that no cell changes another's answer.
"""

from typing import Literal

import torch
from torch import nn

from engine.errors import ModelError
from engine.models.skeleton import in_own_thread, is_skeleton
from engine.models.trial import tried

Order = Literal["top_first", "surface_first"]
"""How levels follow each other: from the top of the atmosphere (or the deepest water's surface) down, or up."""

ORDERS: tuple[Order, ...] = ("top_first", "surface_first")

BATCH_SIZE = 1024
"""Cells in one call of the network, always: how many cells a tile has chooses no kernel. Where a cell stands among
them may still change the last bit of a matrix product."""

_CURE = (
    "it takes cells for the sequence, or a batch's own statistics. Give recurrent and attention layers "
    "batch_first=True, and batch norm its running statistics (eval mode)."
)


class Columns(nn.Module):
    """A network over levels as a module over a grid: (batch, variable x level, *space) to the same kind.

    The network takes (cell, level, variable) and gives (cell, level, variable), whose variables and levels may be
    others, or (cell, feature). Of a tuple, as recurrent layers give it, the first is taken. It is always called on
    exactly ``batch_size`` cells, the last call filled up.

    >>> upward_sums = Columns(nn.Identity(), variables=1, levels=2, order="top_first", network_order="surface_first")
    >>> upward_sums(torch.tensor([1.0, 2.0]).reshape(1, 2, 1)).flatten().tolist()
    [1.0, 2.0]
    """

    stands_in = True

    def __init__(
        self,
        network: nn.Module,
        *,
        variables: int,
        levels: int,
        order: Order,
        network_order: Order | None = None,
        scalars: int = 0,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """Take the network and how its input lies in the channels.

        Args:
            network: Over levels; see above.
            variables: That have levels.
            levels: Of each variable.
            order: In which levels lie in the channels, of the input and of what is given.
            network_order: In which the network wants and gives them; ``order`` where not given.
            scalars: Channels behind the variables that have no levels: surface pressure, latitude.
            batch_size: Cells in one call of the network.

        Raises:
            ModelError: If a number or an order makes no sense.
        """
        super().__init__()
        network_order = order if network_order is None else network_order
        for name, value, least in (
            ("variables", variables, 1),
            ("levels", levels, 1),
            ("scalars", scalars, 0),
            ("batch_size", batch_size, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ModelError(f"Columns needs a whole number of {name} from {least} on, not {value}. Give one.")
        if order not in ORDERS or network_order not in ORDERS:
            raise ModelError(
                f"levels of Columns are in the order {' or '.join(map(repr, ORDERS))}, not '{order}' or "
                f"'{network_order}'. Name one."
            )
        self.network = network
        self.variables, self.levels, self.scalars = variables, levels, scalars
        self.order: Order = order
        self.network_order: Order = network_order
        self.batch_size = batch_size
        self._known: dict[torch.dtype, tuple[int, torch.dtype]] = {}

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return (
            f"variables={self.variables}, levels={self.levels}, scalars={self.scalars}, order={self.order}, "
            f"network_order={self.network_order}, batch_size={self.batch_size}"
        )

    @property
    def n_channels(self) -> int:
        """Channels of the input."""
        return self.variables * self.levels + self.scalars

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the network gives for every cell of ``x`` (batch, channel, *space), in the dtype that it gives.

        Raises:
            ModelError: If the channels are not as many as said, or the network gives something else than columns.
        """
        if x.shape[1] != self.n_channels:
            raise ModelError(
                f"Columns of {self.variables} variables at {self.levels} levels and {self.scalars} scalars needs "
                f"{self.n_channels} channels, not {x.shape[1]}. Choose the variables, or correct the numbers."
            )
        if is_skeleton():
            return self._skeleton(x)
        columns = self.sequences(x)
        n_cells = len(columns)
        filled = torch.cat([columns, columns[-1:].expand(-n_cells % self.batch_size, -1, -1)])
        starts = range(0, len(filled), self.batch_size)
        answers = torch.cat([self.answers(filled[first : first + self.batch_size]) for first in starts])[:n_cells]
        return answers.reshape(len(x), *x.shape[2:], -1).movedim(-1, 1).contiguous()

    def sequences(self, x: torch.Tensor) -> torch.Tensor:
        """Return every cell's column (cell, level, variable), as the network wants them."""
        n_leveled = self.variables * self.levels
        columns = x[:, :n_leveled].reshape(len(x), self.variables, self.levels, *x.shape[2:]).movedim((1, 2), (-1, -2))
        if self.scalars:
            beside = x[:, n_leveled:].movedim(1, -1).unsqueeze(-2).expand(*columns.shape[:-1], -1)
            columns = torch.cat([columns, beside], -1)
        return self._turned(columns.flatten(0, -3))

    def answers(self, columns: torch.Tensor) -> torch.Tensor:
        """Return (cell, channel) for ``columns`` (cell, level, variable): variable by variable where it has levels.

        Raises:
            ModelError: If the network gives neither (cell, level, variable) nor (cell, feature).
        """
        y = self.network(columns)
        y = y[0] if isinstance(y, tuple) else y
        if not isinstance(y, torch.Tensor) or y.dim() not in (2, 3) or len(y) != len(columns):
            got = tuple(y.shape) if isinstance(y, torch.Tensor) else f"a {type(y).__name__}"
            raise ModelError(
                f"the network {self._name} of Columns must give (cell, level, variable) or (cell, feature) for "
                f"{tuple(columns.shape)}, not {got}. Wrap it in a module that does."
            )
        return y if y.dim() == 2 else self._turned(y).transpose(1, 2).flatten(1)

    def _turned(self, columns: torch.Tensor) -> torch.Tensor:
        return columns if self.order == self.network_order else columns.flip(1)

    @property
    def _name(self) -> str:
        return f"'{type(self.network).__name__}'"

    def _skeleton(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the true shape and dtype, whose voxels see exactly their cell."""
        if x.dtype not in self._known:
            shape = (self.batch_size, self.levels, self.variables + self.scalars)
            self._known[x.dtype] = in_own_thread(
                lambda: tried(
                    self.answers, self.network, shape, dtype=x.dtype, device=x.device, item="column", cure=_CURE,
                    what=f"the network {self._name} of Columns",
                )
            )  # fmt: skip
        n_channels, dtype = self._known[x.dtype]
        return x.mean(dim=1, keepdim=True).expand(-1, n_channels, *(-1,) * (x.dim() - 2)).to(dtype)


class AlongLevels(nn.Module):
    """Convolutions over levels, which want (cell, variable, level), as a network of :class:`Columns`.

    >>> AlongLevels(nn.Conv1d(2, 3, 3, padding=1))(torch.zeros(5, 7, 2)).shape
    torch.Size([5, 7, 3])
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """Return (cell, level, variable) for ``columns`` of that kind."""
        found: torch.Tensor = self.layers(columns.transpose(1, 2))
        return found.transpose(1, 2)
