"""GeoJSON of all objects, streamed: one feature a line in the order of ids, gzip by the ending of the name."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from engine.objects import parts
from engine.objects.catalogue import Catalogue
from engine.objects.index import Index, owners
from engine.objects.outline import lines_of
from engine.objects.table import N_ROWS_AT_ONCE
from engine.storage import arrays

HEAD, TAIL = b'{"type":"FeatureCollection","features":[\n', b"\n]}\n"


def write_geojson(url: str, catalogue: Catalogue, index: Index) -> None:
    """Store the features that the blocks left, and show the file when it is whole.

    At most as many features are in memory as the table has rows in a group, and the files of the blocks that hold them
    one at a time. The bytes do not depend on the blocks.
    """
    with parts.appearing(url) as file, _packed(file, url) as text:
        text.write(HEAD)
        separator = b""
        for start in range(0, index.n, N_ROWS_AT_ONCE):
            for line in _lines(catalogue, index, slice(start, min(start + N_ROWS_AT_ONCE, index.n))):
                text.write(separator + line)
                separator = b",\n"
        text.write(TAIL)


def read_features(url: str) -> Iterator[dict[str, Any]]:
    """Yield the features of a file that :func:`write_geojson` wrote, one at a time."""
    file_system, path = arrays.store_of(url)
    with file_system.open(path, "rb") as file, _unpacked(file, url) as text:
        for line in text:
            if line.startswith(b'{"type":"Feature",'):
                yield json.loads(line.rstrip(b",\n"))


def _lines(catalogue: Catalogue, index: Index, span: slice) -> list[bytes]:
    """Return the features of objects ``span``, in order."""
    lines = [b""] * (span.stop - span.start)
    for block in np.unique(owners(catalogue, index, span)).tolist():
        for number, line in lines_of(parts.read_archive(catalogue.part("outlines", block))):
            if span.start < number <= span.stop:
                lines[number - 1 - span.start] = line
    return lines


@contextmanager
def _packed(file: IO[bytes], url: str) -> Iterator[IO[bytes]]:
    """Yield where to write: through gzip, always with the same bytes, if the name ends in .gz."""
    if not url.endswith(".gz"):
        yield file
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed:
        yield packed  # type: ignore[misc]


@contextmanager
def _unpacked(file: IO[bytes], url: str) -> Iterator[IO[bytes]]:
    if not url.endswith(".gz"):
        yield file
        return
    with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
        yield unpacked  # type: ignore[misc]
