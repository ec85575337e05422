//! The buffers of a worker thread: an idle connection owns none.
//!
//! Hot path. A buffer is lent for the length of a closure, so it can't be held across an await.

use std::cell::RefCell;

/// Bytes that one read takes at most.
const SCRATCH: usize = 16 * 1024;
/// An output buffer that grew beyond this is given back.
const KEEP: usize = 64 * 1024;

thread_local! {
    static INPUT: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    static OUTPUT: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SCRATCH));
}

/// Lends the thread's input buffer.
#[inline]
pub fn with_scratch<R>(with: impl FnOnce(&mut [u8]) -> R) -> R {
    INPUT.with(|cell| match cell.try_borrow_mut() {
        Ok(mut buffer) => with(&mut buffer),
        // Only a nested loan comes here; it works, at the cost of an allocation.
        Err(_) => with(&mut vec![0; SCRATCH]),
    })
}

/// Lends the thread's output buffer, empty.
#[inline]
pub fn with_output<R>(with: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    OUTPUT.with(|cell| match cell.try_borrow_mut() {
        Ok(mut buffer) => {
            buffer.clear();
            let result = with(&mut buffer);
            if buffer.capacity() > KEEP {
                *buffer = Vec::with_capacity(SCRATCH);
            }
            result
        }
        Err(_) => with(&mut Vec::new()),
    })
}
