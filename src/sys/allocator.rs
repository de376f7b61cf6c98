//! Gives memory back to the system, and takes no more of it than is used.

/// Has large buffers allocated in pages of their own. The HTTP/2 engine gives every connection buffers of 4, 8 and 16 KiB,
/// of which a connection that waits has used a few hundred bytes: cut from a common heap they lie in memory that was used
/// before and is resident; alone, each costs the one page that it touched, and is gone when the connection is. To be called
/// before there are threads; nothing where the allocator is not glibc's.
pub fn keep_large_buffers_apart() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` changes two numbers of the allocator under its own lock (mallopt(3)); one that it refuses, it
    // leaves as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4096);
        libc::mallopt(libc::M_MMAP_MAX, 32_768); // the system's own limit on mappings is 65,530
    }
}

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
