"""The ClickHouse engine of the `chdb` wheel behind ClickHouse's own HTTP interface.

A request passes the modules in this order: `http` reads it, `users` says who asks, `body` unpacks what was sent,
`parameters` sorts settings from transport, `statements` says what kind of SQL it is, `guard` what a read-only user may
not do, `lanes` when it may run, `engine` runs it, `answers` streams what came out, `failures` words what went wrong.
"""
