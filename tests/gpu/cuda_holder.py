"""A CUDA process that holds memory: ``python -m tests.gpu.cuda_holder MIB``, by the driver's own library alone.

It prints ``held`` when the memory of the first visible GPU is its own and written to, and ends in order at the end of
its input.
"""

from __future__ import annotations

import ctypes
import sys


def main() -> None:
    size_b = ctypes.c_size_t(int(sys.argv[1]) * 2**20)
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        if code := getattr(cuda, name)(*arguments):
            sys.exit(f"{name} says {code} (cuda.h, CUresult)")

    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuMemAlloc_v2", ctypes.byref(memory), size_b)
    call("cuMemsetD8_v2", memory, ctypes.c_ubyte(0xA5), size_b)
    call("cuCtxSynchronize")
    print("held", flush=True)
    sys.stdin.read()
    call("cuMemFree_v2", memory)


if __name__ == "__main__":
    main()
