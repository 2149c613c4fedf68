//! Layers around the pages of the shell's own host.
