"""What Postgres and ClickHouse hold: migrations and the tables that several stages share."""
