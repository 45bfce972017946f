-- Users' accounts are made from their tokens. One address means one person of a tenant; another tenant's users cannot take it.
DROP INDEX users_email;
CREATE UNIQUE INDEX users_email ON users (tenant_id, lower(email));
