"""One module a command; each imports its stage only when it runs."""
