//! `shell check`: is everything in place for grains to run?
