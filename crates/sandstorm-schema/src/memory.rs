//! The C library's heap, in processes that are idle most of the time and sometimes carry bodies.
//!
//! Left alone, the heap's end is given back to the kernel and taken again with nearly every chunk
//! of a body, page by page; and what is not given back stays for as long as the process idles.

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
