"""Make what students get: rewards.py, the notebook, the copy without solutions."""
