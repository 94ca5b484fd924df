//! What every store promises, put to the test for each of them.

/// Each of these promises, for each store.
macro_rules! promises {
    ($($name:ident)*) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&mut super::Bed::memory()); })*
        }
        mod sled {
            $(#[test] fn $name() { super::$name(&mut super::Bed::sled(super::Sizes::default())); })*
        }
        mod sled_with_tiny_generations {
            $(#[test] fn $name() { super::$name(&mut super::Bed::sled(super::tiny())); })*
        }
    };
}

mod bed;
mod changes;
mod claims;
mod forgetting;
mod keys;
mod loading;
mod remembering;
mod twins;
