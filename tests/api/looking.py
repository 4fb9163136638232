"""The status as its reader gets it."""

from __future__ import annotations

import msgspec

from supervisor.api.shapes import StatusView
from supervisor.api.views.kept import Kept
from supervisor.api.views.overview import overview
from tests.core.box import Box


def status_of(box: Box) -> StatusView:
    return msgspec.json.decode(msgspec.json.encode(overview(box.state, box.now, "1", Kept())), type=StatusView)
