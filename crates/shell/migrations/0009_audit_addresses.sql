-- From where it was done: an IP address, of a person always; none for an operator's command.
ALTER TABLE audit ADD COLUMN address TEXT;
