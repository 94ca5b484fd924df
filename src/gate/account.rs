//! What several pools share: an account, its limits, and what was counted for it.

use std::fmt;
use std::sync::{Arc, PoisonError};

use crate::quota::RateLimit;
use crate::sync::{Mutex, MutexGuard};

use super::counted::Counted;

/// An account on a network that several pools publish through: they share its limits, and wait together when the
/// network throttles it.
///
/// Give clones of one account to the pools; two accounts of one name are a mistake.
///
/// ```
/// use punctual::{Account, RateLimit};
/// use std::time::Duration;
///
/// let app = Account::new("our-app").limit(RateLimit::rolling(200, Duration::from_secs(3_600)));
/// let (for_posts, for_stories) = (app.clone(), app);
/// ```
#[derive(Clone)]
pub struct Account(Arc<SharedAccount>);

struct SharedAccount {
    name: Box<str>,
    state: Mutex<AccountState>,
}

/// What all pools that share an account know of it.
#[derive(Default)]
pub struct AccountState {
    pub limits: Vec<RateLimit>,
    pub counted: Counted,
    /// Whether what an earlier process counted has been taken back.
    pub is_restored: bool,
}

impl Account {
    /// An account without limits. Its counts are remembered under this name, 1 to 255 bytes.
    pub fn new(name: impl Into<String>) -> Self {
        Self(Arc::new(SharedAccount { name: name.into().into_boxed_str(), state: Mutex::default() }))
    }

    /// One more limit, for all clones of this account.
    #[must_use]
    pub fn limit(self, limit: RateLimit) -> Self {
        self.lock().limits.push(limit);
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn limits(&self) -> Vec<RateLimit> {
        self.lock().limits.clone()
    }

    /// Whether both are the same account, not only of the same name.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, AccountState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("name", &self.name()).field("limits", &self.limits()).finish()
    }
}
