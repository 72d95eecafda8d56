"""How the process takes memory from the system."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_BYTES = 1 << 30
_BYTES_BEFORE_2_35 = 32 << 20
"""The largest threshold that glibc before 2.35 takes for pieces outside of the heap."""


def keep_memory() -> None:
    """Let the C library keep memory that is given back to it, up to a gigabyte at the end of the heap, where it can.

    By default it returns every large piece to the system and has it filled with zeros again, page by page: on the CPU that
    costs more than computing a tensor of 50 MB. Where the environment sets one of its two thresholds (mallopt(3)), they stay
    as they are: ``MALLOC_MMAP_THRESHOLD_=131072`` lets a process hold no more than it needs, at the price of that time.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is None:
        return
    # The trim threshold alone would do harm: to set it fixes the other, which else grows with what is given back.
    if mallopt(_MMAP_THRESHOLD, _BYTES) or mallopt(_MMAP_THRESHOLD, _BYTES_BEFORE_2_35):
        mallopt(_TRIM_THRESHOLD, _BYTES)
