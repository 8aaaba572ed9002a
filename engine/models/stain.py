"""Stain in H&E: how much of each there is, and slides made to look as if one laboratory had stained them.

All of it is arithmetic voxel by voxel, so that it adds nothing to a halo. What must be known of a slide, its colours,
is fitted once to its tissue at low resolution and is constant after: every tile of it is treated alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import acos, degrees

import numpy as np
import torch

from engine.errors import ModelError
from engine.models import moments
from engine.models.fitted import Statistics
from engine.models.lab import lab_of, mixed, rgb_of

STAINS: dict[str, tuple[tuple[float, ...], ...]] = {
    "hed": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)),  # haematoxylin, eosin, DAB
}
"""Optical density of each stain in red, green and blue (Ruifrok & Johnston 2001, table 1; as in scikit-image)."""

DARKEST = 1e-6
"""Share of the light that counts as none, as in scikit-image: a voxel of 0 has an optical density of 13.8."""

FEWEST_PIXELS = 100
"""Pixels that a percentile of 1 % needs."""

SMALLEST_ANGLE = 2.0
"""Degrees between the two stains of a slide below which it has one colour only; H&E has some 20 to 40."""


class Deconvolve(torch.nn.Module):
    """How much of each stain there is: Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291.

    Light falls as exp(-amount * density of the stain) (Beer-Lambert), from 255 for clear glass. The amounts are in
    natural logarithms: an amount of 1 takes ``exp(-stain)`` of the light. ``skimage.color.rgb2hed`` gives the same
    divided by 13.816 (= -ln 1e-6). What comes out below 0 is 0, as there.

    >>> Deconvolve()(255 * torch.exp(-0.5 * torch.tensor([[[0.07], [0.99], [0.11]]]))).flatten().round(decimals=3)
    tensor([0.0000, 0.5000, 0.0000])

    Raises:
        ModelError: If the stains are not known, not 2 or 3 rows of 3 numbers, or not independent.
    """

    matrix: torch.Tensor

    def __init__(self, stains: str | Sequence[Sequence[float]] = "hed") -> None:
        """Take the name of known stains, or rows of optical density in red, green and blue, used as they are.

        Of two rows the third is what is left: their cross product, of length 1.
        """
        super().__init__()
        self.register_buffer("matrix", _unmixing(stains).to(torch.float32), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the amount of each stain (batch, 3, *space), 0 or more, for RGB 0 to 255 (batch, 3, *space)."""
        density = -torch.log((x / 255.0).clamp(DARKEST, 1.0))
        amounts: torch.Tensor = mixed(self.matrix, density).clamp(min=0.0)
        return amounts


def _unmixing(stains: str | Sequence[Sequence[float]]) -> torch.Tensor:
    if isinstance(stains, str):
        if stains not in STAINS:
            raise ModelError(f"stains must be {', '.join(STAINS)} or rows of densities, not '{stains}'. Give one.")
        stains = STAINS[stains]
    rows = torch.from_numpy(np.array(stains, np.float64))
    if rows.shape not in ((2, 3), (3, 3)):
        raise ModelError(f"stains are 2 or 3 rows of red, green and blue, not {tuple(rows.shape)}. Give one a stain.")
    if len(rows) == 2:
        third = torch.linalg.cross(rows[0], rows[1])
        rows = torch.cat([rows, third[None] / third.norm().clamp(min=1e-12)])
    if not bool(rows.isfinite().all()) or not float(torch.linalg.cond(rows)) < 1e6:
        raise ModelError(f"stains must differ in colour, and {rows.tolist()} do not. Give independent rows.")
    unmixing: torch.Tensor = torch.linalg.inv(rows).T
    return unmixing


@dataclass(frozen=True)
class StainTarget:
    """What a slide is made to look like by :class:`Macenko`."""

    stains: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Optical density of haematoxylin and of eosin in red, green and blue, of length 1."""
    strongest: tuple[float, float]
    """Amount of each that 99 % of the pixels stay below."""


MACENKO_TARGET = StainTarget(((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)), (1.9705, 1.0308))
"""The slide that M. Niethammer's code was written with, and the field has used since (``HERef``, ``maxCRef``)."""


