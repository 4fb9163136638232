"""GPUs: what they have, what is in use and by whom. Nothing is imported here: the commands read the choice alone."""
