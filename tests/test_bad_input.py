"""Bad input, through the command line: one line that says what to do, an exit code, and nothing half-written."""

import gzip
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
import zarr
from safetensors.torch import save_file
from zarr.codecs import ZstdCodec

from tests import bad_models
from tests.command import apart
from tests.stored import checksums, objects, smooth, stored, whole

MODELS = Path(bad_models.__file__)
DATA = Path(__file__).parents[2] / "shared" / "data"
SMALL = ("--tile", 32, "--block", 32, "--batch", 1, "--memory", "2G", "--threads", 2, "--no-pyramid")


def model(name: str) -> str:
    return f"{MODELS}:{name}"


@dataclass
class Place:
    """A folder with what a row needs, made when it is asked for."""

    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out.zarr"

    def file(self, name: str, content: bytes | str = b"") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def volume(self, name: str = "volume.zarr", *, shape=(64, 80), names="yx", array=None) -> Path:
        """A volume of four or more stored objects, each with a checksum."""
        array = smooth(shape) if array is None else array
        path = self.root / name
        target = zarr.create_array(
            store=str(path),
            shape=array.shape,
            chunks=tuple(min(n, 32) for n in array.shape),
            dtype=array.dtype,
            dimension_names=list(names),
            compressors=ZstdCodec(level=1, checksum=True),
        )
        target[...] = array
        return path

    def slide(self, name: str = "slide.tiff", *, resolution=20000) -> Path:
        pixels = np.random.default_rng(3).integers(0, 255, (300, 420, 3)).astype("uint8")
        said = {"resolution": (resolution, resolution), "resolutionunit": "CENTIMETER"} if resolution else {}
        tifffile.imwrite(self.root / name, pixels, tile=(128, 128), photometric="rgb", **said)
        return self.root / name

    def scan(self, name: str = "scan.nii", *, pixdim=None) -> Path:
        voxels = np.random.default_rng(3).integers(-900, 900, (20, 24, 28)).astype("int16")
        image = nibabel.Nifti1Image(voxels, np.diag([0.8, 0.9, 2.5, 1]))
        if pixdim is not None:
            image.header["pixdim"][1:4] = pixdim
            raw = image.header.binaryblock + b"\0\0\0\0" + voxels.tobytes(order="F")
            raw = raw[:108] + np.float32(352).tobytes() + raw[112:]  # nibabel itself would mend the spacing
            return self.file(name, raw[:344] + b"n+1\0" + raw[348:])
        nibabel.save(image, self.root / name)
        return self.root / name

    def climate(self, name: str = "air.nc", *, n_lat=9, first=0) -> Path:
        fields = np.random.default_rng(first).normal(size=(2, n_lat, 24)).astype("float32")
        coords = {
            "time": ("time", first + np.arange(2.0), {"units": "days since 2001-01-01"}),
            "lat": ("lat", np.linspace(85, -85, n_lat), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0, 360, 15.0), {"units": "degrees_east"}),
        }
        xr.Dataset({"air": (("time", "lat", "lon"), fields, {"units": "K"})}, coords).to_netcdf(self.root / name)
        return self.root / name

    def weights(self, name: str = "good.safetensors", **changes) -> Path:
        """The weights of ``good``, with some changed, or dropped where None."""
        state = {k: v.clone() for k, v in bad_models.good().state_dict().items()} | changes
        save_file({k: v for k, v in state.items() if v is not None}, self.root / name)
        return self.root / name

    def bomb(self, *, is_torch: bool = True) -> Path:
        bomb = Bomb(str(self.root / "crater"))
        if not is_torch:
            return self.file("bomb.pt", pickle.dumps(bomb))
        torch.save({"weight": bomb}, self.root / "bomb.pt")
        return self.root / "bomb.pt"

    def truncated(self, path: Path, share: float = 0.5) -> Path:
        data = path.read_bytes()
        return self.file(path.name, data[: int(len(data) * share)])

    def contents(self) -> dict[str, bytes]:
        """Every file and folder below, but what Python compiles."""
        found = sorted(p for p in self.root.rglob("*") if "__pycache__" not in p.parts)
        return {str(p.relative_to(self.root)): p.read_bytes() if p.is_file() else b"" for p in found}


class Bomb:
    """What it is unpickled to: a file that says that code ran."""

    def __init__(self, crater: str) -> None:
        self.crater = crater

    def __reduce__(self):
        return os.system, (f"touch {self.crater}",)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@dataclass(frozen=True)
class Row:
    """One kind of bad input."""

    name: str
    command: Callable[[Place], list[object]]
    """Makes what is needed, and returns the command line."""
    says: tuple[str, ...]
    """What the one line must hold: the value, the axis, the file, what to do."""


def plan(volume: Callable[[Place], object], net: str = "good", *options: object) -> Callable[[Place], list[object]]:
    return lambda place: ["plan", volume(place), model(net), *options]


