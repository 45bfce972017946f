"""Usage statements: what a tenant is billed for in a period, and every line behind it, for people and for programs."""
