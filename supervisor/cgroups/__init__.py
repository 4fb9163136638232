"""Below the engine: what root on the host can do through a container's cgroup before the engine does anything.

``trees``     the mounted hierarchies in which a container can be killed (cgroup v1 and v2)
``places``    where an engine puts the cgroup of the container with a given id
``ending``    killing everything in one cgroup
``tripwire``  sees a container's cgroup appear, before its main process runs
``below``     the above together, tried out on a process of our own before it is trusted

Nothing in here decides whom to kill. A cgroup is only ever found by a container's full id.
"""
