"""Write the golden HTTP contract of this version: ``python -m tests.golden.record_api``.

Done once for each release and never again, like the journal's. Before its release a version may be recorded anew:
delete its file first. Examples are left out: they promise nothing.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import supervisor
from supervisor.api.openapi import document

GOLDEN = Path(__file__).parent


def contract(version: str) -> dict[str, Any]:
    """Return the document of today without its examples."""
    said = deepcopy(document(version))
    del said["components"]["examples"]
    for ways in said["paths"].values():
        for operation in ways.values():
            answers = [*operation["responses"].values(), operation.get("requestBody", {})]
            for content in (media for answer in answers for media in answer.get("content", {}).values()):
                content.pop("examples", None)
    return said


def recorded() -> dict[str, dict[str, Any]]:
    """Return the contracts of all versions that were recorded."""
    return {
        path.stem.removeprefix("openapi-"): json.loads(path.read_text())
        for path in sorted(GOLDEN.glob("openapi-*.json"))
    }


if __name__ == "__main__":
    target = GOLDEN / f"openapi-{supervisor.__version__}.json"
    if target.exists():
        sys.exit(f"{target.name} is recorded already: a released contract never changes")
    target.write_text(json.dumps(contract(supervisor.__version__), indent=1) + "\n")
