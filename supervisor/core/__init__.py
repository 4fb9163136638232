"""The pure core: what happened goes in, what was decided comes out. No clock, no I/O, no await.

Imports only the standard library, msgspec and sortedcontainers; a test holds that.
"""
