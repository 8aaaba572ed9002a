"""Freed tensors stay in a worker until they are released, and do not hide what a probe run measures."""

import resource
import subprocess
import sys

SCRIPT = """
import re, torch
from pathlib import Path
from engine.models.allocator import keep_freed_memory, release_freed_memory
from engine.models.measure import measure

def rss():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) // 1024

keep_freed_memory()
before = rss()
x = torch.ones(64 * 2**20)
del x
kept = rss() - before
peak = measure(torch.nn.Softmax(1), torch.ones(1, 1, 2**24)).peak_bytes // 2**20
small = max(measure(torch.nn.Softmax(1), torch.ones(1, 1, 2**19)).peak_bytes for _ in range(2)) // 2**20
release_freed_memory()
print(kept, rss() - before, peak, small)
"""


def test_freed_tensors_are_kept_until_released_and_do_not_hide_the_peak_of_a_probe():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    kept, left, peak, small = map(int, done.stdout.split())
    assert kept > 200  # of 256 MiB
    assert left < 100
    assert small >= 5  # two of 2 MiB, and about half as much again for holes
    assert peak > 120  # two tensors of 64 MiB: input and output of one layer


HEAPS_SCRIPT = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import torch  # first, and threads before the engine: each gets a heap of its own
early = [ThreadPoolExecutor(1) for _ in range(3)]
for one in early:
    one.submit(bytes, 10_000).result()
from engine.models.allocator import computing_thread, keep_freed_memory

def faults(n_rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n_rounds):
        torch.ones(25 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
for thread in (early[0], computing_thread()):
    thread.submit(faults, 16).result()  # until what is left over of a cut tensor has found its places
    print(thread.submit(faults, 10).result())
"""


def test_a_computing_thread_keeps_large_tensors_whatever_was_imported_first():
    done = subprocess.run([sys.executable, "-c", HEAPS_SCRIPT], capture_output=True, text=True, check=True)
    elsewhere, computing = map(int, done.stdout.split())
    pages = 10 * 100 * 2**20 // resource.getpagesize()  # touched in 10 rounds of 100 MiB
    assert computing < 0.3 * pages
    assert elsewhere > 0.001 * pages  # huge pages are 512 times fewer; kept memory makes none
