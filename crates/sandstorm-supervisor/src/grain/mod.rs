//! The running grain: its app, its log, its storage, its signs of life.

pub mod allowance;
pub mod app;
pub mod book;
pub mod disk;
pub mod image;
pub mod life;
pub mod log;
pub mod memory;
pub mod project;
pub mod storage;
pub mod www;
