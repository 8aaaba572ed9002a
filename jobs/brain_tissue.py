"""White and grey matter of a T1, from the file to millilitres, by a trained network that is not cut anywhere.

    python jobs/brain_tissue.py [--scan t1.nii.gz] [--network 11] [--prove]

    t1.nii.gz --normalise, MeshNet, label--> tissues.zarr, certified --measure, export--> ml, NIfTI, montage

The networks are brainchop's MeshNets (MIT): chains of dilated convolutions that see 24 or 46 voxels about each. A
sliding window changes percents of such a network's labels; here each is that of one pass over the whole head, and
``--prove`` runs that pass too and counts. Where the trained networks and the T1 are not beside the repository, a head
is made up, and a small MeshNet whose weights are put in by hand: then only the machinery is shown.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import phantoms
import torch
from job import DATA, Clock, Row, answer, console, near
from meshnet_weights import OWN_AXES, read_meshnet, turned
from networks import MeshNet
from scan_job import Segmented, closing_rows, measured, opened, segment, written
from torch import nn

from engine.errors import UsageError
from engine.export.segments import Segment
from engine.geometry.region import Region
from engine.models.intensity import MinMax
from engine.models.resampled import Resampled
from engine.models.summarised import along_channels
from engine.models.wrappers import ArgMax, Compose, Named
from engine.prepare import Options
from engine.show import print_rows
from engine.storage.orientation import Orientation
from engine.storage.readable import Readable
from engine.storage.volume import open_volume

T1 = DATA / "ct" / "t1_brain.nii.gz"
SPACING, NEARLY = 1.0, 0.02
"""Millimetre per voxel that they were trained at, and the share by which a scan may differ and be taken as it is."""

TISSUES = {
    1: Segment(1, "white matter", ("389080008", "SCT", "White Matter")),
    2: Segment(2, "grey matter", ("389081007", "SCT", "Gray Matter")),
}

PHANTOM_SIZE = 128


class Quantiles(MinMax):
    """Two percentiles of the source brought to 0 and 1; what lies outside goes on, unclipped."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space) on that scale."""
        self.check_fitted()
        low, high = along_channels(self.low, x), along_channels(self.high, x)
        return (x - low) / (high - low)


@dataclass(frozen=True)
class Trained:
    """One of brainchop's networks."""

    folder: Path
    percentiles: tuple[float, float]
    """Of the scan that it wants as 0 and 1."""
    memory: int = 2 * 2**30
    """Bytes that its run may take; in less, tiles of a network that sees far are mostly halo."""


NETWORKS = {
    11: Trained(DATA / "models" / "meshnet_model11_gw_ae", (0.0, 100.0)),
    20: Trained(DATA / "models" / "meshnet_model20chan3cls", (5.0, 95.0), memory=6 * 2**30),
}
"""By channels a layer; brainchop.org normalises the one by its ends, the other by quantiles."""


def main() -> int:
    """Run the job; 0 if every block is stored and the certificate holds."""
    return answer(show, parse())


