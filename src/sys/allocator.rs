//! Settings of the C allocator that keep resident memory small.

/// Makes the allocator place buffers of 4 KiB and more in mappings of their own (`M_MMAP_THRESHOLD`).
///
/// The HTTP/2 library allocates buffers of 4, 8 and 16 KiB per connection, of which an idle connection has used a few
/// hundred bytes. On the heap they lie in pages that are already resident. In a mapping of its own, a buffer costs only
/// the pages that it has touched, and `free` returns them. Call it before the first thread starts; without glibc it
/// does nothing.
pub fn keep_large_buffers_apart() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` changes two parameters of the allocator under its own lock (mallopt(3)), and leaves a parameter
    // unchanged when it refuses the value.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4096);
        libc::mallopt(libc::M_MMAP_MAX, 32_768); // Linux allows 65,530 mappings (vm.max_map_count)
    }
}

/// Returns free pages of the C allocator's heaps to the kernel; otherwise they stay resident after a burst of
/// connections. Takes some milliseconds; without glibc it does nothing.
pub fn return_free_pages() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes the allocator's own locks, touches free chunks only, and is safe in every thread
    // (malloc_trim(3): MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}
