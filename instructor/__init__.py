"""The tools of the instructor: hand out, grade, and proofs that both can be trusted."""
