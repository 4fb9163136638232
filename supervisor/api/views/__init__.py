"""Views: pure functions from the state and an instant to what callers are answered. They read, and decide nothing."""
