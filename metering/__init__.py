"""The rules, pure: what a record means, what a range adds, what a tenant may use. No I/O, no clock."""
