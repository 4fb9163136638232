"""GPUs: what they have and what is in use. For now: simulated ones, and one of unknown size."""

from supervisor.gpu.sim import SimulatedGpus

__all__ = ["SimulatedGpus"]
