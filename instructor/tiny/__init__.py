"""How the two small models in `tiny/` are built. `instructor/build_tiny.py` starts it."""