def parse() -> argparse.Namespace:
    """Return what was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("brain-output"), help="folder to write to [brain-output]")
    parser.add_argument("--scan", help="a T1 of your own, NIfTI or a DICOM folder; else the real one")
    parser.add_argument("--network", type=int, choices=tuple(NETWORKS), default=11, help="channels a layer [11]")
    parser.add_argument("--size", type=int, help="make up a head of so many voxels a side instead")
    parser.add_argument("--prove", action="store_true", help="count labels that differ from one pass over all of it")
    return parser.parse_args()


def show(asked: argparse.Namespace) -> Segmented:
    """Label the tissues of a scan, measure them, and say what was done."""
    clock, folder = Clock(), asked.output

    with clock.stage("a scan"):
        path, trained = chosen(asked)
        scan = opened(path)
        pipeline = pipeline_for(scan, trained)

    options = Options(workers=1, memory=trained.memory if trained else None)
    found = segment(scan, pipeline, folder / "tissues.zarr", options=options, clock=clock)

    with clock.stage("volumes and files"):
        millilitres = measured(found, folder / "tissues.csv", TISSUES)
        written(found, folder, "tissues", segments=TISSUES, axis="coronal")

    proof: list[Row] = []
    if asked.prove:
        with clock.stage("proof: one pass over the whole scan"):
            proof = [("beside one pass over all of it", compared(found))]

    rows = closing_rows(found, clock, segments=TISSUES, millilitres=millilitres) + proof
    console.print()
    print_rows(rows, title="What was done", console=console)
    console.print(f"\nSee {near(folder / 'tissues.png')} and {near(folder / 'tissues.csv')}.", markup=False)
    return found


def chosen(asked: argparse.Namespace) -> tuple[str, Trained | None]:
    """Return the scan and the trained network, or made-up ones of both.

    Raises:
        UsageError: If a scan is named and the trained networks are not there.
    """
    trained = NETWORKS[asked.network]
    if asked.scan is not None and not trained.folder.is_dir():
        raise UsageError(
            f"a real scan needs a trained network, and brainchop's is not at '{trained.folder}'. Put its model.json "
            "and model.bin there, or leave --scan out to see made-up ones."
        )
    if asked.scan is not None:
        return asked.scan, trained
    if asked.size is None and T1.exists() and trained.folder.is_dir():
        return str(T1), trained
    size = asked.size or PHANTOM_SIZE
    path, spacing = asked.output / f"head-{size}.nii.gz", (256 / size,) * 3
    phantoms.write_nifti(path, phantoms.head((size,) * 3, spacing)[0].astype("uint8"), spacing)
    console.print("the head is made up, and so are the network's weights: its labels are of no scan of anyone")
    return str(path), None


def pipeline_for(scan: Readable, trained: Trained | None) -> nn.Module:
    """Return all that happens between a scan and its labels as one module: 1 white matter, 2 grey matter."""
    labels = Named(tissues=ArgMax())
    if trained is None:
        return Compose(MinMax(), made_up(), labels).eval()
    arguments, state = read_meshnet(trained.folder)
    network = MeshNet(**arguments)
    network.load_state_dict(turned(state, own=OWN_AXES, scan=directions(scan)))
    steps = [axis.spacing for axis in scan.axes[-3:]]
    is_near = all(abs(step / SPACING - 1) <= NEARLY for step in steps)
    on_grid = network if is_near else Resampled(network, spacing=SPACING)
    return Compose(Quantiles(percentiles=trained.percentiles), on_grid, labels).eval()


def directions(scan: Readable) -> str:
    """Return where z, y and x of a scan run to in the patient, to the nearest axis; the networks' own if unknown."""
    orientation = Orientation.of(scan.attributes)
    if orientation is None:
        console.print("the scan does not say how it lies: it is taken for a conformed one")
        return OWN_AXES[::-1]
    return "".join(reversed(nibabel.aff2axcodes([*orientation.affine, (0, 0, 0, 1)])))


def made_up() -> MeshNet:
    """Return a MeshNet whose weights are put in by hand: it smooths, and tells dark, middling and bright apart."""
    network = MeshNet(n_classes=3, width=1, dilations=(1, 2, 1))
    taps = torch.tensor([0.1, 0.8, 0.1])
    smooth = (taps[:, None, None] * taps[:, None] * taps)[None, None]
    *layers, last = [layer for layer in network.layers if isinstance(layer, nn.Conv3d)]
    dark, bright = 0.45, 0.72
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(smooth)
            layer.bias.zero_()
        last.weight.copy_(torch.tensor([0.0, 2.0, 1.0]).reshape(3, 1, 1, 1, 1))
        last.bias.copy_(torch.tensor([0.0, -dark - bright, -dark]))
    return network


def compared(found: Segmented) -> str:
    """Return how many labels differ from those of one pass of the pipeline over the whole scan, in memory."""
    source, labels = found.scan, open_volume(found.labels)
    voxels = torch.from_numpy(source.read(Region.whole(source.shape)))[None, None].float()
    pipeline = found.prepared.model.module
    for part in pipeline.modules():
        if isinstance(part, Resampled):
            part.source_spacing = tuple(axis.spacing for axis in source.axes)
    with torch.inference_mode():
        whole = pipeline(voxels)["tissues"][0]
    stored = torch.from_numpy(labels.read(Region.whole(labels.shape)))
    return f"{int((whole != stored).sum()):,} of {whole.numel():,} labels changed"


if __name__ == "__main__":
    sys.exit(main())
