-- An administrator's exceptions from the limits that grains run under.
CREATE TABLE app_limits (
  app_id TEXT NOT NULL,
  name   TEXT NOT NULL,
  value  BIGINT NOT NULL,
  PRIMARY KEY (app_id, name)
);

CREATE TABLE account_limits (
  account BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  name    TEXT NOT NULL,
  value   BIGINT NOT NULL,
  PRIMARY KEY (account, name)
);

-- Percent of its disk limit that a grain used when it was last measured.
ALTER TABLE grains ADD COLUMN fullness BIGINT NOT NULL DEFAULT 0;
