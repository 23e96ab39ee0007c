"""Collect what students hand in, run it in a sandbox, turn the outcomes into grades."""
