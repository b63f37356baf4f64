"""Detection in pytest."""
