"""Values for programs (JSON)."""
