"""A language model: loading it, reading texts with it, sampling, scoring, several processes."""
