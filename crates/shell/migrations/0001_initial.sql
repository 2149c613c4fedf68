-- Times are milliseconds since 1970 (UTC); sizes are bytes; booleans are 0 and 1.
-- Secrets are stored as SHA-256 only, except the keys from which host labels are derived.

CREATE TABLE settings (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

CREATE TABLE accounts (
  id           INTEGER PRIMARY KEY,
  display_name TEXT NOT NULL,
  handle       TEXT NOT NULL UNIQUE,
  role         TEXT NOT NULL CHECK (role IN ('admin', 'member', 'visitor')),
  created      BIGINT NOT NULL,
  suspended    BIGINT
);

-- How a person proves to be an account. One (kind, subject) belongs to one account for good.
CREATE TABLE credentials (
  id        INTEGER PRIMARY KEY,
  kind      TEXT NOT NULL,
  subject   TEXT NOT NULL,
  account   BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  created   BIGINT NOT NULL,
  last_used BIGINT,
  UNIQUE (kind, subject)
);
CREATE INDEX credentials_account ON credentials (account);

-- host_key: 32 bytes; a grain's host label is keyed with it, so labels last as long as the session.
CREATE TABLE login_sessions (
  id         INTEGER PRIMARY KEY,
  hash       BLOB NOT NULL UNIQUE,
  account    BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  created    BIGINT NOT NULL,
  last_seen  BIGINT NOT NULL,
  expires    BIGINT NOT NULL,
  user_agent TEXT NOT NULL,
  host_key   BLOB NOT NULL
);
CREATE INDEX login_sessions_account ON login_sessions (account);

CREATE TABLE one_time_links (
  hash    BLOB PRIMARY KEY,
  purpose TEXT NOT NULL CHECK (purpose IN ('admin', 'open-grain')),
  account BIGINT REFERENCES accounts (id) ON DELETE CASCADE,
  target  TEXT,
  created BIGINT NOT NULL,
  expires BIGINT NOT NULL,
  used    BIGINT
);

-- A package whose tree stands in apps/PACKAGE_ID.
CREATE TABLE packages (
  package_id        TEXT PRIMARY KEY,
  app_id            TEXT NOT NULL,
  manifest          BLOB NOT NULL,
  title             TEXT NOT NULL,
  app_version       BIGINT NOT NULL,
  marketing_version TEXT NOT NULL,
  fingerprint       TEXT,
  packed_size       BIGINT NOT NULL,
  unpacked_size     BIGINT NOT NULL,
  installed         BIGINT NOT NULL,
  installed_by      BIGINT REFERENCES accounts (id) ON DELETE SET NULL
);
CREATE INDEX packages_app ON packages (app_id, app_version);

-- The manifest's actions without input: what "New ..." offers.
CREATE TABLE package_actions (
  package_id TEXT NOT NULL REFERENCES packages (package_id) ON DELETE CASCADE,
  position   BIGINT NOT NULL,
  noun       TEXT NOT NULL,
  description TEXT NOT NULL,
  PRIMARY KEY (package_id, position)
);

-- One file on its way in, by its id: every viewer reads the same row.
CREATE TABLE installs (
  package_id TEXT PRIMARY KEY,
  state      TEXT NOT NULL CHECK (state IN ('get', 'check', 'unpack', 'confirm', 'ready', 'failed')),
  step       TEXT NOT NULL,
  done       BIGINT NOT NULL,
  total      BIGINT NOT NULL,
  url        TEXT,
  error_code TEXT,
  error      TEXT,
  started_by BIGINT REFERENCES accounts (id) ON DELETE SET NULL,
  created    BIGINT NOT NULL,
  updated    BIGINT NOT NULL
);

-- Which version of an app a person chose.
CREATE TABLE account_apps (
  account    BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  app_id     TEXT NOT NULL,
  package_id TEXT NOT NULL REFERENCES packages (package_id),
  added      BIGINT NOT NULL,
  PRIMARY KEY (account, app_id)
);

-- Which version everybody has who chose none: what the operator installed for the whole server.
CREATE TABLE server_apps (
  app_id     TEXT PRIMARY KEY,
  package_id TEXT NOT NULL REFERENCES packages (package_id),
  added      BIGINT NOT NULL
);

-- search: lower-cased title and app title. command: 1 while the grain was never started.
CREATE TABLE grains (
  id           TEXT PRIMARY KEY,
  package_id   TEXT NOT NULL REFERENCES packages (package_id),
  app_id       TEXT NOT NULL,
  app_version  BIGINT NOT NULL,
  owner        BIGINT NOT NULL REFERENCES accounts (id),
  title        TEXT NOT NULL,
  search       TEXT NOT NULL,
  noun         TEXT NOT NULL,
  action       BIGINT NOT NULL,
  started      BIGINT,
  created      BIGINT NOT NULL,
  last_used    BIGINT NOT NULL,
  size         BIGINT NOT NULL DEFAULT 0,
  trashed_at   BIGINT,
  exit_at      BIGINT,
  exit_code    TEXT,
  exit_reason  TEXT
);
CREATE INDEX grains_owner ON grains (owner, trashed_at, last_used);
CREATE INDEX grains_package ON grains (package_id);

-- What one grain's app sees of one person; never the same in two grains.
CREATE TABLE grain_identities (
  grain    TEXT NOT NULL REFERENCES grains (id) ON DELETE CASCADE,
  account  BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  identity BLOB NOT NULL,
  created  BIGINT NOT NULL,
  PRIMARY KEY (grain, account)
);

CREATE TABLE stars (
  account BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  grain   TEXT NOT NULL REFERENCES grains (id) ON DELETE CASCADE,
  PRIMARY KEY (account, grain)
);

-- A grain opened by a login session (or, with login_session null, for a script).
CREATE TABLE grain_sessions (
  host          TEXT PRIMARY KEY,
  grain         TEXT NOT NULL REFERENCES grains (id) ON DELETE CASCADE,
  account       BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  login_session BIGINT REFERENCES login_sessions (id) ON DELETE CASCADE,
  sid_hash      BLOB,
  permissions   TEXT,
  created       BIGINT NOT NULL,
  expires       BIGINT
);
CREATE INDEX grain_sessions_grain ON grain_sessions (grain);
CREATE INDEX grain_sessions_login ON grain_sessions (login_session);

-- Port mode: a port belongs to one (grain, account) for good, since a browser's storage does.
CREATE TABLE ports (
  port    BIGINT PRIMARY KEY,
  grain   TEXT NOT NULL,
  account BIGINT NOT NULL,
  created BIGINT NOT NULL,
  UNIQUE (grain, account)
);

-- What just happened to a person's things. undo: an act's name, with its argument, that takes it back.
CREATE TABLE notices (
  id      INTEGER PRIMARY KEY,
  account BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  created BIGINT NOT NULL,
  tone    TEXT NOT NULL,
  text    TEXT NOT NULL,
  undo    TEXT,
  shown   BIGINT
);
CREATE INDEX notices_account ON notices (account, created);

CREATE TABLE audit (
  id      INTEGER PRIMARY KEY,
  at      BIGINT NOT NULL,
  account BIGINT REFERENCES accounts (id) ON DELETE SET NULL,
  action  TEXT NOT NULL,
  target  TEXT NOT NULL,
  detail  TEXT NOT NULL
);
CREATE INDEX audit_at ON audit (at);
