-- From where it was done: an IP address, of a person from now on; none for an operator's command.
ALTER TABLE audit ADD COLUMN address TEXT;
