"""A lease held around a command: its process group, the terminal, signals, and who renews while we are stopped.

Nothing in here knows the command line, and nothing decides about leases.
"""
