"""One module a noun: its service, repository, schemas and endpoints side by side."""
