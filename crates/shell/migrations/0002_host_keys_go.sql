-- The label of a grain's host is derived from the session's secret, of which only the hash is kept.
ALTER TABLE login_sessions DROP COLUMN host_key;
