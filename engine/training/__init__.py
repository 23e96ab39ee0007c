"""A training run: its batch, its trainer, what it shows, what it keeps, how it goes on."""
