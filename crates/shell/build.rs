//! Migrations are embedded by a macro that cargo cannot see through: name the folder.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
