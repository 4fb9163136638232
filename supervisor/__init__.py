"""The GPU supervisor: leases for the GPU of one box, steered by labels on Docker Compose stacks."""

__version__ = "0.2.0"
