//! Under which key the counts of a scope are remembered.

use bytes::Bytes;

use crate::quota::Scope;

const KEY: u8 = b'L';

/// Whether a key of what is remembered belongs to a gate at all.
pub fn is_key(key: &[u8]) -> bool {
    key.first() == Some(&KEY)
}

/// The first byte of every key, the scope, and each name with its length (u16 LE) before it.
pub fn key(scope: Scope, names: &[&str]) -> Bytes {
    let mut key = vec![KEY, scope_byte(scope)];
    for name in names {
        let name = &name.as_bytes()[..name.len().min(u16::MAX.into())];
        key.extend_from_slice(&(name.len() as u16).to_le_bytes());
        key.extend_from_slice(name);
    }
    key.into()
}

/// What [`key`] was made of.
pub fn scope_and_names(key: &[u8]) -> Option<(Scope, Vec<&str>)> {
    let (head, mut rest) = key.split_first_chunk::<2>()?;
    let scopes = [Scope::Profile, Scope::Pool, Scope::Account];
    let scope = scopes.into_iter().find(|scope| *head == [KEY, scope_byte(*scope)])?;
    let mut names = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk() {
        let (name, after) = after.split_at_checked(u16::from_le_bytes(*len).into())?;
        names.push(std::str::from_utf8(name).ok()?);
        rest = after;
    }
    rest.is_empty().then_some((scope, names))
}

fn scope_byte(scope: Scope) -> u8 {
    match scope {
        Scope::Profile => 0,
        Scope::Pool => 1,
        Scope::Account => 2,
    }
}