def run(*options: object, net: str = "good") -> Callable[[Place], list[object]]:
    return lambda place: ["run", place.volume(), model(net), place.out, "--runner", "serial", *options]


def weighed(weights: Callable[[Place], object]) -> Callable[[Place], list[object]]:
    return lambda place: [*run("--weights", weights(place))(place)]


def to_zarr(*files: Callable[[Place], object], options: tuple[object, ...] = ()) -> Callable[[Place], list[object]]:
    return lambda place: ["ingest", *(file(place) for file in files), place.out, *options]


def good_plan(*options: object) -> Callable[[Place], list[object]]:
    return plan(Place.volume, "good", *options)


def array_of(dtype: str) -> Callable[[Place], Path]:
    return lambda place: place.volume(array=np.ones((40, 40), dtype))


def holding(name: str, content: bytes | str) -> Callable[[Place], Path]:
    return lambda place: place.file(name, content)


def damaged_metadata(place: Place) -> Path:
    place.truncated(place.volume() / "zarr.json").rename(place.root / "volume.zarr" / "zarr.json")
    return place.root / "volume.zarr"


def grouped(place: Place) -> Path:
    zarr.open_group(str(place.root / "group.zarr"), mode="w")
    place.volume("group.zarr/inner")
    return place.root / "group.zarr"


def broken_off(place: Place) -> Path:
    group = zarr.open_group(str(place.volume("ingested.zarr", names="yx").parent / "part.zarr"), mode="w")
    group.attrs["haloengine/volume"] = {"is_finished": False}
    return place.root / "part.zarr"


def bare(place: Place) -> Path:
    zarr.create_array(store=str(place.root / "bare.zarr"), shape=(40, 40), chunks=(40, 40), dtype="float32")
    return place.root / "bare.zarr"


def cut_gzip(place: Place) -> Path:
    return place.file("scan.nii.gz", gzip.compress(place.scan().read_bytes())[:-2000])


SOURCES = [
    Row("missing", plan(lambda p: p.root / "nowhere" / "v.zarr"), ("nowhere/v.zarr", "Check the path")),
    # the folder is there, and a sibling has nearly that name
    Row("misspelt", plan(lambda p: f"{p.volume()}"[:-2]), ("nothing is at", "Did you mean", "volume.zarr")),
    Row("a folder that is not Zarr", plan(lambda p: p.file("notes/a.txt", "hi").parent), ("notes", "engine ingest")),
    Row("a file that is not Zarr", plan(holding("a.txt", "hi")), ("a.txt", "engine ingest")),
    Row("metadata cut in half", plan(damaged_metadata), ("volume.zarr", "not JSON", "Restore the file")),
    Row("a group, not a volume", plan(grouped), ("group.zarr", "'inner'", "Add the inner path")),
    Row("strings", plan(array_of("U4")), ("<U4", "volume.zarr", "Convert")),
    Row("complex numbers", plan(array_of("complex64")), ("complex64", "channels")),
    Row(
        "an axis without voxels",
        plan(lambda p: p.volume(array=np.ones((4, 0), "float32"))),
        ("axis 'x'", "not 0", "(4, 0)"),
    ),
    # three channels are wanted, and the source has none
    Row("channels that the model does not take", plan(Place.volume, "colour"), ("3 channels", "1 channel", "Check")),
    Row("two space axes for a model of three", plan(Place.volume, "solid"), ("2 space axes", "Check its channels")),
    Row(
        "axes without names",
        plan(bare),
        ("does not name its axes", "(40, 40)", "--axes yx"),
    ),
    Row("axes of unknown names", good_plan("--axes", "qx"), ("'q'", "known names", "--axes")),
    Row("too few axis names", good_plan("--axes", "y"), ("2 axes", "not 1", "one name per axis")),
    Row("an axis named twice", good_plan("--axes", "yy"), ("unique", "Rename one")),
    # sizes
    Row(
        "a size that the network cannot take",
        plan(lambda p: p.volume(shape=(41, 64)), "unet", "--no-extend"),
        ("41 voxels along 'y'", "48", "Leave out --no-extend"),
    ),
    Row("a network of one size only", plan(Place.volume, "Only64"), ("64, 64", "Check")),
    Row(
        "a periodic axis that the step does not divide",
        plan(lambda p: p.volume(shape=(64, 42)), "halving", "--edge", "x=wrap"),
        ("'x' is periodic", "42", "step 4", "Regrid"),
    ),
    Row(
        "a pole over an odd number of columns",
        plan(lambda p: p.volume(shape=(64, 43)), "good", "--edge", "y=pole:x"),
        ("'x'", "even", "not 43", "Regrid"),
    ),
    Row(
        "an axis too short to mirror",
        plan(lambda p: p.volume(shape=(1, 64)), "good", "--edge", "y=reflect"),
        ("axis 'y'", "1 voxels", "at least 2", "Use constant"),
    ),
]

