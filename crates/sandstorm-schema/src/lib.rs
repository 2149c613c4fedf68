pub mod ids {}
