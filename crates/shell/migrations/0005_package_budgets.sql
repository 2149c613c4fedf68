-- What a package takes on the disk, as this server measured it: bytes of its file and of its tree
-- in whole blocks, and entries of the tree. 0 entries: it came before they were counted.
ALTER TABLE packages ADD COLUMN disk BIGINT NOT NULL DEFAULT 0;
ALTER TABLE packages ADD COLUMN entries BIGINT NOT NULL DEFAULT 0;
UPDATE packages SET disk = packed_size + unpacked_size;
CREATE INDEX packages_installed_by ON packages (installed_by);

-- Packages that are gone whose files may still be there: what a kill leaves is removed by name, and
-- never because this file does not know it.
CREATE TABLE removals (
  package_id TEXT PRIMARY KEY,
  at         BIGINT NOT NULL
);
