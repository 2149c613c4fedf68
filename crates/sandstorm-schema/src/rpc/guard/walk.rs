//! Walks every pointer of a received message before anybody reads it.
//!
//! Trust: the words are a peer's. What passes can be read and copied without any traversal
//! counter: nothing is counted twice beyond a factor of two, no list claims elements that take no
//! room, no pointer leads out of its segment. A counter would be worse than none, since one that
//! runs dry inside capnp-rpc makes it panic.

use capnp::Word;

use super::Violation;
use crate::rpc::link::Frame;

/// capnp's readers stop at 64; pointers that they cannot reach are not our business.
const DEPTH: u32 = 66;

/// Elements of size zero in all lists of one message together: they cost nothing to send.
const EMPTY_ELEMENTS: u64 = 64 * 1024;

/// Pointers that share what they point at are not valid, but some encoders do it.
const SHARING: u64 = 2;

/// Checks the whole message; how many pointers it has, which is what it costs to copy.
///
/// # Errors
/// [`Violation::Malformed`] with what is wrong.
pub fn walk(frame: &Frame) -> Result<u32, Violation> {
    let words = frame.bytes() as u64 / 8;
    let mut walker =
        Walker { frame, words: words * SHARING + 1024, empty: EMPTY_ELEMENTS, seen: 0 };
    walker.pointer(0, 0, DEPTH).map_err(Violation::Malformed)?;
    Ok(walker.seen)
}

struct Walker<'a> {
    frame: &'a Frame,
    /// Words that may still be visited.
    words: u64,
    empty: u64,
    /// Pointers that were followed.
    seen: u32,
}

type Wrong = &'static str;

/// A pointer after its far pointers were followed.
struct Target {
    /// The pointer's word: kind and sizes.
    word: u64,
    segment: usize,
    /// Where the object begins, in words.
    start: i64,
}

impl Walker<'_> {
    fn word(&self, segment: usize, at: i64) -> Result<u64, Wrong> {
        let words = self.frame.segment(segment).ok_or("pointer to a segment that is not there")?;
        let at = usize::try_from(at).map_err(|_| "pointer before its segment")?;
        let word = words.get(at).ok_or("pointer past the end of its segment")?;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(Word::words_to_bytes(std::slice::from_ref(word)));
        Ok(u64::from_le_bytes(bytes))
    }

    fn pointer(&mut self, segment: usize, at: i64, depth: u32) -> Result<(), Wrong> {
        let word = self.word(segment, at)?;
        if word == 0 {
            return Ok(());
        }
        self.seen = self.seen.saturating_add(1);
        let target = self.follow(word, segment, at)?;
        // For objects that take no room, too.
        self.reach(target.segment, target.start, 0)?;
        match target.word & 3 {
            0 => self.object(&target, depth),
            1 => self.list(&target, depth),
            // Only capabilities have pointers of the last kind.
            3 if target.word as u32 == 3 => Ok(()),
            _ => Err("pointer of an unknown kind"),
        }
    }

    fn follow(&mut self, word: u64, segment: usize, at: i64) -> Result<Target, Wrong> {
        if word & 3 != 2 {
            return Ok(Target { word, segment, start: at + 1 + offset(word) });
        }
        let (pad_segment, pad) = far(word);
        let landing = self.word(pad_segment, pad)?;
        self.spend(1)?;
        if word & 4 == 0 {
            if landing & 3 == 2 {
                return Err("far pointer to a far pointer");
            }
            let start = pad + 1 + offset(landing);
            return Ok(Target { word: landing, segment: pad_segment, start });
        }
        if landing & 7 != 2 {
            return Err("double far pointer without its landing pad");
        }
        let (segment, start) = far(landing);
        let tag = self.word(pad_segment, pad + 1)?;
        if tag & 3 == 2 {
            return Err("double far pointer to a far pointer");
        }
        Ok(Target { word: tag, segment, start })
    }

    fn object(&mut self, target: &Target, depth: u32) -> Result<(), Wrong> {
        let (data, pointers) = sizes(target.word);
        self.reach(target.segment, target.start, data + pointers)?;
        self.spend(data + pointers)?;
        if depth == 0 {
            return Ok(());
        }
        for i in 0..pointers {
            self.pointer(target.segment, target.start + (data + i) as i64, depth - 1)?;
        }
        Ok(())
    }

    fn list(&mut self, target: &Target, depth: u32) -> Result<(), Wrong> {
        let count = target.word >> 35;
        let bits = match (target.word >> 32) & 7 {
            0 => return self.spend_empty(count),
            1 => 1,
            2 => 8,
            3 => 16,
            4 => 32,
            5 | 6 => 64,
            _ => return self.composite(target, count, depth),
        };
        let words = (count * bits).div_ceil(64);
        self.reach(target.segment, target.start, words)?;
        self.spend(words)?;
        if (target.word >> 32) & 7 == 6 && depth > 0 {
            for i in 0..count {
                self.pointer(target.segment, target.start + i as i64, depth - 1)?;
            }
        }
        Ok(())
    }

    fn composite(&mut self, target: &Target, words: u64, depth: u32) -> Result<(), Wrong> {
        self.reach(target.segment, target.start, words + 1)?;
        self.spend(words + 1)?;
        let tag = self.word(target.segment, target.start)?;
        if tag & 3 != 0 {
            return Err("list of something that is no structure");
        }
        let count = u64::from(tag as u32 >> 2);
        let (data, pointers) = sizes(tag);
        let each = data + pointers;
        if each * count > words {
            return Err("list whose elements do not fit in it");
        }
        if each == 0 {
            return self.spend_empty(count);
        }
        if pointers == 0 || depth == 0 {
            return Ok(());
        }
        for i in 0..count {
            let first = target.start + (1 + i * each + data) as i64;
            for p in 0..pointers {
                self.pointer(target.segment, first + p as i64, depth - 1)?;
            }
        }
        Ok(())
    }

    /// `words` from `start` on lie in the segment.
    fn reach(&self, segment: usize, start: i64, words: u64) -> Result<(), Wrong> {
        let length = self.frame.segment(segment).ok_or("object in no segment")?.len() as i64;
        if start < 0 || start > length || words > (length - start) as u64 {
            return Err("object past the end of its segment");
        }
        Ok(())
    }

    fn spend(&mut self, words: u64) -> Result<(), Wrong> {
        self.words =
            self.words.checked_sub(words.max(1)).ok_or("parts that are used many times")?;
        Ok(())
    }

    fn spend_empty(&mut self, elements: u64) -> Result<(), Wrong> {
        self.empty = self.empty.checked_sub(elements).ok_or("list of very many empty elements")?;
        self.spend(1)
    }
}

