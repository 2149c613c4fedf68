-- How many grains had this port before, and what a browser is known by that has forgotten theirs.
ALTER TABLE ports ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE ports ADD COLUMN mark TEXT NOT NULL DEFAULT '';
