"""``gpu-supervisor top``: everything on one screen, live, with keys that act.

``model`` and its helpers (``words``, ``bars``, ``columns``, ``deeds``, ``details``) are pure: from the answers of the
server to what is shown, and from a key to the request that it stands for. ``feed`` reads, the rest is Textual.
"""