/// The signed offset of a structure or list pointer, in words.
fn offset(word: u64) -> i64 {
    i64::from(word as u32 as i32 >> 2)
}

fn far(word: u64) -> (usize, i64) {
    ((word >> 32) as usize, i64::from(word as u32 >> 3))
}

/// Data words and pointers of a structure.
fn sizes(word: u64) -> (u64, u64) {
    ((word >> 32) & 0xffff, word >> 48)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package_capnp::manifest;
    use crate::web_session_capnp::web_session;
    use capnp::message::{AllocationStrategy, Builder, HeapAllocator, Reader, ReaderOptions};
    use proptest::prelude::*;

    fn frame(words: &[u64]) -> Frame {
        let mut out = capnp::Word::allocate_zeroed_vec(words.len());
        let bytes = Word::words_to_bytes_mut(&mut out);
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        Frame::from_words(out)
    }

    fn of(message: &Builder<HeapAllocator>) -> Frame {
        let bytes = capnp::serialize::write_message_to_words(message);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut reader = crate::rpc::link::FrameReader::new(&bytes[..], 1 << 26, None);
        runtime.block_on(reader.next()).unwrap().unwrap()
    }

    fn wrong(words: &[u64]) -> &'static str {
        match walk(&frame(words)) {
            Err(Violation::Malformed(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    fn object(offset: i32, data: u64, pointers: u64) -> u64 {
        u64::from((offset << 2) as u32) | data << 32 | pointers << 48
    }

    fn list(offset: i32, size: u64, count: u64) -> u64 {
        u64::from((offset << 2) as u32) | 1 | size << 32 | count << 35
    }

    #[test]
    fn honest_messages_pass_in_one_segment_or_in_many() {
        let one = HeapAllocator::new();
        let many = HeapAllocator::new()
            .first_segment_words(1)
            .allocation_strategy(AllocationStrategy::FixedSize);
        for allocator in [one, many] {
            let mut message = Builder::new(allocator);
            let mut root = message.init_root::<manifest::Builder<'_>>();
            root.reborrow().init_app_title().set_default_text("A title");
            let mut actions = root.init_actions(20);
            for i in 0..20 {
                let mut action = actions.reborrow().get(i);
                action.reborrow().init_noun_phrase().set_default_text("text".repeat(i as usize));
                let mut argv = action.init_command().init_argv(i);
                (0..i).for_each(|a| argv.set(a, "--argument"));
            }
            walk(&of(&message)).unwrap();
        }
        let mut message = Builder::new_default();
        let mut content = message.init_root::<web_session::response::Builder<'_>>().init_content();
        content.set_mime_type("text/plain");
        content.get_body().set_bytes(&[7; 100_000]);
        walk(&of(&message)).unwrap();
    }

    #[test]
    fn faults_are_named_and_their_twins_pass() {
        assert!(walk(&frame(&[])).is_err());
        assert!(walk(&frame(&[0])).is_ok());
        assert!(walk(&frame(&[object(0, 1, 0), 9])).is_ok());
        assert!(wrong(&[object(0, 2, 0), 9]).contains("past the end"));
        assert!(wrong(&[object(-2, 1, 0), 9]).contains("past the end"));
        assert!(walk(&frame(&[list(0, 2, 8), 9])).is_ok());
        assert!(wrong(&[list(0, 2, 9), 9]).contains("past the end"));
        assert!(walk(&frame(&[3])).is_ok());
        assert!(wrong(&[7, 0]).contains("unknown kind"));
        // A list of empty elements, in both of its forms.
        assert!(walk(&frame(&[list(0, 0, 60_000)])).is_ok());
        assert!(wrong(&[list(0, 0, 70_000)]).contains("empty elements"));
        let tag = |count: u64| count << 2;
        assert!(walk(&frame(&[list(0, 7, 0), tag(60_000)])).is_ok());
        assert!(wrong(&[list(0, 7, 0), tag(8_000_000)]).contains("empty elements"));
        assert!(wrong(&[list(0, 7, 1), tag(2) | 1 << 32, 0]).contains("do not fit"));
        assert!(wrong(&[list(0, 7, 1), tag(1) | 1, 0]).contains("no structure"));
        // Far pointers: to nowhere, to another far pointer, without a pad.
        assert!(wrong(&[2 | 1 << 32]).contains("not there"));
        assert!(wrong(&[2 | 1 << 3, 2]).contains("far pointer to a far"));
        assert!(wrong(&[6 | 1 << 3, 0, 0]).contains("landing pad"));
        assert!(walk(&frame(&[2 | 1 << 3, object(0, 1, 0), 9])).is_ok());
    }

    #[test]
    fn a_few_words_cannot_stand_for_many() {
        // 20 levels, each with two pointers to the next one: a million visits.
        let mut words = vec![object(0, 0, 2)];
        for _ in 0..20 {
            words.extend([object(1, 0, 2), object(0, 0, 2)]);
        }
        words.extend([0, 0]);
        assert!(wrong(&words).contains("many times"));
        // A structure that contains itself.
        assert!(walk(&frame(&[object(-1, 0, 1)])).is_ok(), "cut off by depth, as by any reader");
        assert!(wrong(&[object(0, 0, 2), object(-2, 0, 2), object(-3, 0, 2)]).contains("many"));
    }

    #[test]
    fn depth_beyond_every_reader_is_not_walked() {
        let mut words = vec![object(0, 0, 1); 100_000];
        words.push(0);
        walk(&frame(&words)).unwrap();
        let frame = frame(&words);
        let reader = Reader::new(frame, ReaderOptions::new());
        let root: capnp::any_pointer::Reader<'_> = reader.get_root().unwrap();
        assert!(root.target_size().is_err());
    }

    proptest! {
        // What passes here can be measured by capnp without its counter, unless it is too deep.
        #[test]
        fn agrees_with_capnp(words in prop::collection::vec(
            prop_oneof![Just(0u64), any::<u64>(),
                (-3i32..4, 0u64..3, 0u64..3).prop_map(|(o, d, p)| object(o, d, p)),
                (-3i32..4, 0u64..8, 0u64..20).prop_map(|(o, s, c)| list(o, s, c)),
                (0u64..8, 0u64..2).prop_map(|(at, double)| 2 | double << 2 | at << 3),
                Just(3u64)], 1..24)) {
            let f = frame(&words);
            let ours = walk(&f);
            let mut options = ReaderOptions::new();
            options.traversal_limit_in_words(Some(1 << 20));
            let reader = Reader::new(f, options);
            let root: capnp::any_pointer::Reader<'_> = reader.get_root().unwrap();
            let theirs = root.target_size();
            if let (Ok(_), Err(e)) = (&ours, &theirs) {
                prop_assert!(matches!(e.kind, capnp::ErrorKind::MessageIsTooDeeplyNested), "{e:?}");
            }
            if let (Ok(_), Ok(size)) = (&ours, &theirs) {
                prop_assert!(size.word_count <= 2 * words.len() as u64 + 1024 + EMPTY_ELEMENTS);
            }
        }
    }
}
