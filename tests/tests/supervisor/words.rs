//! What the program says of itself, without a grain.

use std::fs::File;
use std::process::Command;

use sandstorm_tests::program;

/// Status 0 and no text would pass for an answer.
#[test]
fn words_that_cannot_be_written_are_a_failure() {
    for option in ["--help", "--version", "--system-calls"] {
        let asked = || {
            let mut command = Command::new(program("sandstorm-supervisor"));
            command.arg(option);
            command
        };
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = asked().stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{option}: {said}");
        assert!(said.contains("cannot write to stdout: No space left"), "{option}: {said}");
        // A reader that left early has what it wanted.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = asked().stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{option}");
    }
}