INGESTS = [
    Row("missing slide", to_zarr(lambda p: p.root / "gone.svs"), ("a slide is wanted", "gone.svs", "Check the path")),
    Row("misspelt scan", to_zarr(lambda p: f"{p.scan()}"[:-4] + "n.nii"), ("Did you mean", "scan.nii")),
    Row("slide of no bytes", to_zarr(holding("empty.svs", b"")), ("empty.svs", "0 bytes", "again")),
    Row("text called .svs", to_zarr(holding("text.svs", "no slide\n" * 99)), ("text.svs", "unreadable", "export it")),
    Row("slide cut short", to_zarr(lambda p: p.truncated(p.slide())), ("slide.tiff", "again")),
    Row("slide without mpp", to_zarr(lambda p: p.slide(resolution=0)), ("micrometre per pixel", "--spacing 0.5")),
    Row("scan without spacing", to_zarr(lambda p: p.scan(pixdim=0)), ("spacing along z, y and x", "0.0", "--spacing")),
    Row(
        "spacing that is no number",
        to_zarr(lambda p: p.scan(pixdim=0), options=("--spacing", "1,a,1")),
        ("--spacing", "'1,a,1'", "Give it as"),
    ),
    Row(
        "too few spacings",
        to_zarr(lambda p: p.scan(), options=("--spacing", "1,2")),
        ("spacing along z, y and x", "[1.0, 2.0]", "--spacing Z,Y,X"),
    ),
    Row(
        "slide with too many spacings",
        to_zarr(lambda p: p.slide(), options=("--spacing", "1,2,3")),
        ("y and x", "'3.0'", "--spacing"),
    ),
    Row("scan cut short", to_zarr(lambda p: p.truncated(p.scan())), ("scan.nii", "bytes of voxels are there", "truncated", "again")),
    Row("compressed scan cut short", to_zarr(cut_gzip), ("scan.nii.gz", "truncated", "again")),
    Row("text called .nii", to_zarr(holding("a.nii", "hello")), ("a.nii", "no magic", "Convert")),
    Row("text called .nc", to_zarr(holding("a.nc", "hello")), ("a.nc", "NetCDF", "ncdump")),
    Row(
        "climate files on two grids",
        to_zarr(lambda p: p.climate("a.nc"), lambda p: p.climate("b.nc", n_lat=7, first=2)),
        ("one grid", "'lat'", "b.nc", "7", "9"),
    ),
    Row(
        "climate files that overlap in time",
        to_zarr(lambda p: p.climate("a.nc"), lambda p: p.climate("b.nc", first=1)),
        ("follow each other in time", "b.nc", "Give them in order"),
    ),
    Row(
        "unknown variable",
        to_zarr(Place.climate, options=("--variables", "arr")),
        ("'arr'", "air.nc", "air"),
    ),
    Row("two slides into one", to_zarr(lambda p: p.slide("a.tiff"), lambda p: p.slide("b.tiff")), ("not 2", "a.tiff")),
    Row("a scan and a slide", to_zarr(Place.scan, Place.slide), ("not 2", "slide.tiff", "own target")),
    Row("a scan and a missing one", to_zarr(Place.scan, lambda p: p.root / "b.nii"), ("b.nii", "Did you mean")),
    Row("a scan at a resolution", to_zarr(lambda p: f"{p.scan()}#mpp=1"), ("as it is", "#mpp=1.0", "give that to the run")),
    Row("unknown ending", to_zarr(holding("a.docx", "hi")), (".nii", "a.docx", "Convert")),
    Row("a folder", to_zarr(lambda p: p.file("d/a.svs").parent), ("is a folder without DICOM", "Name the file")),
    Row("no target", lambda p: ["ingest", p.scan()], ("scan.nii", "SOURCE... TARGET")),
    Row("no threads", to_zarr(Place.scan, options=("--threads", "0")), ("--threads", "not 0")),
    Row("target under a file", lambda p: ["ingest", p.scan(), p.file("f.txt") / "o.zarr"], ("f.txt/o.zarr", "target")),
    Row("target in an array", lambda p: ["ingest", p.scan(), p.volume() / "o"], ("volume.zarr/o", "Name another")),
    Row("target taken", lambda p: ["ingest", p.scan(), p.volume()], ("volume.zarr", "exists", "Name another target")),
]

