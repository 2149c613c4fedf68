-- A grain that is destroyed takes its stars along: they are found without reading all.
CREATE INDEX stars_grain ON stars (grain);
