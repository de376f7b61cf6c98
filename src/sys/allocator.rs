//! Gives memory back to the system.

/// Returns free pages of the C allocator's heaps to the system: what a burst of connections leaves behind otherwise stays
/// with the daemon. Takes some milliseconds; nothing where the allocator is not glibc's.
pub fn return_free_pages() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes the allocator's own locks, touches free chunks only, and is safe in every thread
    // (malloc_trim(3): MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}
