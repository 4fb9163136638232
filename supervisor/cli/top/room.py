"""How the height of the screen is shared among panes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

#: A pane's title, and two lines.
LEAST = 3


def shared(needs: Sequence[int], total: int, favoured: int | None = None) -> list[int]:
    """Share ``total`` lines among panes that would need so many each; all lines are used.

    Each has at least three as long as they last. Then whoever has least gets the next, the ``favoured`` one twice as
    often, until it has what it needs; what is left over is the last one's.
    """
    found = [0] * len(needs)
    for _ in range(max(0, total)):
        short = [at for at in range(len(needs)) if found[at] < LEAST]
        short = short or [at for at in range(len(needs)) if found[at] < needs[at]]
        at = min(short, key=lambda at: (found[at] / (2 if at == favoured else 1), at)) if short else len(needs) - 1
        found[at] += 1
    return found
