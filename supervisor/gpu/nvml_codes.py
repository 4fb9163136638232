"""NVML's return codes that mean something to us (nvml.h, nvmlReturn_t): for both sides of the pipe."""

from __future__ import annotations

NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, INSUFFICIENT_SIZE = 3, 4, 6, 7
FUNCTION_NOT_FOUND, VERSION_MISMATCH = 13, 25
LIBRARY_MISMATCH = 18
#: Ours, for what is no error of the library: pynvml failed on the way to it, and pynvml has no such function.
NOT_CALLED, NOT_IN_PYNVML = -1, -2
#: The GPU is gone: it fell off the bus, wants a reset, or is not found.
LOST = frozenset({15, 16, 28})
#: What these say is true of all GPUs: the library is not set up, there is no driver, they do not fit together.
ALL_GPUS = frozenset({1, 9, LIBRARY_MISMATCH})
