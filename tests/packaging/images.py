"""Images made of what this machine has, for builds without a registry and without a network.

``python_base`` is this very Python in the busybox image; ``wheels`` are the installed distributions, packed again;
``program`` is one installed program in the busybox image. Each has the shared libraries that it loads, at their paths.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import docker
from packaging.requirements import Requirement

#: Parts of the standard library that no supervisor needs; config-* is a static library of 50 MiB.
LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "site-packages", "dist-packages")
#: What a wheel for manylinux may take for granted (PEP 599), beside what Python itself loads.
TAKEN_FOR_GRANTED = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libgcc_s.so.1", "libstdc++.so.6")
#: Where Debian keeps the wheels of ensurepip.
BUNDLED = Path("/usr/share/python-wheels")


def python_base(api: docker.APIClient, busybox: str, tag: str) -> None:
    """Import an image with ``python3`` on its PATH, venv and pip included."""
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    modules = list(_modules(stdlib))
    bundled = list(BUNDLED.glob("*.whl"))
    natives = [path for path in modules if path.suffix == ".so"]
    loaded = libraries([executable, *natives])
    beside = next(path.parent for path in loaded if path.name == "libc.so.6")
    granted = {beside / name: (beside / name).resolve() for name in TAKEN_FOR_GRANTED if (beside / name).exists()}
    files = {path: path for path in (executable, *modules, *bundled)} | loaded | granted
    links = {} if executable.name == "python3" else {executable.parent / "python3": executable.name}
    _import(api, busybox, tag, files, links, [f"ENV PATH={executable.parent}:/bin"])


def program(api: docker.APIClient, busybox: str, tag: str, path: Path, changes: list[str]) -> None:
    """Import an image with one program of this machine, at its own path."""
    _import(api, busybox, tag, {path: path} | libraries([path]), {}, changes)


def libraries(binaries: Iterable[Path]) -> dict[Path, Path]:
    """Return what the dynamic linker loads for these: the path it is looked for at, and the file that is there."""
    listed = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    found = re.findall(r"(?:=>\s+|^\s+)(/\S+) \(0x", listed, re.MULTILINE)
    return {Path(path): Path(path).resolve() for path in set(found)}


def _modules(stdlib: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(stdlib):
        below[:] = [name for name in below if name not in LEFT_OUT and not name.startswith("config-")]
        yield from (Path(folder, name) for name in names if ".opt-" not in name)


def _import(
    api: docker.APIClient, busybox: str, tag: str, files: dict[Path, Path], links: dict[Path, str], changes: list[str]
) -> None:
    made = api.create_container(busybox, ["true"])["Id"]
    try:
        packed = io.BytesIO(b"".join(api.export(made)))
    finally:
        api.remove_container(made)
    with tarfile.open(fileobj=packed, mode="a") as tar:
        for at, path in sorted(files.items()):
            tar.add(path, arcname=str(at), recursive=False, filter=_for_everybody)
        for at, target in links.items():
            link = tarfile.TarInfo(str(at).lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    api.import_image_from_data(packed.getvalue(), repository=tag, changes=changes)


def _for_everybody(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mode |= 0o444
    info.uid = info.gid = 0
    return info


# ---- wheels


def wheels(folder: Path, project: str, *also: str) -> None:
    """Write a wheel of each installed distribution that the project needs (without extras), and of those beside it."""
    folder.mkdir()
    for distribution in _closure((project, *also)):
        if distribution.metadata["Name"] != project:
            _pack(distribution, folder)


def _closure(roots: Iterable[str]) -> Iterator[importlib.metadata.Distribution]:
    waiting, seen = [(root, "") for root in roots], set[str]()
    while waiting:
        name, extra = waiting.pop()
        key = re.sub(r"[-_.]+", "-", f"{name}[{extra}]".lower())
        if key in seen:
            continue
        distribution = importlib.metadata.distribution(name)
        if not any(known.startswith(key.partition("[")[0] + "[") for known in seen):
            yield distribution
        seen.add(key)
        for line in distribution.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, one) for one in ("", *needed.extras)]


def _pack(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    tags = [tag.split("-") for tag in re.findall(r"^Tag: (\S+)", distribution.read_text("WHEEL") or "", re.MULTILINE)]
    tag = "-".join(".".join(sorted(set(parts))) for parts in zip(*tags, strict=True))
    name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"])
    record: list[str] = []
    with zipfile.ZipFile(folder / f"{name}-{distribution.version}-{tag}.whl", "w", zipfile.ZIP_STORED) as wheel:
        for path in distribution.files or ():
            if path.parts[0] == ".." or path.suffix == ".pyc" or path.name in ("RECORD", "INSTALLER", "REQUESTED"):
                continue
            content = Path(str(path.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            wheel.writestr(str(path), content)
            record.append(f"{path},sha256={digest},{len(content)}\n")
        info = next(path.parts[0] for path in distribution.files or () if path.name == "METADATA")
        wheel.writestr(f"{info}/RECORD", "".join(record) + f"{info}/RECORD,,\n")


# ---- building


def build(api: docker.APIClient, context: Path, tag: str, *, base: str, target: str | None = None) -> None:
    """Build the Containerfile without a network. Raises ``AssertionError`` with what the build said."""
    said = ""
    for part in api.build(
        path=str(context),
        dockerfile="Containerfile",
        tag=tag,
        target=target,
        buildargs={"BASE": base},
        network_mode="none",
        rm=True,
        forcerm=True,
        decode=True,
    ):
        said += str(part.get("stream", "")) + str(part.get("error", ""))
        assert "error" not in part, said


@contextlib.contextmanager
def removed_afterwards(api: docker.APIClient, *tags: str) -> Iterator[None]:
    try:
        yield
    finally:
        for tag in tags:
            with contextlib.suppress(docker.errors.ImageNotFound):
                api.remove_image(tag, force=True)


def size_mib(api: docker.APIClient, tag: str) -> float:
    return float(api.inspect_image(tag)["Size"]) / (1 << 20)


__all__ = ["build", "program", "python_base", "removed_afterwards", "size_mib", "wheels"]