MODELS_AND_WEIGHTS = [
    Row("missing file", lambda p: ["plan", p.volume(), f"{p.root}/net.py:good"], ("net.py", "missing", "Check")),
    Row("misspelt factory", plan(Place.volume, "goood"), ("no 'goood'", "Did you mean 'good'")),
    Row("no factory", lambda p: ["plan", p.volume(), MODELS], ("does not say", "bad_models.py:factory")),
    Row(
        "syntax error",
        lambda p: ["plan", p.volume(), f"{p.file('net.py', 'def net(:')}:net"],
        ("net.py", "SyntaxError", "Correct it"),
    ),
    Row("factory that raises", plan(Place.volume, "late"), ("'late'", "KeyError: 'licence'", "Correct it")),
    Row("factory of nothing", plan(Place.volume, "nothing"), ("'nothing'", "not None", "Return the network")),
    Row("a number", plan(Place.volume, "number"), ("'number'", "not 7", "Name what makes")),
    Row("unknown kind", lambda p: ["plan", p.volume(), p.file("m.onnx")], ("m.onnx", "file.py:factory")),
    Row("text called .pt2", lambda p: ["plan", p.volume(), p.file("m.pt2", "hi")], ("m.pt2", "damaged")),
    Row("returns a tuple", plan(Place.volume, "pair"), ("tuple of 2", "Wrap it in a module")),
    Row("raises in forward", plan(Place.volume, "explodes"), ("no_such_method", "Check")),
    Row("exits in forward", plan(Place.volume, "exits"), ("SystemExit", "Correct its forward")),
    # torch logs a page per size that it refuses: not a line of that may come through
    Row("adds shapes that do not fit", plan(Place.volume, "mixed_up"), ("broadcast", "Check its channels")),
    Row("draws at random", plan(Place.volume, "noise"), ("random", "Draw them from")),
    Row("instance norm", plan(Place.volume, "norm"), ("'1' (InstanceNorm2d)", "Give it fixed statistics")),
    Row("global pool", plan(Place.volume, "pooled"), ("'1' (AdaptiveAvgPool2d)", "Replace it")),
    Row("check of what raises", lambda p: ["check", model("explodes")], ("no_such_method", "Correct its forward")),
    Row("check of a tuple", lambda p: ["check", model("pair")], ("tuple of 2", "Wrap it")),
    Row("missing weights", weighed(lambda p: p.root / "w.safetensors"), ("w.safetensors", "missing", "Check")),
    Row("misspelt weights", weighed(lambda p: f"{p.weights()}".replace("good", "god")), ("Did you mean 'good.safe",)),
    Row("weights cut short", weighed(lambda p: p.truncated(p.weights())), ("damaged", "Fetch or save")),
    Row("a key is missing", weighed(lambda p: p.weights(**{"2.bias": None})), ("lack '2.bias'", "Build the module")),
    Row("a key too many", weighed(lambda p: p.weights(extra=torch.ones(1))), ("'extra'", "Build the module")),
    Row(
        "weights of another shape",
        weighed(lambda p: p.weights(**{"2.bias": torch.ones(7)})),
        ("2.bias (7,) for (1,)", "Build the module"),
    ),
    Row("a pickle bomb for weights", weighed(Place.bomb), ("bomb.pt", "system", "safetensors")),
    Row("a bare pickle bomb", weighed(lambda p: p.bomb(is_torch=False)), ("bomb.pt", "any code", "safetensors")),
    Row("a pickle bomb for a model", lambda p: ["plan", p.volume(), p.bomb()], ("bomb.pt", "state dict")),
]

OPTIONS = [
    Row("no such edge", good_plan("--edge", "x=wrp"), ("wrap", "'x=wrp'", "Write it as")),
    Row("edge without an axis", good_plan("--edge", "wrap"), ("AXIS=RULE", "'wrap'")),
    Row("edge of no number", good_plan("--edge", "x=constant:a"), ("'a'", "Write x=constant:0")),
    Row("edge with a value too many", good_plan("--edge", "x=wrap:3"), ("'3'", "Write x=wrap")),
    Row("edge given twice", good_plan("--edge", "x=wrap", "--edge", "x=model"), ("'x' has two", "Keep one")),
    Row("edge of no axis", good_plan("--edge", "q=wrap"), ("q", "y, x", "Name one of these")),
    Row("pole round nothing", good_plan("--edge", "y=pole"), ("axis that the pole rolls", "Write y=pole:lon")),
    Row("pole round itself", good_plan("--edge", "y=pole:y"), ("'y'", "Write y=pole:x")),
    Row("tile too short", good_plan("--tile", "1"), ("tile length 1", "'y'", "Use at least 5")),
    Row(
        "tile that is not legal",
        plan(Place.volume, "unet", "--tile", "25"),
        ("tile length 25", "'y'", "step 8", "Use 32"),
    ),
    Row("tile of three axes", good_plan("--tile", "8,8,8"), ("(y, x)", "(8, 8, 8)", "Give it as 64,64")),
    Row("tile of words", good_plan("--tile", "big"), ("--tile", "'big'", "Give it as")),
    Row(
        "block that is not whole steps",
        plan(Place.volume, "unet", "--block", "12"),
        ("block length 12", "'y'", "multiple of 8", "Use 8 or 16"),
    ),
    Row("memory that is no size", good_plan("--memory", "lots"), ("--memory", "'lots'", "Give it as 8G")),
    Row("memory of nothing", good_plan("--memory", "0"), ("above 0", "'0'")),
    Row("memory for no worker", good_plan("--memory", "1M"), ("1.0 MiB", "700.0 MiB", "Raise --memory")),
    Row("no workers", good_plan("--workers", "0"), ("--workers", "at least 1", "not 0")),
    Row("one thread", good_plan("--threads", "1"), ("--threads", "at least 2", "not 1")),
    Row("no batch", good_plan("--batch", "0"), ("--batch", "not 0")),
    Row("workers in words", good_plan("--workers", "two"), ("--workers", "integer", "engine plan --help")),
    Row("no such precision", good_plan("--precision", "float16"), ("bfloat16", "'float16'")),
    Row("no such answer to NaN", good_plan("--nan", "ignore"), ("refuse or keep", "'ignore'")),
    Row("no such device", good_plan("--device", "cudda"), ("'cudda'", "Use --device cpu")),
    Row("no such runner", run("--runner", "rey"), ("'rey'", "ray or serial")),
    Row("an address for the serial runner", run("--address", "auto"), ("--address auto", "Leave one")),
    Row("misspelt option", good_plan("--memroy", "2G"), ("'--memroy'", "Did you mean '--memory'")),
    Row("unknown option", good_plan("--qqq"), ("'--qqq'", "See 'engine plan --help'")),
    Row("misspelt command", lambda p: ["resum", p.out], ("'resum'", "Did you mean 'resume'")),
    Row("missing argument", lambda p: ["plan", p.volume()], ("'model'", "See 'engine plan --help'")),
    Row("an argument too many", lambda p: [*good_plan()(p), "more"], ("(more)", "See 'engine plan --help'")),
    Row("JSON into nowhere", good_plan("--json", "/proc/none/x.json"), ("/proc/none/x.json", "Choose another path")),
]

