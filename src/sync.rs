//! What threads share a cell by: of the standard library and crossbeam, or, where `interleavings.rs` tries out how threads
//! can interleave, of a model checker (loom or shuttle) that sees every step.

#[cfg(not(all(test, any(interleave = "loom", interleave = "shuttle"))))]
pub use real::*;

#[cfg(all(test, any(interleave = "loom", interleave = "shuttle")))]
pub use model::*;

#[cfg(not(all(test, any(interleave = "loom", interleave = "shuttle"))))]
mod real {
    pub use std::sync::{Mutex, MutexGuard, OnceLock, atomic};
    pub use std::thread;

    pub use crossbeam_channel as channel;
}

#[cfg(all(test, any(interleave = "loom", interleave = "shuttle")))]
mod model {
    #[cfg(interleave = "loom")]
    pub use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
    #[cfg(interleave = "shuttle")]
    pub use shuttle::{
        sync::{Condvar, Mutex, MutexGuard, atomic},
        thread,
    };

    pub mod channel;

    #[cfg(interleave = "loom")]
    pub mod thread {
        pub use loom::thread::*;

        /// The time may be over at once.
        pub fn park_timeout(_: std::time::Duration) {
            yield_now();
        }
    }

    use atomic::{AtomicBool, Ordering};

    /// As the standard library's, with a flag that the checker sees.
    pub struct OnceLock<T> {
        value: std::sync::OnceLock<T>,
        is_set: AtomicBool,
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self { value: std::sync::OnceLock::new(), is_set: AtomicBool::new(false) }
        }
    }

    impl<T> OnceLock<T> {
        pub fn get(&self) -> Option<&T> {
            if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
        }

        pub fn get_or_init(&self, value: impl FnOnce() -> T) -> &T {
            let value = self.value.get_or_init(value);
            self.is_set.store(true, Ordering::Release);
            value
        }
    }
}
