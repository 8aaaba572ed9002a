"""Generated scans: volumes with a place in the patient, label maps on them, and their DICOM series."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage.create import create_volume

SHAPE = (10, 20, 24)

STRAIGHT = np.array([[0.8, 0, 0, -9.0], [0, 0.7, 0, 4.0], [0, 0, 2.5, -100.0], [0, 0, 0, 1]])
FLIPPED = np.array([[-0.8, 0, 0, 30.0], [0, 0.7, 0, -12.5], [0, 0, -2.5, 64.0], [0, 0, 0, 1]])


def turned(affine=STRAIGHT, degrees=(12.0, -25.0, 40.0)):
    """An oblique affine: turned about all three axes."""
    found = affine.copy()
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        found[:3, :3] = turn @ found[:3, :3]
    return found


def sheared(affine=STRAIGHT):
    """A gantry tilt: each plane is shifted along y."""
    found = affine.copy()
    found[1, 2] = 0.6
    return found


def store(url, voxels, affine=None, *, names="zyx", scan=None, chunk=None, spacing=None, origin=None, units="millimeter") -> str:
    """Write a volume with its orientation, and return its URL."""
    if spacing is None:
        spacing = np.ones(3) if affine is None else np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[::-1]
    steps = dict(zip("zyx", spacing, strict=True))
    roles = {"c": Role.CHANNEL, "t": Role.BATCH}
    axes = [Axis(n, roles.get(n, Role.SPACE), float(steps.get(n, 2.0)), units if n in "zyx" else {"t": "second"}.get(n)) for n in names]
    attributes = {} if affine is None else {"scan": {"affine": affine.tolist(), **(scan or {})}}
    volume = create_volume(
        str(url), axes=axes, dtype=voxels.dtype, shape=voxels.shape, chunk_shape=chunk or (*voxels.shape[:-3], 4, 16, 16),
        attributes=attributes, origin=None if origin is None else (*(0.0,) * (voxels.ndim - 3), *origin),
    )
    volume.write(Region.whole(voxels.shape), voxels)
    return str(url)


def balls(shape=SHAPE, n_labels=3, dtype="uint8"):
    """A label map of balls that do not lie symmetrically, so that a mirrored one differs; its first and last planes are empty."""
    rng = np.random.default_rng(5)
    grid = np.indices(shape)
    found = np.zeros(shape, dtype)
    for label in range(1, n_labels + 1):
        centre = [rng.uniform(0.25 * n, 0.75 * n) for n in shape]
        away = sum(((g - c) / (0.16 * n)) ** 2 for g, c, n in zip(grid, centre, shape, strict=True))
        found[away < 1] = label
    found[[0, -1]] = 0
    return found


def series(folder: Path, affine, *, shape=SHAPE, seed=1, uid=None, frame=None, drift=None):
    """Write a CT series of which voxel (x, y, z) lies where ``affine`` says, and return what a scan of it is to know."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    uid, frame, study = uid or generate_uid(), frame or generate_uid(), generate_uid()
    lps = np.diag([-1, -1, 1, 1]) @ affine
    column, row = (lps[:3, i] / np.linalg.norm(lps[:3, i]) for i in range(2))
    instances = [generate_uid() for _ in range(shape[0])]
    away = np.zeros((shape[0], 3)) if drift is None else drift
    for z, name in enumerate(rng.permutation(shape[0])):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, instances[z]
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        one.SOPClassUID, one.SOPInstanceUID, one.StudyInstanceUID = CTImageStorage, instances[z], study
        one.SeriesInstanceUID, one.FrameOfReferenceUID, one.Modality = uid, frame, "CT"
        one.SeriesNumber, one.SeriesDescription, one.InstanceNumber = 4, "THORAX 2.5 B30f", int(name) + 1
        one.PatientID, one.PatientName, one.PatientBirthDate, one.PatientSex = "P1", "Doe^Jane", "19700101", "F"
        one.StudyID, one.StudyDate, one.StudyTime, one.AccessionNumber = "1", "20260102", "101500", "A1"
        one.Manufacturer, one.PositionReferenceIndicator = "Generated", ""
        one.ImagePositionPatient = [f"{v:.8g}" for v in lps[:3, :] @ (0, 0, z, 1) + away[z]]
        one.ImageOrientationPatient = [f"{v:.10g}" for v in (*column, *row)]
        one.PixelSpacing = [f"{np.linalg.norm(affine[:3, i]):.8g}" for i in (1, 0)]
        one.SliceThickness = f"{np.linalg.norm(affine[:3, 2]):.6g}"
        one.Rows, one.Columns = shape[1:]
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PixelRepresentation = 1, "MONOCHROME2", 1
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.RescaleSlope, one.RescaleIntercept = 15, 1, 0
        one.PixelData = rng.integers(-1000, 1000, shape[1:]).astype("<i2").tobytes()
        one.save_as(folder / f"IM{name:04d}", enforce_file_format=True)
    return {
        "format": "dicom",
        "dicom": {
            "series_instance_uid": uid, "study_instance_uid": study, "frame_of_reference_uid": frame, "modality": "CT",
            "sop_class_uid": CTImageStorage, "instances": instances,
        },
    }  # fmt: skip
