//! Static files built into the program.
