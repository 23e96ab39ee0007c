"""Figures about texts: metrics, the best possible policy, the judge, samples, runs and tables."""
