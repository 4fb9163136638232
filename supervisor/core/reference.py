"""labels.md, made of the tables in ``core.labels``: ``python -m supervisor.core.reference > labels.md``.

A test keeps the file in step, and checks its example as Compose itself reads it.
"""

from __future__ import annotations

from supervisor.core.labels import LABELS, PREFIX
from supervisor.core.problems import PROBLEMS
from supervisor.core.values import LIST_MAX

PAGE = """\
# Labels

<!-- Generated: python -m supervisor.core.reference > labels.md -->

Put these on the services of the compose files that you already have:

```yaml
{example}\
```

Then `gpu-supervisor check docker-compose.yml` says what is wrong before anything starts, and
`docker compose create && gpu-supervisor acquire comfyui` leases the GPU for it.

{labels}

Labels are fixed for a container's life: after a change, `docker compose create` makes the containers anew.

## Which GPUs a container uses

That is read from what Docker was asked for, and needs no label: `gpus`, `deploy.resources.reservations.devices`
and CDI names (`nvidia.com/gpu=0`) of a compose file, `docker run --gpus`, or the `nvidia` runtime with
`NVIDIA_VISIBLE_DEVICES`.

| Docker was asked for | the container uses |
| --- | --- |
| nothing | any one GPU |
| ids: indices or UUIDs | those GPUs |
| `count: 2` | GPUs 0 and 1: Docker hands out the first ones by index, whatever runs on them |
| `all`, or in a compose file neither a count nor ids | all GPUs |

`{prefix}devices` on a container comes before all of that. A target uses what all of its containers use together, and
waits for just these GPUs.

## How values are read

- Booleans: `true` or `false`, `1` or `0`, `yes` or `no`, `on` or `off`, in any case.
- Numbers: plain digits, without unit, sign (a minus where negative numbers are allowed), leading zeros or blanks.
- Sizes: a number, which may have a fraction, and its unit without a blank between them, in upper or lower case.
  `MiB`, `GiB`, `TiB` and, as in Docker, `M`, `G`, `T` are binary; `MB`, `GB`, `TB` are decimal. What is not a whole
  number of MiB is rounded up: `12GiB` and `12g` are 12288 MiB, `12GB` is 11445.
- Durations: `90`, `90s`, `5m`, `1h30m`, `7d`; a bare number is seconds. Where `none` is allowed, `0` is the same: off.
- Lists: items between commas, {list_max} at most; their order, blanks around them and repetitions don't count.

Nothing is guessed: a value that cannot be read makes the target invalid, and so does an empty one. An invalid
target is not leased, and a container of it that starts is stopped like any other without a lease; nothing that has a
lease already, or is resident, is stopped because a label went bad.

## What can be wrong

Each problem names the container and its Compose service, and says what to type. It is shown by `gpu-supervisor check`,
in the status, the targets and the log.

{problems}
"""

EXAMPLE = """\
services:
  comfyui:
    image: comfyui
    labels:
      {prefix}target: comfyui
      {prefix}healthcheck-master: "true"
      {prefix}vram: 12GiB
      {prefix}priority: "10"
    healthcheck:
      test: [CMD, curl, -f, "http://localhost:8188/system_stats"]
      interval: 2s
    restart: "no"
"""


def page(prefix: str = PREFIX) -> str:
    """Return labels.md."""
    return PAGE.format(
        example=EXAMPLE.format(prefix=prefix),
        labels=_table(
            ("label", "value", "default", "meaning", "example"),
            [(f"`{prefix}{x.name}`", x.value, x.default, x.meaning, f"`{x.example}`") for x in LABELS],
        ),
        prefix=prefix,
        list_max=LIST_MAX,
        problems=_table(("code", "meaning"), [(f"`{code}`", meaning) for code, meaning in PROBLEMS.items()]),
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    print(page(), end="")
