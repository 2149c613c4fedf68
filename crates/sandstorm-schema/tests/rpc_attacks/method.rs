//! Method numbers of the victim's object, as the attacks name them. Against a program that has no
//! such object, `addressed` turns them into the nearest that it has.

pub const ECHO: u16 = 0;
pub const ANSWER_64K: u16 = 1;
pub const NEVER_ANSWER: u16 = 2;
pub const KEEP: u16 = 3;
pub const CALL_KEPT: u16 = 4;
pub const DROP_KEPT: u16 = 5;
pub const OBJECT_AND_64K: u16 = 6;
pub const NEW_OBJECT: u16 = 7;
pub const ECHO_CAP: u16 = 8;
pub const KEPT_LATER: u16 = 9;
pub const ECHO_CAP_LATER: u16 = 10;
