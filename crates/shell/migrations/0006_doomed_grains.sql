-- Set before a grain's files are touched: from then on nobody restores it, and a start of the server
-- ends what a kill has interrupted.
ALTER TABLE grains ADD COLUMN doomed BIGINT NOT NULL DEFAULT 0;
