"""Outgoing webhooks: chosen facts, told to somebody else over HTTP. They decide nothing and nobody waits for them."""
