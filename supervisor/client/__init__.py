"""Leases for the GPU, from Python."""