OUTPUTS = [
    Row("under a file", lambda p: [*run()(p)[:3], p.file("f.txt") / "o.zarr", *SMALL], ("f.txt/o.zarr", "target")),
    Row("on a read-only file system", lambda p: [*run()(p)[:3], "/proc/o.zarr"], ("/proc/o.zarr", "target")),
    Row("a file is there", lambda p: [*run()(p)[:3], p.file("out.zarr", "mine")], ("out.zarr", "choose another path")),
    Row("a volume is there", lambda p: [*run()(p)[:3], p.volume("out.zarr")], ("out.zarr", "engine resume")),
    Row("the source itself", lambda p: [*run()(p)[:3], p.root / "volume.zarr"], ("volume.zarr", "another path")),
    Row("inside the source", lambda p: [*run()(p)[:3], p.root / "volume.zarr" / "o"], ("volume.zarr/o", "beside")),
    Row("status of nothing", lambda p: ["status", p.out], ("nothing is at", "out.zarr", "Check the path")),
    Row("status of a source", lambda p: ["status", p.volume()], ("volume.zarr", "not an output", "Start a new run")),
    Row("report of nothing", lambda p: ["report", p.out], ("nothing is at", "out.zarr")),
    Row("verify of nothing", lambda p: ["verify", p.out], ("nothing is at", "out.zarr")),
    Row("verify of no tiles", lambda p: ["verify", p.out, "--tiles", "0"], ("--tiles", "not 0", "Give 1")),
    Row("resume of a source", lambda p: ["resume", p.volume(), "--runner", "serial"], ("not an output", "Start a new")),
    Row("resume by no plan", lambda p: ["resume", p.out, "--plan", p.root / "p.json"], ("p.json", "save it again")),
    Row("resume by text", lambda p: ["resume", p.out, "--plan", p.file("p.json", "{")], ("p.json", "save it again")),
    Row("resume by any JSON", lambda p: ["resume", p.out, "--plan", p.file("p.json", "[1]")], ("something else",)),
]

ROWS = [*SOURCES, *INGESTS, *MODELS_AND_WEIGHTS, *OPTIONS, *OUTPUTS]


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(row, place, engine):
    command = row.command(place)
    before = place.contents()
    answer = engine(*command)
    assert answer.code == 2, answer.err
    line = answer.line
    for fragment in row.says:
        assert fragment in line, f"{fragment!r} is not in: {line}"
    assert place.contents() == before  # no output, no draft, nothing changed; and the bomb did not go off


def test_the_table_is_long_enough_and_its_names_differ():
    assert len(ROWS) >= 100
    assert len({row.name for row in ROWS}) == len(ROWS)


# What goes wrong only when blocks are run: the run ends with exit code 1, and what it leaves can be gone on with.


def ran(engine, place, *options, net="good", volume=None, code=0):
    """Run a model over a volume in small blocks, and return what was answered."""
    volume = volume or place.volume()
    answer = engine("run", volume, model(net), place.out, "--runner", "serial", *SMALL, *options)
    assert answer.code == code, answer.err
    return answer


