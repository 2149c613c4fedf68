-- A manifest has up to 8 MiB. In a row of its own nobody reads past it who asks for a title.
CREATE TABLE manifests (
  package_id TEXT PRIMARY KEY REFERENCES packages (package_id) ON DELETE CASCADE,
  manifest   BLOB NOT NULL
);
INSERT INTO manifests (package_id, manifest) SELECT package_id, manifest FROM packages;
ALTER TABLE packages DROP COLUMN manifest;

-- What is shown for a package, taken out of its manifest when it is asked for the first time.
-- Empty: the package has none that can be shown.
CREATE TABLE package_icons (
  package_id TEXT NOT NULL REFERENCES packages (package_id) ON DELETE CASCADE,
  size       TEXT NOT NULL,
  mime       TEXT NOT NULL,
  bytes      BLOB NOT NULL,
  PRIMARY KEY (package_id, size)
);
