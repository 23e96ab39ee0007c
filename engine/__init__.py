"""The machinery. You may read it; no exercise lives here; it imports nothing from above."""