def reference(place, array=None, net="good"):
    array = stored_source(place) if array is None else array
    return whole(getattr(bad_models, net)(), array[None])[0]


def stored_source(place):
    return np.asarray(zarr.open_array(str(place.root / "volume.zarr"), mode="r")[...])


def counts(engine, place) -> dict[str, int]:
    rows = (line.split() for line in engine.well("status", place.out).splitlines())
    return {row[0]: int(row[1].replace(",", "")) for row in rows if row and row[0] in ("done", "failed", "pending")}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_source_that_is_not_finite_fails_its_blocks_and_no_other(value, place, engine):
    array = smooth((64, 80))
    array[0, 0] = value
    line = ran(engine, place, volume=place.volume(array=array), code=1).line
    for fragment in ("RunError", "of 6", "NaN or infinite", "y 0, x 0", "volume.zarr", "--nan keep", "engine resume"):
        assert fragment in line
    assert counts(engine, place) == {"done": 5, "failed": 1, "pending": 0}  # a block reads only as far as its halo
    again = engine("resume", place.out, "--runner", "serial")
    assert (again.code, again.line) == (1, line)


def test_a_source_that_is_not_finite_is_let_through_on_request(place, engine):
    array = smooth((64, 80))
    array[40, 50] = np.nan
    ran(engine, place, "--nan", "keep", volume=place.volume(array=array))
    expected = reference(place)
    assert np.isnan(expected).any()
    assert expected[~np.isnan(expected)].std() > 0
    np.testing.assert_allclose(stored(place.out).squeeze(), expected, atol=1e-5)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, turn_a_byte])
def test_a_damaged_object_of_the_source_fails_its_blocks_and_no_other(damage, place, engine):
    volume = place.volume()
    damage(volume / "c" / "0" / "0")
    line = ran(engine, place, volume=volume, code=1).line
    for fragment in ("volume.zarr", "y 0:", "x 0:", "damaged", "Restore it"):
        assert fragment in line
    left = counts(engine, place)
    assert left["failed"] > 0
    assert left["done"] > 0
    assert left["pending"] == 0


def test_a_lost_object_of_an_ingested_source_is_not_read_as_zeros(place, engine):
    engine.well("ingest", place.scan(), place.root / "scan.zarr")
    (lost,) = (path for path in objects(place.root / "scan.zarr") if path.parts[-5:-3] == ("0", "c"))
    lost.unlink()
    volume = place.root / "scan.zarr"
    answer = engine("run", volume, model("solid"), place.out, "--runner", "serial", "--no-pyramid", "--memory", "2G")
    assert answer.code == 1
    assert "is missing. Restore it" in answer.line


def test_a_model_that_fails_on_some_voxels_only_fails_their_blocks(place, engine):
    array = smooth((64, 80))
    array[10, 10] = 2e6
    line = ran(engine, place, net="tripped", volume=place.volume(array=array), code=1).line
    assert "1 blocks failed" in line
    assert "ValueError: the scanner said no" in line


def test_a_volume_smaller_than_the_halo_is_run_whole(place, engine):
    volume = place.volume(shape=(20, 24))
    engine.well("run", volume, model("wide"), place.out, "--runner", "serial", "--no-pyramid", "--memory", "2G")
    expected = reference(place, net="wide")
    assert expected.std() > 0
    np.testing.assert_allclose(stored(place.out).squeeze(), expected, atol=1e-5)


# A disk that is full.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB, and how to make it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=128k,mode=777", "tmpfs"]
    if subprocess.run(["mount", *options, folder], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(1024)) == 1024:
            if os.statvfs(folder).f_bavail == 0:
                return


def test_a_full_disk_ends_the_run_and_resume_leaves_the_same_bits(place, engine, small_disk):
    volume = place.volume(shape=(224, 224))
    ran(engine, place, volume=volume)
    undisturbed = checksums(place.out)
    out = small_disk / "out.zarr"
    answer = engine("run", volume, model("good"), out, "--runner", "serial", *SMALL)
    assert answer.code == 1
    assert "no space left" in answer.line.lower()
    assert "Free some space, then resume" in answer.line
    assert 0 < len(objects(out)) < len(undisturbed)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    engine.well("resume", out, "--runner", "serial")
    assert checksums(out) == undisturbed


@pytest.mark.parametrize("command", ["run", "ingest"])
def test_a_disk_that_is_full_from_the_start_is_left_as_it_was(command, place, engine, small_disk):
    fill(small_disk)
    out = small_disk / "out.zarr"
    words = ["ingest", place.scan(), out] if command == "ingest" else [*run(*SMALL)(place)[:3], out, *SMALL]
    answer = engine(*words)
    assert answer.code == 2
    assert "No space left" in answer.line or "no space left" in answer.line
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_ingest_to_a_full_disk_goes_on_once_there_is_room(place, engine, small_disk):
    voxels = np.random.default_rng(3).integers(-900, 900, (70, 70, 70)).astype("int16")
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1, 1, 1])), place.root / "large.nii")
    out = small_disk / "out.zarr"
    answer = engine("ingest", place.root / "large.nii", out)
    assert answer.code == 2
    assert "no space left on the device. Free some, then resume" in answer.line
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    engine.well("ingest", place.root / "large.nii", out)
    assert np.array_equal(zarr.open_array(f"{out}/0", mode="r")[...], voxels.transpose(2, 1, 0))


