"""The memory of a process and all that it started; used by contenders of any environment, so it knows psutil only."""

import resource
import threading
from typing import Self

import psutil


class Peak:
    """The most memory that this process and its children have held, in bytes of RSS."""

    def __enter__(self) -> Self:
        self.n_bytes, self._ends = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # exact, where there are no children
        self.n_bytes = max(self.n_bytes, own)

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._ends.wait(0.05):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.n_bytes = max(self.n_bytes, total)