class Macenko(Statistics):
    """Normalisation of H&E: Macenko et al. 2009, ISBI:1107. RGB 0 to 255 in and out, not rounded.

    The two stains of a slide are the extremes (1 % and 99 %) of the directions of its optical densities in their
    principal plane; how much of each there is is scaled so that its 99th percentile is the target's. All that is one
    3 x 3 ``matrix`` on optical densities. Amounts are of least squares, and are not clipped at 0.

    Fitted at a low resolution the 99th percentiles are those of blurred nuclei: lower than at full resolution, for
    the slide as for a target that is measured alike (:meth:`target_of`).
    """

    wants = "the stain colours of the slide"
    stains: torch.Tensor
    strongest: torch.Tensor
    matrix: torch.Tensor

    def __init__(
        self, target: StainTarget = MACENKO_TARGET, *, light: float = 240.0, beta: float = 0.15, alpha: float = 1.0
    ) -> None:
        """Take the target, the glass's brightness, the least density of stain, and the percentile of the extremes."""
        stains, strongest = (torch.tensor(v, dtype=torch.float64) for v in (target.stains, target.strongest))
        super().__init__(stains=stains, strongest=strongest, matrix=stains.T @ torch.linalg.pinv(stains.T))
        self.target, self.light, self.beta, self.alpha = target, light, beta, alpha

    @classmethod
    def target_of(cls, pixels: torch.Tensor) -> StainTarget:
        """Return the target that makes slides look like the one of ``pixels`` (n, 3).

        Raises:
            ModelError: As :meth:`fit`.
        """
        fitted = cls()
        fitted.fit(pixels)
        (haematoxylin, eosin), (first, second) = fitted.stains.tolist(), fitted.strongest.tolist()
        return StainTarget((tuple(haematoxylin), tuple(eosin)), (first, second))

    def measure(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return ``stains`` (2, 3), ``strongest`` (2,) and ``matrix`` (3, 3).

        Raises:
            ModelError: If there are too few pixels with stain, or all have one colour.
        """
        _check_colours(self, pixels)
        density = self._density(pixels)
        stained = density[~(density < self.beta).any(1)]
        if len(stained) < FEWEST_PIXELS:
            raise ModelError(
                f"Macenko needs {FEWEST_PIXELS} pixels with stain, and {len(stained)} of {len(pixels)} have an "
                f"optical density of {self.beta:g} in red, green and blue alike. Give it tissue in H&E."
            )
        stains = _extremes(stained, alpha=self.alpha)
        amounts = _columns(density, torch.linalg.pinv(stains.T))
        strongest = torch.from_numpy(np.percentile(amounts.numpy(), 99, axis=0))
        if not bool((strongest > 0).all()):
            raise ModelError(
                f"Macenko needs both stains, and the 99th percentile of their amounts over {len(pixels)} pixels is "
                f"{strongest.tolist()}. Give it tissue in H&E, or leave it out."
            )
        ours, theirs = (torch.tensor(v, dtype=torch.float64) for v in (self.target.stains, self.target.strongest))
        matrix = ours.T @ torch.diag(theirs / strongest) @ torch.linalg.pinv(stains.T)
        return {"stains": stains, "strongest": strongest, "matrix": matrix}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return RGB 0 to 255 (batch, 3, *space), normalised, for the same.

        Raises:
            ModelError: If it is not fitted.
        """
        self.check_fitted()
        bright: torch.Tensor = self.light * torch.exp(-mixed(self.matrix, self._density(x)))
        return bright.clamp(0.0, 255.0)

    def extra_repr(self) -> str:
        """Return the settings: they are part of the model's fingerprint."""
        return f"{self.target}, light={self.light}, beta={self.beta}, alpha={self.alpha}"

    def _density(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the optical density; a little below 0 for what is brighter than the glass."""
        return -torch.log((rgb.clamp(0.0, 255.0) + 1.0) / self.light)


def _extremes(density: torch.Tensor, *, alpha: float) -> torch.Tensor:
    """Return the stains (2, 3) of densities (n, 3): haematoxylin, which takes more red, and eosin."""
    _, vectors = torch.linalg.eigh(moments.covariance(density))
    plane = vectors[:, [2, 1]].T  # (2, 3): the principal directions, the stronger first
    signs = torch.stack([plane[0].sum(), plane[1, 0]]).sign()  # LAPACK may give either; densities lie on this side
    plane = plane * torch.where(signs == 0, 1.0, signs)[:, None]
    first, second = _columns(density, plane).numpy().T
    angles = np.percentile(np.arctan2(second, first), [alpha, 100 - alpha])
    ends = torch.from_numpy(np.column_stack([np.cos(angles), np.sin(angles)])) @ plane
    apart = degrees(acos(min(1.0, float(ends[0] @ ends[1]))))
    if apart < SMALLEST_ANGLE:
        raise ModelError(
            f"Macenko needs two stains, and those of this slide lie {apart:.2g} degrees apart, below "
            f"{SMALLEST_ANGLE:g}: it has one colour. Leave the normalisation out."
        )
    in_order: torch.Tensor = ends if ends[0, 0] > ends[1, 0] else ends.flip(0)
    return in_order


def _columns(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return ``rows @ matrix.T`` by sums, that round the same in any order of the rows."""
    return mixed(torch.cat([matrix, matrix[:1]])[:3], rows.T[None])[0, : len(matrix)].T


@dataclass(frozen=True)
class LabTarget:
    """What a slide is made to look like by :class:`Reinhard`."""

    mean: tuple[float, float, float]
    """Of L*, a* and b* over the tissue."""
    std: tuple[float, float, float]


REINHARD_TARGET = LabTarget((56.656, 23.695, -10.390), (18.391, 10.753, 5.733))
"""The tissue of CMU-1-Small-Region (OpenSlide test data, CC0) at 8 micrometre a pixel."""


class Reinhard(Statistics):
    """Normalisation of colour: Reinhard et al. 2001, IEEE CG&A 21(5):34. RGB 0 to 255 in and out, not rounded.

    Mean and standard deviation of each channel become the target's, in CIE L*a*b* of D65 rather than in the l-alpha-
    beta of the paper, as TIAToolbox and histolab do. Glass is shifted with the tissue. A slide is fitted at low
    resolution, where it varies less than at full: take a target that was measured alike (:meth:`target_of`).
    """

    wants = "the mean and spread of the slide's colours"
    mean: torch.Tensor
    std: torch.Tensor
    gain: torch.Tensor
    shift: torch.Tensor

    def __init__(self, target: LabTarget = REINHARD_TARGET) -> None:
        mean, std = torch.tensor(target.mean), torch.tensor(target.std)
        super().__init__(mean=mean, std=std, gain=torch.ones(3), shift=torch.zeros(3))
        self.target = target

    @classmethod
    def target_of(cls, pixels: torch.Tensor) -> LabTarget:
        """Return the target that makes slides look like the one of ``pixels`` (n, 3).

        Raises:
            ModelError: As :meth:`fit`.
        """
        fitted = cls()
        fitted.fit(pixels)
        return LabTarget(tuple(fitted.mean.tolist()), tuple(fitted.std.tolist()))

    def measure(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return ``mean`` and ``std`` of L*, a* and b*, and the ``gain`` and ``shift`` that make them the target's.

        Raises:
            ModelError: If there are too few pixels, or a channel is constant.
        """
        _check_colours(self, pixels)
        lab = lab_of(pixels.T[None])[0].T
        found = {"mean": moments.mean(lab), "std": moments.std(lab)}
        for name, std in zip(("L*", "a*", "b*"), found["std"].tolist(), strict=True):
            if std < 1e-3:
                raise ModelError(
                    f"Reinhard needs colours that vary, and {name} of {len(pixels)} pixels has a standard deviation of "
                    f"{std:.2g}: the slide is grey, or has one colour. Leave the normalisation out."
                )
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.target.mean, self.target.std))
        gain = std / found["std"]
        return {**found, "gain": gain, "shift": mean - gain * found["mean"]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return RGB 0 to 255 (batch, 3, *space), normalised, for the same.

        Raises:
            ModelError: If it is not fitted.
        """
        self.check_fitted()
        gain, shift = (v.to(x.dtype).reshape(3, *(1,) * (x.dim() - 2)) for v in (self.gain, self.shift))
        return rgb_of(lab_of(x) * gain + shift)

    def extra_repr(self) -> str:
        """Return the settings: they are part of the model's fingerprint."""
        return f"{self.target}"


def _check_colours(module: Statistics, pixels: torch.Tensor) -> None:
    name = type(module).__name__
    if pixels.shape[1] != 3:
        raise ModelError(f"{name} needs red, green and blue, not {pixels.shape[1]} channels. Leave the others out.")
    if len(pixels) < FEWEST_PIXELS:
        raise ModelError(
            f"{name} needs {FEWEST_PIXELS} pixels of tissue at least, and {len(pixels)} came. Look for tissue another "
            "way, or leave the normalisation out."
        )
