"""The commands with their options and their help, and nothing else.

What they do is imported when they run: `--help` must not wait for an HTTP client.
"""