# Outputs that are not what they were.


@pytest.fixture
def finished(place, engine):
    ran(engine, place)
    return place


def test_resume_with_another_model_names_it(finished, engine):
    answer = engine("resume", finished.out, "--model", model("other"), "--runner", "serial")
    assert answer.code == 2
    assert answer.line.startswith("ResumeError")
    for fragment in ("bad_models.py:other", "fingerprint", "Give the same code and weights"):
        assert fragment in answer.line


def test_resume_with_another_plan_names_what_differs(finished, engine):
    saved = finished.root / "plan.json"
    engine.well("plan", finished.root / "volume.zarr", model("good"), *SMALL, "--tile", 40, "--json", saved)
    answer = engine("resume", finished.out, "--plan", saved, "--runner", "serial")
    assert answer.code == 2
    for fragment in ("ResumeError", "tile", "40", "32", "Start a new run"):
        assert fragment in answer.line


@pytest.mark.parametrize(
    ("net", "options", "fragments"),
    [
        ("other", (), ("bad_models.py:other", "the plan '", "fingerprint", "Give the same code and weights")),
        ("good", ("--tile", 40, "--no-extend"), ("--tile", "--no-extend", "beside --plan", "plan anew")),
        ("good", ("--threads", 1), ("--threads", "at least 2")),
    ],
)
def test_a_run_of_a_saved_plan_is_refused_where_it_would_not_be_that_plan(net, options, fragments, place, engine):
    saved = place.root / "plan.json"
    volume = place.volume()
    engine.well("plan", volume, model("good"), *SMALL, "--json", saved)
    answer = engine("run", volume, model(net), place.out, "--plan", saved, "--runner", "serial", *options)
    assert answer.code == 2
    for fragment in fragments:
        assert fragment in answer.line
    assert not place.out.exists()


@pytest.mark.parametrize("command", ["resume", "verify"])
def test_a_changed_source_is_refused(command, finished, engine):
    array = zarr.open_array(str(finished.root / "volume.zarr"), mode="r+")
    array[0, 0] = 7
    answer = engine(command, finished.out)
    assert answer.code == 2
    for fragment in ("ResumeError", "volume.zarr", "fingerprint", "Restore it"):
        assert fragment in answer.line


@pytest.mark.parametrize("command", ["resume", "verify"])
def test_a_source_that_is_gone_is_named(command, finished, engine):
    (finished.root / "volume.zarr").rename(finished.root / "volumes.zarr")
    answer = engine(command, finished.out)
    assert answer.code == 2
    assert "Did you mean" in answer.line
    assert "volumes.zarr" in answer.line


def test_verify_of_a_tampered_output_says_by_how_much(finished, engine):
    array = zarr.open_array(f"{finished.out}/output/0", mode="r+")
    array[...] = array[...] + np.float32(0.5)
    answer = engine("verify", finished.out)
    assert answer.code == 1
    assert answer.line.startswith("VerifyError")
    for fragment in ("'output' by up to 0.5", "Run it anew"):
        assert fragment in answer.line


def test_verify_of_an_output_that_lost_an_object_names_it(finished, engine):
    for path in objects(finished.out):
        path.unlink()
    answer = engine("verify", finished.out)
    assert answer.code == 2
    for fragment in ("VolumeError", "out.zarr/output/0/c/", "is missing"):
        assert fragment in answer.line


def damaged(path: Path, how: str) -> None:
    if how == "lost":
        path.unlink()
    elif how == "cut":
        cut(path)
    else:
        path.write_text(how)


LEDGERS = [
    # the metadata of the ledger, of the output, and of a volume in it
    ("ledger/zarr.json", "lost", "LedgerError"),
    ("ledger/zarr.json", "cut", "LedgerError"),
    ("ledger/zarr.json", "{}", "LedgerError"),
    ("ledger/c/0", "cut", "LedgerError"),
    ("ledger/c/0", "not zstd", "LedgerError"),
    ("zarr.json", "lost", "VolumeError"),
    ("zarr.json", "cut", "VolumeError"),
    ("output/zarr.json", "cut", "VolumeError"),
    ("output/0/zarr.json", "lost", "VolumeError"),
]


