"""Decoded chunks of a climate source: the last used ones, within bounded bytes, shared by all threads of a process."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from numpy.typing import NDArray

Array = NDArray[Any]

LEAST_BYTES = 16 * 1024 * 1024
"""Bytes that are kept however little is read at a time."""


class DecodedChunks:
    """Keeps decoded chunks until the room is needed; a chunk that is being decoded is waited for.

    A globe with all its levels is often one stored chunk. All tiles of it are cut from one decoded copy.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, Future[Array]] = OrderedDict()
        self._limit = LEAST_BYTES
        self._n_bytes = 0
        self._n_decoded = 0

    @property
    def n_decoded(self) -> int:
        """Stored chunks decoded since the source was first opened; one that was dropped and read again counts twice."""
        return self._n_decoded

    @property
    def n_bytes(self) -> int:
        """Bytes that are kept now."""
        return self._n_bytes

    def reserve(self, n_bytes: int) -> None:
        """Raise the bound to ``n_bytes``, where it is lower."""
        with self._lock:
            self._limit = max(self._limit, n_bytes)

    def get(self, key: Hashable, decode: Callable[[], Array], *, n_bytes: int, n_stored: int = 1) -> Array:
        """Return a decoded chunk; not to be written to.

        Args:
            key: Which one.
            decode: Makes it, where it is not kept; called once for all threads that ask meanwhile.
            n_bytes: What it takes once decoded; room for it is made before.
            n_stored: Stored chunks in it.
        """
        with self._lock:
            future = self._kept.get(key)
            is_new = future is None
            if future is None:
                self._make_room(n_bytes)
                future = self._kept[key] = Future()
                self._n_bytes, self._n_decoded = self._n_bytes + n_bytes, self._n_decoded + n_stored
            self._kept.move_to_end(key)
        if is_new:
            self._decode(key, future, decode, n_bytes=n_bytes)
        return future.result()

    def _decode(self, key: Hashable, future: Future[Array], decode: Callable[[], Array], *, n_bytes: int) -> None:
        try:
            future.set_result(decode())
        except BaseException as error:
            with self._lock:
                del self._kept[key]
                self._n_bytes -= n_bytes
            future.set_exception(error)
            raise

    def _make_room(self, n_bytes: int) -> None:
        """Drop what was used longest ago and is decoded, until ``n_bytes`` more fit."""
        for key, future in list(self._kept.items()):
            if self._n_bytes + n_bytes <= self._limit:
                return
            if future.done():
                self._n_bytes -= future.result().nbytes
                del self._kept[key]


_shared: WeakValueDictionary[Hashable, DecodedChunks] = WeakValueDictionary()
_sharing = Lock()


def shared_chunks(key: Hashable) -> DecodedChunks:
    """Return the chunks that all readers of one source in this process share; they go with the last reader."""
    with _sharing:
        found = _shared.get(key)
        if found is None:
            found = _shared[key] = DecodedChunks()
        return found
