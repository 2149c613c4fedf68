//! Memory of processes that are idle most of the time, many beside each other, and sometimes carry
//! bodies.
//!
//! Left alone, the C library's heap has its end given back to the kernel and taken again with nearly
//! every chunk of a body, page by page; and what is not given back stays for as long as the process
//! idles. So does the code that only the start needed.
#![allow(unsafe_code)]

/// Bytes of free memory that are kept while there is work: a window of a body each way.
#[cfg(target_env = "gnu")]
const ROOM: libc::c_int = 1 << 20;

/// Keeps freed memory at hand. To be called once, at the start.
pub fn keep_room() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets a number of the allocator's own, under its own lock.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, ROOM);
    }
}

/// Gives all free memory back. To be called when the process falls idle.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator gives back pages that nothing in use lies on, under its own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

unsafe extern "C" {
    // The linker's own marks: the first byte of the program's image and the first after its code.
    safe static __executable_start: u8;
    safe static etext: u8;
}

/// Lets go of the program's own code and constants, most of which only a start needs (dynamic
/// relocation, the C library's choices for this processor, the runtime's set-up).
///
/// What is used again is found again in the page cache, in the file that all its processes share.
/// The program's file must lie where nobody changes it.
pub fn forget_code() {
    // Every page size that Linux has on x86-64 and aarch64 divides this; madvise refuses a start
    // that is not at a page's beginning.
    const PAGE: usize = 1 << 16;
    let start = (&raw const __executable_start as usize).next_multiple_of(PAGE);
    let end = (&raw const etext as usize) / PAGE * PAGE;
    if let Some(length) = end.checked_sub(start) {
        // SAFETY: between these marks are only read-only private mappings of the program's file,
        // never written (relocated data lies behind the code), so a page that is dropped comes back
        // with the same bytes. A failure leaves all as it was.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of this program's code that are in its memory.
    fn resident_code() -> u64 {
        let (mut ours, mut bytes) = (false, 0);
        let own = std::env::current_exe().unwrap();
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words[..] {
                [_, mode, _, _, _, path] => ours = mode == "r-xp" && own.as_os_str() == path,
                ["Rss:", kib, "kB"] if ours => bytes += kib.parse::<u64>().unwrap() * 1024,
                _ => {}
            }
        }
        bytes
    }

    #[test]
    fn code_that_is_forgotten_is_out_of_memory_and_comes_back() {
        let before = resident_code();
        forget_code();
        let after = resident_code();
        assert!(after < before, "{before} bytes before, {after} after");
    }
}