@pytest.mark.parametrize("row", LEDGERS, ids=" ".join)
@pytest.mark.parametrize("command", ["status", "resume"])
def test_a_damaged_record_is_told_and_left_alone(command, row, finished, engine):
    name, how, kind = row
    damaged(finished.out / name, how)
    before = finished.contents()
    answer = engine(command, finished.out)
    assert answer.code == 2
    assert answer.line.startswith(kind)
    assert "out.zarr" in answer.line
    assert finished.contents() == before


PROVENANCES = [
    # what someone's script may do to the attributes
    lambda own: own["plan"].pop("outputs"),
    lambda own: own["plan"].pop("geometry"),
    lambda own: own["plan"]["tilings"][0].pop("tile"),
    lambda own: own.update(plan=[]),
    lambda own: own.update(plan="none"),
    lambda own: own["plan"].update(source=None),
]


@pytest.mark.parametrize("change", PROVENANCES)
@pytest.mark.parametrize("command", ["status", "resume", "verify", "report"])
def test_a_damaged_provenance_is_told(command, change, finished, engine):
    path = finished.out / "zarr.json"
    metadata = json.loads(path.read_text())
    change(metadata["attributes"]["haloengine"])
    path.write_text(json.dumps(metadata))
    answer = engine(command, finished.out)
    assert answer.code == 2
    assert "out.zarr" in answer.line


# The rim of the command line itself.


def test_a_defect_of_the_engine_is_one_line_too(engine):
    engine.set("status", lambda _: 1 // 0)
    answer = engine("status", "out.zarr")
    assert answer.code == 3
    assert answer.line.startswith("InternalError: ZeroDivisionError: integer division")
    assert "ENGINE_LOG=debug" in answer.line


def test_the_log_holds_the_traceback_of_a_defect(engine, caplog):
    engine.set("status", lambda _: 1 // 0)
    with caplog.at_level("DEBUG", "engine"):
        engine("status", "out.zarr")
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text


def test_an_interrupt_says_how_to_go_on(engine):
    def interrupted(_):
        raise KeyboardInterrupt

    engine.set("status", interrupted)
    answer = engine("status", "out.zarr")
    assert answer.code == 130
    assert answer.err == "interrupted: what is stored is kept. Go on with 'engine resume OUTPUT'.\n"


def test_a_log_level_that_there_is_not_is_refused(engine, monkeypatch):
    monkeypatch.setenv("ENGINE_LOG", "loud")
    answer = engine("status", "out.zarr")
    assert answer.code == 2
    assert "'loud'" in answer.line


def test_a_click_of_its_own_is_understood_as_well():
    """Before typer 0.26 click was a library beside it; its errors are told by name, wherever they are defined."""
    click = pytest.importorskip("click")
    from engine.cli_errors import told

    context = click.Context(click.Command("run"), info_name="engine run")
    assert told(click.NoSuchOption("--memroy", possibilities=["--memory"], ctx=context)) == 2
    assert told(click.BadParameter("not a number", ctx=context, param_hint="'--workers'")) == 2
    assert told(click.exceptions.Abort()) == 130


# From end to end: a process of its own shows no traceback and no warning either.

APART = [
    Row("missing source", plan(lambda p: p.root / "nowhere.zarr"), ("nowhere.zarr",)),
    Row("misspelt option", good_plan("--memroy", "2G"), ("'--memory'",)),
    # both make libraries warn or log, pages of it
    Row("strings", plan(array_of("U4")), ("<U4",)),
    Row("shapes that do not fit", plan(Place.volume, "mixed_up"), ("broadcast",)),
    Row("pickle bomb", weighed(Place.bomb), ("system",)),
    Row("text called .svs", to_zarr(holding("text.svs", "no")), ("text.svs",)),
]


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("row", [*APART[:2], *(pytest.param(r, marks=pytest.mark.slow) for r in APART[2:])], ids=lambda row: row.name.replace(" ", "-"))
def test_a_process_ends_with_one_line(row, place):
    command = row.command(place)
    before = place.contents()
    answer = apart(*command)
    assert answer.code == 2
    assert all(fragment in answer.line for fragment in row.says)
    assert answer.out == ""
    assert place.contents() == before


@pytest.mark.real
@pytest.mark.skipif(not DATA.exists(), reason="the real volumes are not beside the repository")
def test_the_real_broken_slide_is_refused(place):
    answer = apart("ingest", DATA / "slide" / "broken.svs", place.out)
    assert answer.code == 2
    assert "broken.svs" in answer.line
    assert not place.contents()


def test_a_process_whose_run_fails_leaves_a_resumable_output(place, engine):
    array = smooth((64, 80))
    array[0, 0] = np.nan
    answer = apart("run", place.volume(array=array), model("good"), place.out, "--runner", "serial", *SMALL)
    assert answer.code == 1
    assert "--nan keep" in answer.line
    assert counts(engine, place)["done"] == 5


def test_a_reader_that_goes_away_is_no_error(finished):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", "report", finished.out],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode in (1, 141)  # rich's own answer, or ours
    assert done.stderr == ""
