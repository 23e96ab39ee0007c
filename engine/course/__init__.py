"""The course: running the student's functions, hints, and exact toys."""
