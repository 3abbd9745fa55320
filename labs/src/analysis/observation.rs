//! What an analysis sees, and what it says.

/// What an analysis says so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The canary is not worse than stable by an effect that matters.
    Promote,
    /// The canary is worse than stable.
    RollBack,
    /// Not enough yet.
    Continue {
        /// About how many more requests it takes if things go on as they did; `None` where nothing points
        /// to either decision yet.
        more: Option<u64>,
    },
}

/// Requests to one version, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All requests.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
}

impl Counts {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, failures: self.failures + other.failures }
    }
}

/// Requests that were sent while the canary had one share of the traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Requests {
    /// The probability with which the router sends a request to the canary: its weight, or its share of the
    /// endpoints. Not the measured share.
    pub share: f64,
    /// Requests to the canary.
    pub canary: Counts,
    /// Requests to stable.
    pub stable: Counts,
}
