"""Typed atoms to density grids, as libmolgrid defines them: a module, so that it is the first part of a pipeline.

Of an atom of radius r, at the distance d (Sunseri and Koes 2020, J. Chem. Inf. Model. 60, 1079, with the
gaussian radius multiple G of libmolgrid's ``GridMaker``):

    density = exp(-2 d^2 / r^2)                                              0 <= d <= G r
            = exp(-2 G^2) (4 G^2 d^2/r^2 - (4 G + 8 G^3) d/r + (1 + 2 G^2)^2)    G r < d < (1 + 2 G^2) / (2 G) r
            = 0                                                                beyond

The tail is a parabola that goes on smoothly from the Gaussian and touches zero: its bracket is (2 G d/r - 1 - 2 G^2)^2.
Densities of the atoms of one channel are added up.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from engine.errors import ModelError
from engine.models.atom_types import ATOM_TYPES, GNINA_LIGAND, GNINA_RECEPTOR, N_TYPES, channel_numbers

ATOMS_PER_CHUNK = {"cpu": 512, "cuda": 2**15}
"""Atoms whose voxels are computed at a time: as many as the caches hold, or as keep a GPU busy."""


class Voxeliser(nn.Module):
    """Atoms (batch, 4, atom) to densities (batch, channel, z, y, x).

    Rows of the input are x, y and z in Angstrom from the grid's centre, and the type: a receptor's in [0, 28), a
    ligand's in [28, 56), -1 where there is no atom. Channels are the receptor's, then the ligand's. The voxel in the
    middle of ``n`` lies at the centre; with an even ``n`` the centre lies between voxels, as in libmolgrid, which has x
    first: this grid is its transpose. Only voxels near an atom are computed, a few atoms at a time, so memory is that
    of the grid. No gradient goes back to the atoms.
    """

    def __init__(
        self,
        receptor: Sequence[Sequence[str]] = GNINA_RECEPTOR,
        ligand: Sequence[Sequence[str]] = GNINA_LIGAND,
        *,
        n: int = 48,
        spacing: float = 0.5,
        gaussian_radius_multiple: float = 1.0,
        radius_scale: float = 1.0,
    ) -> None:
        """Take what a grid is made of.

        Args:
            receptor: Per channel the names of its types; see ``atom_types.py``.
            ligand: The same, for the channels that follow.
            n: Voxels per axis.
            spacing: Angstrom from one voxel to the next.
            gaussian_radius_multiple: Radii from an atom at which its tail begins.
            radius_scale: What radii are multiplied with.

        Raises:
            ModelError: If a channel names no type, or a size is not above 0.
        """
        super().__init__()
        if min(n, spacing, gaussian_radius_multiple, radius_scale) <= 0:
            sizes = f"{n=}, {spacing=}, {gaussian_radius_multiple=}, {radius_scale=}"
            raise ModelError(f"a density grid needs sizes above 0, not {sizes}. Give others.")
        theirs = channel_numbers(ligand)
        channel = channel_numbers(receptor) + [number + len(receptor) if number >= 0 else -1 for number in theirs]
        radius = [kind.radius * radius_scale for kind in ATOM_TYPES] * 2
        self.n, self.spacing, self.multiple = n, spacing, gaussian_radius_multiple
        self.n_channels = len(receptor) + len(ligand)
        self.radii = sorted(set(radius))
        self.register_buffer("channel", torch.tensor(channel), persistent=False)
        self.register_buffer("rank", torch.tensor([self.radii.index(r) for r in radius]), persistent=False)
        self.channel: torch.Tensor
        self.rank: torch.Tensor

    @property
    def reach(self) -> float:
        """Radii from an atom at which its density ends."""
        return (1 + 2 * self.multiple**2) / (2 * self.multiple)

    def forward(self, atoms: torch.Tensor) -> torch.Tensor:
        """Return the densities (batch, channel, z, y, x), not negative, of ``atoms`` (batch, 4, atom).

        Raises:
            ModelError: If there are not four rows, or a type is none.
        """
        if atoms.ndim != 3 or atoms.shape[1] != 4:
            raise ModelError(f"atoms must be (batch, 4, atom): x, y, z and type, not {tuple(atoms.shape)}. Stack them.")
        kind = atoms[:, 3].long()
        if atoms.numel() and not -1 <= int(kind.min()) <= int(kind.max()) < 2 * N_TYPES:
            raise ModelError(f"types of atoms must be in [-1, {2 * N_TYPES}), not {atoms[:, 3].max():g}. Correct them.")
        grids = atoms.new_zeros(len(atoms), self.n_channels, self.n, self.n, self.n)
        if atoms.device.type == "cpu" and len(atoms) > 1:
            self._fill_apart(atoms, grids)
        else:
            self._fill(atoms, grids)
        return grids

    def _fill_apart(self, atoms: torch.Tensor, grids: torch.Tensor) -> None:
        """Fill a share of the items in each thread: they are many small steps, and sharing each step costs more."""
        n_threads, is_inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

        def fill(mine: torch.Tensor, to: torch.Tensor) -> None:
            with torch.inference_mode(is_inference), torch.no_grad():
                self._fill(mine, to)

        try:
            with ThreadPoolExecutor(n_threads, "voxels", torch.set_num_threads, (1,)) as pool:
                list(pool.map(fill, atoms.tensor_split(n_threads), grids.tensor_split(n_threads)))
        finally:
            torch.set_num_threads(n_threads)  # it counts for threads yet to come too

    def _fill(self, atoms: torch.Tensor, grids: torch.Tensor) -> None:
        """Add the densities of ``atoms`` (batch, 4, atom) to ``grids`` (batch, channel, z, y, x), in place."""
        kind = atoms[:, 3].long()
        item, atom = torch.nonzero((kind >= 0) & (self.channel[kind] >= 0), as_tuple=True)
        kind = kind[item, atom]
        place = atoms[item, :3, atom] / self.spacing + (self.n - 1) / 2  # in voxels
        grid = item * self.n_channels + self.channel[kind]
        for rank, radius in enumerate(self.radii):
            mine = self.rank[kind] == rank
            self._add(grids.view(-1), place[mine], grid[mine], radius / self.spacing)

    def _add(self, grids: torch.Tensor, place: torch.Tensor, grid: torch.Tensor, radius: float) -> None:
        """Add the densities of atoms of one ``radius``, in voxels, at ``place`` (atom, 3) to their channels."""
        reach = radius * self.reach
        near = ((place > -reach) & (place < self.n - 1 + reach)).all(dim=1)
        place, grid = place[near], grid[near]
        steps = torch.arange(math.floor(2 * reach) + 1, device=place.device)
        chunk = ATOMS_PER_CHUNK.get(place.device.type, ATOMS_PER_CHUNK["cuda"])
        for p, channel in zip(torch.split(place, chunk), torch.split(grid, chunk), strict=True):
            voxels = torch.ceil(p - reach).long()[:, :, None] + steps  # (atom, 3, step)
            squared = ((voxels - p[:, :, None]) / radius).square()
            squared = torch.where((voxels >= 0) & (voxels < self.n), squared, self.reach**2)  # outside is too far
            density = self._density(squared)
            x, y, z = voxels.clamp(0, self.n - 1).unbind(1)
            corner = torch.stack([x, y * self.n, (channel[:, None] * self.n + z) * self.n**2], dim=1)
            grids.scatter_add_(0, outer(corner, torch.add).view(-1), density.view(-1))

    def _density(self, squared: torch.Tensor) -> torch.Tensor:
        """Return the densities (atom, z, y * x) at squared distances (atom, 3, step) along x, y, z, in squared radii.

        The Gaussian is a product of one per axis, so that no exponential is taken of a voxel.
        """
        g = self.multiple
        distance = outer(squared, torch.add)
        near = distance <= g**2
        tail = torch.rsub(distance.sqrt_(), (1 + 2 * g**2) * math.exp(-(g**2)), alpha=2 * g * math.exp(-(g**2)))
        return torch.where(near, outer(torch.exp(-2 * squared), torch.mul), tail.clamp_(min=0).square_())


def outer(axes: torch.Tensor, join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return (atom, z, y * x), the values of three axes joined, of ``axes`` (atom, 3, step): x, y and z.

    A plane first, then the planes: a CPU is faster over their long rows than over those of one axis.
    """
    x, y, z = axes.unbind(1)
    plane = join(y[:, :, None], x[:, None, :]).flatten(1)
    return join(z[:, :, None], plane[:, None, :])


def gnina_grid() -> Voxeliser:
    """Return what gnina's networks see: 14 channels of the receptor and 14 of the ligand, 48^3 voxels of 0.5 A."""
    return Voxeliser()
