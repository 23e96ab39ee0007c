"""How the two small models in `tiny/` are built. `python -m tiny.build` starts it."""
