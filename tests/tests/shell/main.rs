//! The shell against real supervisors, bridges and apps: what bug reports of systems like this
//! one say goes wrong, and what hostile pages, clients and apps try. The app of most tests is the
//! probe (`tests/apps/probe`), which answers what a test tells it to.

mod admin;
mod answers;
mod awake;
mod bodies;
mod check;
mod commands;
mod control;
mod deaf;
mod forms;
mod full;
mod lifecycle;
mod logs;
mod packages;
mod places;
mod ports;
mod requests;
mod room;
mod sessions;
mod sockets;
mod support;
mod trouble;
