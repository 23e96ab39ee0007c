"""Proof that the tests and the grader do their work: wrong solutions and hostile files."""
